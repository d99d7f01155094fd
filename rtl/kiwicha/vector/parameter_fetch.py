"""Prepares instructions: checks their fields, fetches their parameters ahead of time, and has tables loaded."""

from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..formats import MINUS_ZERO
from ..isa import ErrorCode, ResultFunction, ScaleMode, Unit
from ..layouts import unit_layout
from ..lib.delay import delay
from ..memory.ports import LINE_ADDRESS, ReadPort
from ..timing import PARAMETER_SETS
from .fields import check_fields, rescales, write_settings
from .shapes import Geometry, prepared_layout, settings_layout
from .tables import TableLoader, table_write

__all__ = ["ParameterFetch"]

ONE = 0x3F800000


class _State(enum.Enum, shape=3):
    TAKE = 0        # wait for an instruction
    CHECK = 1       # its fields; write its settings
    FETCH = 2       # its parameters
    DRAIN = 3       # wait for all before it to end, for it loads tables
    LOAD = 4        # those
    OFFER = 5       # wait for the instruction before it to be walked


class _Line(NamedTuple):
    """A line of parameters that has come."""
    valid: Value
    data: Value


class ParameterFetch(wiring.Component):
    """Prepares one instruction at a time, while the last one runs: what it hands on has its parameters in place.

    That takes about `2 * word_lines + 6` cycles at most; the parameters that memory does not hold (no bias, a
    factor of 1 or the instruction's own) are filled in meanwhile, so that the datapath always adds a bias and
    multiplies: an integer in FP32 times 1 is itself, to the bit, and so is FP32 plus -0. Tables, of which there
    is one of each, are loaded when all instructions before have ended, in about 256 cycles each.

    Errors do not stop anything here. They are handed on with the instruction, as its `code`, so that they are
    told after everything before has ended: FIELD for an `out_format` that is unknown or that this chip has
    not; an unknown `scale_mode`, or a scale for INT32; `float` for INT32, for a sum but an FP32 row's, or in a
    chip without FP32 additions; an unknown `a_source`; an unknown `b_use`, one beside what it takes the place
    of (but MULTIPLY beside a scale, in a chip with functions), or an index without a table; an unknown
    `b_source`, or A as its own index; `row` or `function` with another format, or in a chip without, or a
    `row` for an FP32 sum that this chip has not; a `tail` of too many columns; with a dynamic scale, `parts`
    of zero, too many, or more than one with parameters per column; a window for a sum with `float`, or with A
    for operand B, too; or a count of zero, looked for in this order; SCRATCHPAD_RANGE for a parameter line, or
    then one of tables.

    Members
    -------
    i : In(stream of instructions)
    o : Out(stream of prepared_layout())
    params : Out(ReadPort)
    hold : In(1)
        Take no further instruction.
    free : In(1)
        An instruction has ended: its set may be used again.
    clear : In(1)
        Forget everything. Parameters that have been asked for still come; `idle` waits for them.
    idle : Out(1)
        No instruction is between `i` and its `free`, and no parameter is on its way.
    busy : Out(1)
        An instruction is being prepared.
    set, settings, settings_enable
        Write port of the settings.
    line, bias, bias_enable, scale, scale_enable
        Write ports of the parameters: line number `line` of bias or scale of `set`. Each has its own number.
    table : Out(table_write())
        Write port of the tables.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        width = 8 * config.line_bytes
        number = Geometry.of(config).line_width
        super().__init__({
            "i": In(stream.Signature(unit_layout(Unit.VECTOR))),
            "o": Out(stream.Signature(prepared_layout(config))),
            "params": Out(ReadPort(width)),
            "hold": In(1), "free": In(1), "clear": In(1), "idle": Out(1), "busy": Out(1),
            "set": Out(range(PARAMETER_SETS)), "settings": Out(settings_layout(config)), "settings_enable": Out(1),
            "bias": Out(width), "bias_line": Out(number), "bias_enable": Out(1),
            "scale": Out(width), "scale_line": Out(number), "scale_enable": Out(1), "table": Out(table_write()),
        })

    def elaborate(self, platform):
        m = Module()
        fields = Signal(unit_layout(Unit.VECTOR))
        error = Signal(ErrorCode)
        address = Signal(signed(18))
        used = Signal(range(PARAMETER_SETS + 1))
        taken = Signal()
        checking = Signal()
        # Registered: what the port answers has passed a multiplexer of all banks, and goes to two memories here.
        self._request = stream.Signature(LINE_ADDRESS).create(path=("parameter",))
        arrived = _Line(Signal(name="comes"), delay(m, self.params.data, "coming_data"))
        m.d.sync += arrived.valid.eq(self.params.valid)
        fetching = Signal(name="fetch")
        fetched = self._fetch(m, fields, checking, error, address, _Line(arrived.valid & fetching, arrived.data))
        m.submodules.loader = loader = TableLoader(self._config)
        self._connect(m, loader, fields, arrived)
        m.d.comb += [
            self.o.p.instruction.eq(fields),
            self.o.p.set.eq(self.set),
            self.o.p.size.eq(self.settings.size),
            self.o.p.code.eq(error),
            self.o.p.address.eq(address),
            taken.eq(self.i.valid & self.i.ready),
        ]
        m.d.sync += used.eq(Mux(self.clear, 0, used + taken - self.free))
        awaited = self._awaited(m, arrived)
        state = Signal(_State)
        m.d.comb += fetching.eq(state == _State.FETCH)
        with m.Switch(state):
            with m.Case(_State.TAKE):
                m.d.comb += self.i.ready.eq((used != PARAMETER_SETS) & ~self.hold & ~self.clear)
                m.d.sync += fields.eq(self.i.payload)
                with m.If(taken):
                    m.d.sync += [self.set.eq(self.set + 1), state.eq(_State.CHECK)]
            with m.Case(_State.CHECK):
                m.d.comb += checking.eq(1)
                check_fields(m, self._config, fields, error, address)
                m.d.sync += state.eq(_State.FETCH)
            with m.Case(_State.FETCH):
                with m.If(fetched & (awaited == 0)):
                    m.d.sync += state.eq(Mux((fields.load_a | fields.load_b) & (error == ErrorCode.NONE),
                                             _State.DRAIN, _State.OFFER))
            with m.Case(_State.DRAIN):
                m.d.comb += loader.start.eq(used == 1)
                with m.If(loader.start):
                    m.d.sync += state.eq(_State.LOAD)
            with m.Case(_State.LOAD):
                with m.If(loader.failed):
                    m.d.sync += [error.eq(ErrorCode.SCRATCHPAD_RANGE), address.eq(loader.address)]
                with m.If(~loader.busy):
                    m.d.sync += state.eq(_State.OFFER)
            with m.Case(_State.OFFER):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += state.eq(_State.TAKE)
        with m.If(self.clear):
            m.d.sync += state.eq(_State.TAKE)
        m.d.comb += [
            self.busy.eq(state != _State.TAKE),
            self.idle.eq((used == 0) & (awaited == 0) & (state == _State.TAKE)),
        ]
        write_settings(m, self._config, fields, checking, self.settings, self.settings_enable)
        way = self.o.p.way
        if self._config.dynamic_scales:
            m.d.comb += way.dynamic_scale.eq(self.settings.dynamic_scale)
        if self._config.float_row_sums:
            m.d.comb += way.levels.eq(self.settings.levels)
        if self._config.functions:
            m.d.comb += [way.row.eq(fields.row), way.function.eq(fields.function != ResultFunction.NONE),
                             way.rescale.eq(rescales(fields))]
        if self._config.top_k:
            m.d.comb += way.top.eq(fields.top != 0)
        return m

    def _connect(self, m, loader, fields, arrived):
        """The loader has the port when no parameters are fetched."""
        ours, its = self._request, loader.request
        m.d.comb += [
            loader.wanted.eq(Cat(fields.load_a, fields.load_b)), loader.first.eq(fields.table_line),
            loader.arrived.eq(arrived.valid), loader.line.eq(arrived.data), loader.clear.eq(self.clear),
            self.table.eq(loader.write),
            self.params.request.valid.eq(ours.valid | its.valid),
            self.params.request.payload.eq(Mux(its.valid, its.payload, ours.payload)),
            ours.ready.eq(self.params.request.ready), its.ready.eq(self.params.request.ready),
        ]

    def _awaited(self, m, arrived):
        """How many parameter lines have been asked for and have not come."""
        awaited = Signal(range(5))
        m.d.sync += awaited.eq(awaited + (self.params.request.valid & self.params.request.ready)
                               - arrived.valid)
        return awaited

    def _fetch(self, m, fields, checking, error, address, arrived):
        """Fill in and fetch parameters from the cycle after `checking` on; says when all is asked for."""
        lines = Geometry.of(self._config).word_lines
        has_scale = Signal()
        to_fill = Signal(range(lines + 1))
        to_ask = Signal(range(2 * lines + 1))
        asked = Signal(17)
        coming = Signal(range(max(2, lines)))
        scale_comes = Signal()
        filling = to_fill != 0
        in_range = asked < self._config.scratchpad_lines
        request = self._request
        m.d.comb += [
            has_scale.eq(fields.scale_mode == ScaleMode.COLUMN),
            request.valid.eq((to_ask != 0) & in_range & (error == ErrorCode.NONE)),
            request.payload.eq(asked),
        ]
        with m.If(checking):
            m.d.sync += [
                to_fill.eq(lines),
                to_ask.eq(Mux(fields.bias, lines, 0) + Mux(has_scale, lines, 0)),
                asked.eq(fields.param_line),
                coming.eq(0),
                scale_comes.eq(~fields.bias),
            ]
        with m.Else():
            with m.If(filling):
                m.d.sync += to_fill.eq(to_fill - 1)
            with m.If((to_ask != 0) & ~in_range & (error == ErrorCode.NONE)):
                m.d.sync += [error.eq(ErrorCode.SCRATCHPAD_RANGE), address.eq(asked)]
            with m.If(request.valid & request.ready):
                m.d.sync += [to_ask.eq(to_ask - 1), asked.eq(asked + 1)]
            with m.If(arrived.valid):
                m.d.sync += coming.eq(Mux(coming == lines - 1, 0, coming + 1))
                with m.If(coming == lines - 1):
                    m.d.sync += scale_comes.eq(1)
        with m.If(self.clear):
            m.d.sync += [to_fill.eq(0), to_ask.eq(0)]

        words = self._config.line_bytes // 4
        constant = Mux(fields.scale_mode == ScaleMode.SCALAR, fields.scale, ONE)
        no_bias = Mux(fields.float, MINUS_ZERO, 0)[:32].replicate(words) if self._config.vector_floats else 0
        m.d.comb += [
            self.bias.eq(Mux(fields.bias, arrived.data, no_bias)),
            self.bias_line.eq(Mux(fields.bias, coming, to_fill - 1)),
            self.bias_enable.eq(Mux(fields.bias, arrived.valid & ~scale_comes, filling)),
            self.scale.eq(Mux(has_scale, arrived.data, constant.replicate(words))),
            self.scale_line.eq(Mux(has_scale, coming, to_fill - 1)),
            self.scale_enable.eq(Mux(has_scale, arrived.valid & scale_comes, filling)),
        ]
        return ~filling & ((to_ask == 0) | (error != ErrorCode.NONE))
