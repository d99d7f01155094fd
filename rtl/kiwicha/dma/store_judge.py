"""STORE's verdict: what the answers of memory mean, and which error is the first."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..control.unit import ErrorReport
from ..isa import INDEX_WIDTH, ErrorCode
from ..lib.delay import delay
from .bursts import burst_layout
from .segments import segment_error, segment_layout

__all__ = ["Judge"]


class Judge(wiring.Component):
    """Retires instructions and finds the first error, in program order.

    Answers count only for the `whole` bursts, those that have had all their bytes: the others are finished by
    the flush after an error that comes before them in the program. Latency: 1 cycle from an answer to `retire`
    and `failing`.

    Members
    -------
    b_valid, b_error : In(1), answer : In(burst_layout())
        An answer comes, SLVERR or DECERR; whose.
    sent : In(1)
        One more burst is whole.
    beat_valid, beat_fail, enough : In(1)
        The next beat waits for its bytes; it is outside the window; the bytes before it have come.
    burst_index : In(24), fail_address : In(64)
        Of the burst that is outside the window: the generator stands there.
    fault : In(1), segment : In(segment_layout()), stop_index : In(24)
        The next segment has an error, and all bytes before it have come; which segment, of which instruction.
    bus_idle : In(1)
        Every burst has been answered.
    wrong_index : In(32)
        As :class:`.Transfer` has it, in a chip with `indices`.
    abort : In(1)
        Forget everything, and retire nothing.
    retire : Out(1)
    failing : Out(1)
        An error has been found.
    mute : Out(1)
        It is BUS_WRITE: beats that have their bytes come after it in the program too.
    error : Out(ErrorReport)
        It, when the bus is idle.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "b_valid": In(1), "b_error": In(1), "answer": In(burst_layout(config)), "sent": In(1),
            "beat_valid": In(1), "beat_fail": In(1), "enough": In(1),
            "burst_index": In(INDEX_WIDTH), "fail_address": In(64),
            "fault": In(1), "segment": In(segment_layout(config)), "stop_index": In(INDEX_WIDTH),
            "bus_idle": In(1), "abort": In(1),
            "retire": Out(1), "failing": Out(1), "mute": Out(1), "error": Out(ErrorReport),
            **({"wrong_index": In(32)} if config.indices else {}),
        })

    def elaborate(self, platform):
        m = Module()
        whole = Signal(range(self.config.writes_in_flight + 2))
        counts, wrong = Signal(), Signal()
        m.d.comb += [counts.eq(self.b_valid & (whole != 0) & ~self.abort), wrong.eq(counts & self.b_error)]
        m.d.sync += self.retire.eq(counts & ~self.b_error & self.answer.last)
        with m.If(self.abort | wrong):
            m.d.sync += whole.eq(0)
        with m.Else():
            m.d.sync += whole.eq(whole + self.sent - counts)
        with m.If(self.abort):
            m.d.sync += [self.failing.eq(0), self.mute.eq(0)]
        with m.Elif(wrong):
            m.d.sync += [self.failing.eq(1), self.mute.eq(1)]
        with m.Elif(self.beat_valid & ~self.failing):
            m.d.sync += self.failing.eq(Mux(self.enough, self.beat_fail, self.fault))
        # A burst may still be announced in the first cycle after an error.
        told = Signal()
        m.d.sync += told.eq(self.failing)
        with m.If(self.abort):
            m.d.sync += self.error.valid.eq(0)
        with m.Elif(self.failing & told & self.bus_idle):
            m.d.sync += self.error.valid.eq(1)
        self._explain(m, wrong, told)
        return m

    def _explain(self, m, wrong, told):
        """What would be the error, until a cycle after there is one; a BUS_WRITE error comes before the others."""
        error, segment = self.error, self.segment
        answered, enough = Signal(), Signal()
        answer = delay(m, self.answer, "answer_then")
        m.d.sync += [answered.eq(wrong), enough.eq(self.enough)]
        with m.If(answered):
            m.d.sync += [error.code.eq(ErrorCode.BUS_WRITE), error.index.eq(answer.index),
                         error.address.eq(answer.address)]
        with m.Elif(~told & enough):
            m.d.sync += [error.code.eq(ErrorCode.WINDOW), error.index.eq(self.burst_index),
                         error.address.eq(self.fail_address)]
        code, address = segment_error(segment, self.wrong_index if self.config.indices else None)
        with m.Elif(~told):
            m.d.sync += [error.code.eq(code), error.index.eq(self.stop_index), error.address.eq(address)]
