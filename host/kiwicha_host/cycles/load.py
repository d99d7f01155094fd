"""LOAD: bursts from the read bus, lines to the scratchpad."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from kiwicha import ChipConfig
from kiwicha.timing import LINE_QUEUE, REALIGNER_ROWS, TRANSFERS_AHEAD

from .bus import ReadBus
from .events import Events
from .issue_queue import Instruction
from .spans import Spans
from .timing import MEASURED, Timing
from .transfer import Bursts, Transfer

__all__ = ["LoadModel"]


class _Progress:
    """How far a transfer is whose segments have not all been taken."""

    __slots__ = ("retire", "seen", "sent", "taken", "transfer")

    def __init__(self, transfer: Transfer, sent: int, retire: Callable[[int], None]):
        self.transfer, self.sent, self.retire = transfer, sent, retire
        self.seen = self.taken = 0      # bytes that have come, segments that have been taken


class LoadModel:
    """Implements :class:`.issue_queue.UnitModel`."""

    def __init__(self, events: Events, bus: ReadBus, config: ChipConfig, timing: Timing, writes: Spans,
                 reads: tuple[Spans, ...]):
        self._events, self._bus, self._config, self._timing = events, bus, config, timing
        self._writes, self._reads = writes, reads
        self._room = (REALIGNER_ROWS * max(config.line_bytes, config.bus_bytes)) - config.bus_bytes
        self.busy = 0
        self._bursts: Iterator[tuple[int, int, int, bool]] = iter(())
        self._current: _Progress | None = None                  # whose bursts are being emitted
        self._next: tuple[_Progress, int] | None = None         # the one after it, and when it was handed over
        self._pending: _Progress | None = None                  # the one that is to be handed over
        self._generator_free: int | None = 0                    # from when on it can be
        self._left = 0                                          # runs that the generator has still to visit
        self._offer_at = self._finish = self._next_issue = 0
        self._ready = 0                                         # the head takes an instruction
        self._free_address = 0
        self._flying: deque[int] = deque(maxlen=config.reads_in_flight)
        self._open: deque[_Progress] = deque()
        self._taken = -1                                        # when the last segment was taken
        self._came = 0                                          # bytes of all transfers so far
        # Bytes up to the end of a burst, and when the first and the last segment that it completed were taken.
        self._leaving: deque[tuple[int, int, int]] = deque()
        self._left_until, self._left_at = 0, -99                # of those bursts that are forgotten
        self._waiting: Callable[[int], None] | None = None
        self._blocked: Callable[[int], None] | None = None

    def offer(self, time: int, item: Instruction, accepted: Callable[[int], None],
              retire: Callable[[int], None]) -> None:
        if self._ready > time:
            self._events.at(self._ready, lambda t: self.offer(t, item, accepted, retire))
            return
        if self._ready < 0:
            self._waiting = lambda t: self.offer(t, item, accepted, retire)
            return
        accepted(time)
        transfer = Transfer.of(item.fields)
        self.busy += transfer.segments
        self._ready = -1
        self._events.at(transfer.handed_over(time, self._config, self._reads),
                        lambda t: self._send(t, transfer, retire))

    def _send(self, time: int, transfer: Transfer, retire: Callable[[int], None]) -> None:
        """Hand a transfer to both sides; whichever has no room is waited for."""
        if len(self._open) > TRANSFERS_AHEAD:
            self._blocked = lambda t: self._send(t, transfer, retire)
            return
        progress = _Progress(transfer, time, retire)
        self._open.append(progress)
        if transfer.fill_only:
            self._fill()
            self._set_ready(time + 1)
        else:
            self._pending = progress
            self._hand_over(time)

    def _set_ready(self, time: int) -> None:
        self._ready = time
        if self._waiting is not None:
            call, self._waiting = self._waiting, None
            self._events.at(time, call)

    def _hand_over(self, time: int) -> None:
        """Give the transfer that waits, if any, to the burst generator if that has no other to visit."""
        if self._pending is None or self._generator_free is None:
            return
        took = max(time, self._generator_free)
        self._next, self._pending, self._generator_free = (self._pending, took), None, None
        self._set_ready(took + 1)
        if self._current is None:
            self._start()

    def _start(self) -> None:
        assert self._next is not None
        self._current, took = self._next
        self._next = None
        transfer = self._current.transfer
        self._bursts = iter(Bursts(transfer, self._config.bus_bytes))
        self._left = transfer.runs * transfer.planes
        self._offer_at = max(max(took + 1, self._finish) + MEASURED["burst"] - 1, self._next_issue)
        self._emit_next()

    def _emit_next(self) -> None:
        """Emit bursts until somebody else may want the bus."""
        while True:
            burst = next(self._bursts, None)
            if burst is None:
                self._current = None
                if self._next is not None:
                    self._start()
                return
            size, beats, offset, first = burst
            if first:
                self._left -= 1
                if not self._left:
                    self._generator_free = self._offer_at - 1
                    self._hand_over(self._offer_at - 1)
            time = max(self._offer_at, self._free_address)
            if len(self._flying) == self._flying.maxlen:
                time = max(time, self._flying[0] + 2)
            # The generator is done when the burst waits to be issued, and looks at the next transfer meanwhile.
            self._finish = self._offer_at
            self._offer_at = self._next_issue = time + MEASURED["burst_period"]
            if not self._bus.alone(time + 1):
                self._events.at(time + 1, partial(self._ask, burst))
                return
            self._bus.took(time + 1)
            self._accepted(time + 1, size, beats, offset)

    def _ask(self, burst: tuple[int, int, int, bool], time: int) -> None:
        size, beats, offset, _ = burst

        def accepted(t: int) -> None:
            self._accepted(t, size, beats, offset)
            self._emit_next()
        self._bus.ask(time, False, accepted)

    def _accepted(self, time: int, size: int, beats: int, offset: int) -> None:
        """A burst's address was accepted: its beats, and the segments that they complete."""
        self._free_address = time + 1
        first = self._bus.first_beat(time)
        last = self._receive(first, size, beats, offset)
        self._bus.used_until(last)
        self._flying.append(last)

    def _receive(self, first: int, size: int, beats: int, offset: int) -> int:
        progress = self._current
        assert progress is not None
        transfer, bus = progress.transfer, self._config.bus_bytes
        last = first + beats - 1
        before = progress.seen
        progress.seen += size
        self._came += size
        complete = transfer.segments_in(progress.seen)
        many = complete - progress.taken
        if not many:
            return last
        base = before - offset

        def available(segment: int) -> int:
            return max(first, first + (transfer.end_of(segment) - base - 1) // bus) + self._timing.push
        begin = max(self._taken + 1, progress.sent + MEASURED["segment"], available(progress.taken + 1))
        self._taken = max(begin + many - 1, available(complete))
        progress.taken = complete
        self._leaving.append((self._came, begin, self._taken))
        last = max(last, self._left_by(self._came - self._room) + 4)
        if complete == transfer.segments:
            self._done(progress)
            self._fill()
        return last

    def _left_by(self, size: int) -> int:
        """When the first `size` bytes of all that ever came have left the realigner."""
        while len(self._leaving) > 1 and self._leaving[0][0] <= size:
            self._left_until, _, self._left_at = self._leaving.popleft()
        end, first, last = self._leaving[0]
        if size <= self._left_until:
            return self._left_at
        return first + (last - first + 1) * (size - self._left_until) // (end - self._left_until)

    def _fill(self) -> None:
        """Transfers without memory, whose turn it is."""
        while self._open and self._open[0].transfer.fill_only:
            progress = self._open[0]
            begin = max(self._taken + 1, progress.sent + MEASURED["segment"])
            self._taken = begin + progress.transfer.segments - 1
            self._done(progress)

    def _done(self, progress: _Progress) -> None:
        self._open.popleft()
        transfer = progress.transfer
        written = self._taken + self._timing.pop
        many = min(transfer.segments, LINE_QUEUE)
        written = self._writes.last_of(transfer.line(transfer.segments - 1) // self._config.bank_lines,
                                       written - many + 1, many)
        self._taken = max(self._taken, written - self._timing.pop - LINE_QUEUE)
        self._events.at(written + 1, progress.retire)
        if self._blocked is not None:
            call, self._blocked = self._blocked, None
            self._events.at(self._taken, call)
