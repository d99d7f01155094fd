"""Fetch: reads the program from memory ahead of its use, and checks it as it arrives."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..bus.axi import AxiRead, ReadId, is_error
from ..config import ChipConfig
from ..isa import INDEX_WIDTH, INSTRUCTION_BYTES, INSTRUCTIONS, ErrorCode
from ..lib.delay import delay
from .check import Check, Verdict
from .unit import ErrorReport, Window

__all__ = ["BUFFERED", "BURST", "Fetch", "Fetched"]

#: Instructions that the buffer holds; room is reserved before they are asked for.
BUFFERED = 16
#: Instructions per burst: 256 bytes, aligned to them, so that no burst crosses a 4 KiB page.
BURST = 4
PAGE_BITS = 12
INSTRUCTION_BITS = 6


class Fetched(data.Struct):
    """One instruction and what the check found; `to` has the bit of the unit that it is for, if it is good."""
    bits: 8 * INSTRUCTION_BYTES
    verdict: Verdict
    to: len(INSTRUCTIONS)


class Fetch(wiring.Component):
    """Reads `count` instructions from `program` with bursts of up to :data:`BURST`, in order.

    Bursts are asked for whenever the buffer has :data:`BURST` free places: up to 4 are in flight,
    enough to keep up one instruction every 10 cycles with a memory latency of 100. `r` is always
    ready. An error waits until every instruction before it has gone through `o`.

    Latency: `start` to `ar.valid` 3 cycles; last beat of an instruction to `o.valid` 8 cycles.
    Throughput: a beat each cycle in, an instruction every 3 cycles out.

    Errors: FIELD for a program that is not aligned to 64 bytes, WINDOW and BUS_READ.

    Members
    -------
    start : In(1)
        Begin; only while `quiet`.
    program : In(64), count : In(24), window : In(Window)
        Must not change while fetching.
    bus : Out(AxiRead)
    o : Out(stream.Signature(Fetched))
    index : Out(24)
        Index of the instruction on `o`, or of the next to appear there.
    error : Out(ErrorReport)
    abort : In(1)
        Ask for nothing more, drop everything, and wait for what has been asked.
    quiet : Out(1)
        Nothing asked for that has not come.
    progress : Out(1)
        The bus moved.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        self._beats = INSTRUCTION_BYTES // config.bus_bytes
        super().__init__({
            "start": In(1),
            "program": In(64),
            "count": In(INDEX_WIDTH),
            "window": In(Window(config)),
            "bus": Out(AxiRead(config)),
            "o": Out(stream.Signature(Fetched)),
            "index": Out(INDEX_WIDTH),
            "error": Out(ErrorReport),
            "abort": In(1),
            "quiet": Out(1),
            "progress": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        failed = Signal()
        popped = Signal()
        asked = Signal(range(BURST + 1))
        m.d.comb += [
            popped.eq(self.o.valid & self.o.ready),
            self.progress.eq((self.bus.ar.valid & self.bus.ar.ready) | (self.bus.r.valid & self.bus.r.ready)),
        ]
        with m.If(self.start | self.abort):
            m.d.sync += failed.eq(0)
        with m.If(self.start):
            m.d.sync += self.index.eq(0)
        with m.Elif(popped):
            m.d.sync += self.index.eq(self.index + 1)
        # The issue queues are ready late, and far away.
        gone = Signal()
        m.d.sync += gone.eq(popped & ~self.start & ~self.abort)
        self._elaborate_ask(m, failed, gone, asked)
        self._elaborate_receive(m, failed, asked, popped, gone)
        due = Signal()
        m.d.sync += due.eq(failed & (self.error.index == self.index) & ~self.start & ~self.abort)
        m.d.comb += self.error.valid.eq(due)
        return m

    def _fail(self, m, failed, code, index, address):
        m.d.sync += [failed.eq(1), self.error.code.eq(code), self.error.index.eq(index),
                     self.error.address.eq(address)]

    def _elaborate_ask(self, m, failed, gone, asked):
        """Ask for bursts as the buffer has room; `asked` is their length, a cycle before they are on the bus."""
        width = self._config.address_width
        ar = self.bus.ar
        # One bit more than an address, so that a program that runs over the top is outside the window.
        address = Signal(width + 1)
        index, left = Signal(INDEX_WIDTH), Signal(INDEX_WIDTH)
        free = Signal(range(BUFFERED + 1))
        length = Signal(range(BURST + 1))
        too_low, too_high = Signal(), Signal()
        to_boundary = BURST - address[INSTRUCTION_BITS:INSTRUCTION_BITS + 2]
        page = address[PAGE_BITS:]
        m.d.comb += [
            ar.p.address.eq(address),
            ar.p.length.eq(length * self._beats - 1),
            ar.p.id.eq(ReadId.FETCH),
        ]
        # The host has written these long before it starts.
        none, unaligned, beyond = Signal(), Signal(), Signal()
        m.d.sync += [none.eq(self.count == 0), unaligned.eq(self.program[:INSTRUCTION_BITS] != 0),
                     beyond.eq(self.program[width:] != 0)]
        with m.If(self.start):
            m.d.sync += free.eq(BUFFERED)
        with m.Else():
            m.d.sync += free.eq(free - asked + gone)
        with m.FSM(name="ask"):
            with m.State("IDLE"):
                m.d.sync += [address.eq(self.program[:width]), index.eq(0), left.eq(self.count)]
                with m.If(self.start & ~none):
                    m.next = "PLAN"
                    with m.If(unaligned):
                        self._fail(m, failed, ErrorCode.FIELD, 0, self.program)
                        m.next = "IDLE"
                    with m.Elif(beyond):
                        self._fail(m, failed, ErrorCode.WINDOW, 0, self.program)
                        m.next = "IDLE"
            with m.State("PLAN"):
                m.d.sync += [
                    length.eq(Mux(left < to_boundary, left, to_boundary)),
                    too_low.eq(page < self.window.first),
                    too_high.eq(page > self.window.last),
                ]
                with m.If(self.abort | failed | (left == 0)):
                    m.next = "IDLE"
                with m.Elif(free >= BURST):
                    m.next = "VERIFY"
            with m.State("VERIFY"):
                with m.If(self.abort | failed):
                    m.next = "IDLE"
                with m.Elif(too_low | too_high):
                    self._fail(m, failed, ErrorCode.WINDOW, index, address)
                    m.next = "IDLE"
                with m.Else():
                    m.d.comb += asked.eq(length)
                    m.d.sync += ar.valid.eq(1)
                    m.next = "ASK"
            with m.State("ASK"):
                with m.If(ar.ready):
                    m.d.sync += [
                        ar.valid.eq(0),
                        address.eq(address + (length << INSTRUCTION_BITS)),
                        index.eq(index + length),
                        left.eq(left - length),
                    ]
                    m.next = "PLAN"

    def _elaborate_receive(self, m, failed, asked, popped, gone):
        """Put beats in their places, and offer an instruction when the check is through with it."""
        r = self.bus.r
        owed = Signal(range(BUFFERED * self._beats + 1))
        place = Signal(range(self._beats))
        slot = Signal(range(BUFFERED))
        index = Signal(INDEX_WIDTH)
        address = Signal(self._config.address_width - INSTRUCTION_BITS)
        in_first_burst = Signal()
        taken = Signal()
        ends = taken & (place == self._beats - 1)
        bad = is_error(r.p.resp)
        m.d.comb += [
            r.ready.eq(1),
            taken.eq(r.valid & (owed != 0)),
            self.quiet.eq((owed == 0) & ~self.bus.ar.valid),
        ]
        m.d.sync += owed.eq(owed + asked * self._beats - taken)
        with m.If(self.start):
            m.d.sync += [place.eq(0), slot.eq(0), index.eq(0), in_first_burst.eq(1),
                         address.eq(self.program[INSTRUCTION_BITS:])]
        with m.Elif(taken):
            m.d.sync += place.eq(place + 1)
            with m.If(ends):
                m.d.sync += [slot.eq(slot + 1), index.eq(index + 1), address.eq(address + 1)]
                with m.If(address[:2] == BURST - 1):
                    m.d.sync += in_first_burst.eq(0)
        stopped = Signal()
        with m.If(self.start):
            m.d.sync += stopped.eq(0)
        with m.Elif(taken & bad & ~stopped):
            m.d.sync += stopped.eq(1)
        # A cycle late, for what a beat says is known late.
        wrong = delay(m, taken & bad & ~stopped, "wrong")
        burst = delay(m, Cat(Mux(in_first_burst, self.program[INSTRUCTION_BITS:INSTRUCTION_BITS + 2], 0),
                             address[2:]), "burst")
        index_then = delay(m, index, "index_then")
        with m.If(wrong):
            # It may overtake a WINDOW error of a later burst: that one has a higher index.
            self._fail(m, failed, ErrorCode.BUS_READ, index_then, burst << INSTRUCTION_BITS)
        self._elaborate_buffer(m, taken & ~stopped & ~bad, place, slot, popped, gone)

    def _elaborate_buffer(self, m, taken, place, slot, popped, gone):
        """One LUT memory per beat of an instruction, so that all its bits can be read at once."""
        config = self._config
        m.submodules.check = check = Check(config)
        beat = Signal(config.bus_width)
        beat_valid, beat_place, beat_slot = Signal(), Signal.like(place), Signal.like(slot)
        m.d.sync += [beat.eq(self.bus.r.p.data), beat_valid.eq(taken & ~self.abort),
                     beat_place.eq(place), beat_slot.eq(slot)]
        m.d.comb += [check.beat.eq(beat), check.beat_valid.eq(beat_valid), check.place.eq(beat_place),
                     check.clear.eq(self.abort)]
        head, tail = Signal.like(slot), Signal.like(slot)
        for number in range(self._beats):
            storage = Memory(shape=config.bus_width, depth=BUFFERED, init=[])
            m.submodules[f"beats_{number}"] = storage
            write, read = storage.write_port(), storage.read_port(domain="comb")
            m.d.comb += [write.addr.eq(beat_slot), write.data.eq(beat), read.addr.eq(head),
                         write.en.eq(beat_valid & (beat_place == number))]
            # Two registers, as for the verdict, which belongs to it: the issue queues are far away.
            bits = self.o.p.bits.word_select(number, config.bus_width)
            m.d.sync += bits.eq(delay(m, read.data, f"bits{number}"))
        m.submodules.verdicts = verdicts = Memory(shape=Verdict, depth=BUFFERED, init=[])
        write, read = verdicts.write_port(), verdicts.read_port(domain="comb")
        available = Signal(range(BUFFERED + 1))
        m.d.comb += [write.addr.eq(tail), write.data.eq(check.verdict), write.en.eq(check.valid),
                     read.addr.eq(head)]
        # What is read is offered two cycles after `head` has come to it.
        there = Signal()
        verdict = delay(m, read.data, "verdict")
        good = verdict.kind == Verdict.Kind.OKAY
        m.d.sync += [
            self.o.p.verdict.eq(verdict),
            self.o.p.to.eq(Cat(good & (verdict.unit == unit) for unit in INSTRUCTIONS)),
            there.eq((available != gone) & ~popped), self.o.valid.eq(there & ~popped),
            available.eq(available + check.valid - gone),
        ]
        with m.If(check.valid):
            m.d.sync += tail.eq(tail + 1)
        with m.If(popped):
            m.d.sync += head.eq(head + 1)
        with m.If(self.start | self.abort):
            m.d.sync += [head.eq(0), tail.eq(0), available.eq(0), there.eq(0), self.o.valid.eq(0)]
