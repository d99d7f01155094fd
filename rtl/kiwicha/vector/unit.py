"""The vector unit: accumulators and lines of the scratchpad to results."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from .. import timing
from ..config import ChipConfig
from ..control.unit import UnitPort
from ..isa import TOP_MOST, Activity, Unit
from ..lib.stream import Queue
from ..memory.ports import LINE_ADDRESS, ReadPort, WritePort
from .address_generator import AddressGenerator
from .datapath import MAX_TOP, Datapath
from .operand_fetch import OperandFetch
from .parameter_fetch import ParameterFetch
from .shapes import Geometry, line_order, request_layout

__all__ = ["VectorUnit"]

#: Lines that may be on their way between the read that completes one and its write. More than the cycles
#: between the two, so that a line can leave every cycle.
LINES_UNDER_WAY = 32
#: The same of lines of dynamic scales, which are far fewer.
SCALES_UNDER_WAY = 16


class VectorUnit(wiring.Component):
    """Runs VECTOR instructions (:data:`kiwicha.isa.VECTOR`) of a chip of `config`.

    One line of operand A is read per cycle, for each pixel `steps` = ceil(columns / lanes) times its window; with
    a function of each result, or for the largest of a row, a step's takes a cycle for each lane. After a row of
    which the largest are taken, :func:`~kiwicha.timing.row_top_gap` cycles pass to the first read of the next.
    Lines of the scratchpad are fetched ahead, one per cycle, and without a window each but once; an
    instruction's first takes some cycles more than an accumulator line. From a line's last read to its write
    :attr:`latency` cycles pass. The next instruction is prepared meanwhile; if that is done in time, its first
    read comes two cycles after the last one of this.

    With dynamic scales, lines wait for a pixel's last read: :attr:`dynamic_scale_latency` cycles pass from it to
    the first line's write, and the others follow every `steps` cycles. A line of scales is written after the lines
    of the last pixel that it is about. A pixel that has an error at one of its lines or its scale's is not written
    at all, nor are the scales that have not filled a line. Between an instruction with dynamic scales and one
    without, the datapath runs empty. So it does between one with a scale beside a product with operand B, which
    takes :data:`~kiwicha.timing.LANE_RESCALE` cycles more to all of this, and one without.

    An abort is heard a cycle late: a line may still be written in its first cycle.

    The datapath never stalls: a read starts only if the line that it belongs to is sure to find room at the
    other end. Errors are those of :class:`.ParameterFetch` and :class:`.AddressGenerator`; one is told when
    everything before it has been written.

    Members
    -------
    control : Out(UnitPort)
    acc : Out(ReadPort(columns * 32))
    params : Out(ReadPort(line))
        Parameters and tables.
    operand : Out(ReadPort(line))
        Lines of operands.
    write : Out(WritePort(line))
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        super().__init__({
            "control": Out(UnitPort(Unit.VECTOR)),
            "acc": Out(ReadPort(32 * config.columns)),
            "params": Out(ReadPort(8 * config.line_bytes)),
            "operand": Out(ReadPort(8 * config.line_bytes)),
            "write": Out(WritePort(8 * config.line_bytes)),
        })

    @property
    def latency(self) -> int:
        """Cycles from the acceptance of a line's last read to its write."""
        return timing.vector_latency(self._config)

    @property
    def dynamic_scale_latency(self) -> int:
        """With dynamic scales: cycles from the acceptance of a pixel's last read to its first line's write."""
        return timing.dynamic_scale_latency(self._config)

    @property
    def lines_under_way(self) -> int:
        """Room for lines between their last read and their write."""
        lines = LINES_UNDER_WAY + (timing.LANE_RESCALE if self._config.functions else 0)
        if not self._config.dynamic_scales:
            return lines
        # A block's lines are all asked for before the first of them is there.
        geometry = Geometry.of(self._config)
        return lines + geometry.most_parts + self.dynamic_scale_latency // geometry.steps

    @property
    def _lines_ahead(self) -> int:
        """Lines of a row's largest, all of which are ordered before the row is read."""
        return 2 * TOP_MOST * Geometry.of(self._config).word_lines if self._config.top_k else 0

    def elaborate(self, platform):
        m = Module()
        config, control = self._config, self.control
        self._pausing = Const(0, 1)
        # Registered: `write.request.valid` hangs on it, and with that the arbitration of every scratchpad bank.
        clear = Signal()
        m.d.sync += clear.eq(control.abort)
        m.submodules.parameter_fetch = parameter_fetch = ParameterFetch(config)
        m.submodules.address_generator = address_generator = AddressGenerator(config)
        m.submodules.operand_fetch = operands = OperandFetch(config)
        m.submodules.requests = requests = Queue(request_layout(config), timing.VECTOR_REQUESTS)
        m.submodules.orders = orders = Queue(line_order(config), self.lines_under_way + self._lines_ahead)
        m.submodules.lines = lines = Queue(8 * config.line_bytes, self.lines_under_way)
        m.submodules.datapath = datapath = Datapath(config)
        connect(m, flipped(control.i), parameter_fetch.i)
        connect(m, flipped(self.params), parameter_fetch.params)
        connect(m, parameter_fetch.o, address_generator.i)
        connect(m, address_generator.requests, requests.i)
        connect(m, address_generator.orders, orders.i)
        connect(m, address_generator.a, operands.a)
        connect(m, address_generator.b, operands.b)
        connect(m, flipped(self.operand), operands.port)
        # As of a cycle ago, when up to three more were on their way.
        room = [*(queue.level < queue.depth - 2 for queue in (requests, orders)), operands.room]
        if config.top_k:
            # Of all others, each line that there is an order for has room in `lines`.
            room.append(address_generator.top | (orders.level < lines.depth - 2))
            m.d.sync += datapath.room.eq(lines.level < lines.depth - MAX_TOP)
        read = self._read(m, requests.o, operands, datapath, clear)
        m.d.comb += [
            datapath.read.eq(read),
            datapath.tag.eq(requests.o.p.tag),
            datapath.line.eq(self.acc.data),
            datapath.a_line.eq(operands.a_line.payload),
            datapath.b_line.eq(operands.b_line.payload),
            # There is always room: a line has its order before its reads are made.
            lines.i.valid.eq(datapath.done),
            lines.i.payload.eq(datapath.result),
            address_generator.settled.eq(orders.level == 0),
            parameter_fetch.hold.eq(address_generator.failed | control.abort),
            parameter_fetch.free.eq(control.retire),
            *(part.clear.eq(clear) for part in (parameter_fetch, address_generator, operands, requests, orders,
                                                lines)),
        ]
        for name in ("set", "settings", "settings_enable", "bias", "bias_line", "bias_enable",
                     "scale", "scale_line", "scale_enable", "table"):
            m.d.comb += getattr(datapath, name).eq(getattr(parameter_fetch, name))
        if config.dynamic_scales:
            written, empty, scales_room = self._write_scaled(m, address_generator, datapath, orders, lines, clear)
            room.append(scales_room)
        else:
            written = self._write(m, orders, lines, clear)
            # An error leaves the orders of a row that is not written.
            empty = (orders.level == 0) if not config.functions else (
                (lines.level == 0) & (address_generator.failed | (orders.level == 0)))
        m.d.sync += address_generator.room.eq(Cat(room).all())
        self._report(m, parameter_fetch, address_generator,
                     empty & datapath.idle & (requests.level == 0) & ~address_generator.pending,
                     requests.o.valid, read, written)
        return m

    def _read(self, m, requests, operands, datapath, clear):
        """The next read is made as soon as all that it takes is there; says when."""
        what, acc = requests.p, self.acc.request
        read, second = Signal(name="read"), ~what.second | operands.b_line.valid
        if self._config.functions:
            second = second & self._pace(m, read & what.slow & what.tag.last)
        if self._config.top_k:
            second = second & self._turn(m, requests, read, datapath, clear)
        m.d.comb += [
            acc.valid.eq(requests.valid & ~what.fetched & second),
            acc.payload.eq(what.address),
            requests.ready.eq(second & Mux(what.fetched, operands.a_line.valid, acc.ready)),
            read.eq(requests.valid & requests.ready),
            operands.a_line.ready.eq(read & what.fetched & what.a_ends),
            operands.b_line.ready.eq(read & what.second & what.b_ends),
        ]
        return read

    def _pace(self, m, slow):
        """Whether a step may be read: after a `slow` one, its results go through the function one by one."""
        lanes = self._config.vector_lanes
        self._pausing = Signal()
        left = Signal(range(lanes))
        m.d.sync += [left.eq(Mux(slow, lanes - 1, left - (left != 0))),
                     self._pausing.eq(Mux(slow, lanes > 1, left > 1))]
        return ~self._pausing

    def _turn(self, m, requests, read, datapath, clear):
        """Whether the next step may be read: not a row's first until the largest of the row before are out."""
        what, open_row = requests.p, Signal()
        waits = open_row & what.tag.first & what.tag.row_begins
        with m.If(clear | datapath.free):
            m.d.sync += open_row.eq(0)
        with m.Elif(read & what.top & what.tag.last & what.tag.row_ends):
            m.d.sync += open_row.eq(1)
        self._pausing = self._pausing | (requests.valid & waits)
        return ~waits

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
        # The line is in place before anyone who was told of it can ask for it.
        m.d.sync += control.retire.eq(written & orders.o.p.last)
        return written

    def _write_scaled(self, m, address_generator, datapath, orders, lines, clear):
        """As `_write`, with a line of scales after each order that says `flush`.

        Also returns whether nothing is left, and whether there is room for three more orders of scales.
        """
        m.submodules.scale_orders = scale_orders = Queue(LINE_ADDRESS, SCALES_UNDER_WAY)
        m.submodules.scales = scales = Queue(8 * self._config.line_bytes, SCALES_UNDER_WAY)
        connect(m, address_generator.scales, scale_orders.i)
        request, control = self.write.request, self.control
        flush = Signal()        # the next line is one of scales
        ends = Signal()         # and the instruction's last
        written = Signal()
        m.d.comb += [
            datapath.clear.eq(clear), scale_orders.clear.eq(clear), scales.clear.eq(clear),
            # There is always room here, too.
            scales.i.valid.eq(datapath.scales_done),
            scales.i.payload.eq(datapath.scales),
            request.valid.eq(Mux(flush, scales.o.valid, lines.o.valid) & ~clear),
            request.p.address.eq(Mux(flush, scale_orders.o.payload, orders.o.p.address)),
            request.p.data.eq(Mux(flush, scales.o.payload, lines.o.payload)),
            written.eq(request.valid & request.ready),
            lines.o.ready.eq(written & ~flush),
            orders.o.ready.eq(written & ~flush),
            scales.o.ready.eq(written & flush),
            scale_orders.o.ready.eq(written & flush),
        ]
        with m.If(clear):
            m.d.sync += flush.eq(0)
        with m.Elif(written):
            m.d.sync += [flush.eq(~flush & orders.o.p.flush), ends.eq(orders.o.p.last)]
        m.d.sync += control.retire.eq(written & Mux(flush, ends, orders.o.p.last & ~orders.o.p.flush))
        # An error leaves the orders of a pixel that is not written.
        empty = (~flush & (lines.level == 0) & (scales.level == 0)
                 & (address_generator.failed | (orders.level == 0)))
        return written, empty, scale_orders.level < SCALES_UNDER_WAY - 2

    def _report(self, m, parameter_fetch, address_generator, empty, reads, read, written):
        control = self.control
        idle = empty & parameter_fetch.idle & ~address_generator.busy & ~address_generator.failed
        m.d.comb += [
            control.quiet.eq(idle),
            control.error.code.eq(address_generator.code),
            control.error.index.eq(address_generator.index),
            control.error.address.eq(address_generator.address),
            control.progress.eq(read | written | control.retire
                                | (control.i.valid & control.i.ready)
                                | (self.params.request.valid & self.params.request.ready)
                                | (self.operand.request.valid & self.operand.request.ready)),
        ]
        # Not before everything ahead of it has been written, and its end been told.
        m.d.sync += control.error.valid.eq(address_generator.failed & empty & ~control.retire & ~control.abort)
        params = self.params.request
        waits = (self.acc.request.valid | (self.operand.request.valid & ~self.operand.request.ready)
                 | (params.valid & ~params.ready & ~address_generator.busy))
        with m.If(read):
            m.d.comb += control.activity.eq(Activity.BUSY)
        with m.Elif(waits):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Elif((address_generator.busy & ~address_generator.room) | self._pausing):
            m.d.comb += control.activity.eq(Activity.QUEUE)
        with m.Elif(address_generator.waits):
            m.d.comb += control.activity.eq(Activity.DRAIN)
        with m.Elif(parameter_fetch.busy | address_generator.busy | reads):
            m.d.comb += control.activity.eq(Activity.OPERAND)
        with m.Elif(~idle):
            m.d.comb += control.activity.eq(Activity.DRAIN)
