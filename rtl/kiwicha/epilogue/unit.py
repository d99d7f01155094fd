"""The epilogue: accumulators to results."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from ..config import READ_LATENCY, ChipConfig
from ..control.unit import UnitPort
from ..isa import Activity, Unit
from ..memory.ports import ReadPort, WritePort
from ..stream import Queue
from .assemble import Assemble
from .columns import ColumnSelect
from .datapath import Datapath
from .lane import Lane
from .prepare import Prepare
from .shapes import line_order, request_layout
from .walk import Walk

__all__ = ["EpilogueUnit"]

#: Lines that may be on their way between the read that completes one and its write. More than the cycles
#: between the two, so that a line can leave every cycle.
LINES_UNDER_WAY = 32


class EpilogueUnit(wiring.Component):
    """Runs EPILOGUE instructions (:data:`kiwicha.isa.EPILOGUE`) of a chip of `config`.

    One accumulator line is read per cycle, for each pixel `steps` = ceil(columns / lanes) times its window.
    From a line's last read to its write :attr:`latency` cycles pass. The next instruction is prepared
    meanwhile; if that is done in time, its first read comes two cycles after the last one of this.

    The datapath never stalls: a read starts only if the line that it belongs to is sure to find room at the
    other end. Errors are those of :class:`.prepare.Prepare` and :class:`.walk.Walk`; one is told when
    everything before it has been written.

    Members
    -------
    control : Out(UnitPort)
    acc : Out(ReadPort(columns * 32))
    params : Out(ReadPort(line))
    write : Out(WritePort(line))
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        super().__init__({
            "control": Out(UnitPort(Unit.EPILOGUE)),
            "acc": Out(ReadPort(32 * config.columns)),
            "params": Out(ReadPort(8 * config.line_bytes)),
            "write": Out(WritePort(8 * config.line_bytes)),
        })

    @property
    def latency(self) -> int:
        """Cycles from the acceptance of a line's last read to its write."""
        return READ_LATENCY + ColumnSelect(self._config).latency + Lane.OUT + Assemble.LATENCY + 1

    def elaborate(self, platform):
        m = Module()
        config, control = self._config, self.control
        clear = control.abort
        m.submodules.prepare = prepare = Prepare(config)
        m.submodules.walk = walk = Walk(config)
        m.submodules.requests = requests = Queue(request_layout(config), 2)
        m.submodules.orders = orders = Queue(line_order(), LINES_UNDER_WAY)
        m.submodules.lines = lines = Queue(8 * config.line_bytes, LINES_UNDER_WAY)
        m.submodules.datapath = datapath = Datapath(config)
        connect(m, flipped(control.i), prepare.i)
        connect(m, flipped(self.params), prepare.params)
        connect(m, prepare.o, walk.i)
        connect(m, walk.requests, requests.i)
        # A cycle late, hence one place less.
        m.d.sync += walk.orders.ready.eq(orders.level < LINES_UNDER_WAY - 1)
        m.d.comb += [orders.i.valid.eq(walk.orders.valid), orders.i.payload.eq(walk.orders.payload)]
        read = Signal()
        m.d.comb += [
            self.acc.request.valid.eq(requests.o.valid),
            self.acc.request.payload.eq(requests.o.p.address),
            requests.o.ready.eq(self.acc.request.ready),
            read.eq(requests.o.valid & self.acc.request.ready),
            datapath.read.eq(read),
            datapath.tag.eq(requests.o.p.tag),
            datapath.line.eq(self.acc.data),
            # There is always room: a line has its order before its reads are made.
            lines.i.valid.eq(datapath.done),
            lines.i.payload.eq(datapath.result),
            prepare.hold.eq(walk.failed),
            prepare.free.eq(control.retire),
            *(part.clear.eq(clear) for part in (prepare, walk, requests, orders, lines)),
        ]
        for name in ("set", "settings", "settings_enable", "bias", "bias_line", "bias_enable",
                     "scale", "scale_line", "scale_enable"):
            m.d.comb += getattr(datapath, name).eq(getattr(prepare, name))
        written = self._write(m, orders, lines, clear)
        empty = datapath.idle & (orders.level == 0) & (requests.level == 0) & ~walk.pending
        self._report(m, prepare, walk, empty, read, written)
        return m

    def _write(self, m, orders, lines, clear):
        """Lines leave in order, each to where its order says; says when one does."""
        request, control = self.write.request, self.control
        written = Signal()
        m.d.comb += [
            request.valid.eq(lines.o.valid & ~clear),
            request.p.address.eq(orders.o.p.address),
            request.p.data.eq(lines.o.payload),
            written.eq(request.valid & request.ready),
            lines.o.ready.eq(written),
            orders.o.ready.eq(written),
        ]
        # The line is in place in the cycle after its acceptance.
        m.d.sync += control.retire.eq(written & orders.o.p.last)
        return written

    def _report(self, m, prepare, walk, empty, read, written):
        control = self.control
        idle = empty & prepare.idle & ~walk.busy & ~walk.failed
        m.d.comb += [
            control.quiet.eq(idle),
            control.error.code.eq(walk.code),
            control.error.index.eq(walk.index),
            control.error.address.eq(walk.address),
            control.progress.eq(read | written | control.retire
                                | (control.i.valid & control.i.ready)
                                | (self.params.request.valid & self.params.request.ready)),
        ]
        # Not before everything ahead of it has been written, and its end been told.
        m.d.sync += control.error.valid.eq(walk.failed & empty & ~control.retire & ~control.abort)
        waits = self.acc.request.valid | (self.params.request.valid & ~self.params.request.ready & ~walk.busy)
        with m.If(read):
            m.d.comb += control.activity.eq(Activity.BUSY)
        with m.Elif(waits):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Elif(walk.busy & ~walk.orders.ready):
            m.d.comb += control.activity.eq(Activity.QUEUE)
        with m.Elif(prepare.busy | walk.busy):
            m.d.comb += control.activity.eq(Activity.OPERAND)
        with m.Elif(~idle):
            m.d.comb += control.activity.eq(Activity.DRAIN)
