"""Scales and NaN flags on their way past the array, so that they meet the sums that they belong to."""

from amaranth import Array, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..formats import FORMATS, SCALE_BIAS, SCALE_NAN
from ..lib.delay import Delay, delay
from ..lib.stream import Queue
from ..memory.block_sum import EXPONENT
from ..timing import READ_LATENCY

__all__ = ["WeightScales", "VectorScales"]



class VectorScales(wiring.Component):
    """Of each vector of A, its scale and whether it has a NaN.

    Parameters
    ----------
    config : ChipConfig
    latency : int
        Cycles from a vector's request to its sums.
    edge : int
        Cycles from a vector's request to `nan`.

    Members
    -------
    byte : In(range(line_bytes)), exponent : In(signed(6)), end : In(1)
        Of the vector that is requested in this cycle: its scale's place in the line, its formats' exponent, and
        whether it is of a block's last weight tile, for only then has it a scale.
    line_valid : In(1), line : In(8 * line_bytes)
        A line of scales from the scratchpad, for the vectors that are requested together with it or after it.
    nan : In(rows)
        Its elements that are NaN, `edge` cycles after the request.
    o_exponent : Out(signed(10))
        `latency` cycles after the request: the formats' exponent, plus the scale's, less the bias of the
        weights' scale.
    o_nan : Out(1)
    """

    #: Cycles from the request until the exponent is known.
    _KNOWN = READ_LATENCY + 3

    def __init__(self, config: ChipConfig, latency: int, edge: int):
        self._config = config
        self._latency = latency
        self._edge = edge
        super().__init__({
            "byte": In(range(config.line_bytes)), "exponent": In(signed(6)), "end": In(1),
            "line_valid": In(1), "line": In(8 * config.line_bytes), "nan": In(config.rows),
            "o_exponent": Out(EXPONENT), "o_nan": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        line = Signal(8 * self._config.line_bytes, reset_less=True)
        with m.If(self.line_valid):
            m.d.sync += line.eq(self.line)
        # A line that was asked for before or with a vector is in the register by now, and no later one.
        byte = delay(m, self.byte, "byte", READ_LATENCY + 1)
        scale = delay(m, Array(line.word_select(i, 8) for i in range(self._config.line_bytes))[byte], "scale")
        exponent = Signal(EXPONENT, reset_less=True)
        of_formats = delay(m, self.exponent, "exponent_early", READ_LATENCY + 2)
        m.d.sync += exponent.eq(scale + of_formats - 2 * SCALE_BIAS)
        nan = delay(m, self.nan.any(), "nan_any", self._KNOWN - self._edge)
        nan = nan | delay(m, (scale == SCALE_NAN) & delay(m, self.end, "end", READ_LATENCY + 2), "nan_scale")
        m.submodules.way = way = Delay(data.StructLayout({"exponent": EXPONENT, "nan": 1}),
                                       self._latency - self._KNOWN)
        m.d.comb += [way.i.exponent.eq(exponent), way.i.nan.eq(nan),
                     self.o_exponent.eq(way.o.exponent), self.o_nan.eq(way.o.nan)]
        return m


class WeightScales(wiring.Component):
    """Of each weight tile, its columns' scales and which of them have a NaN, in queues as long as the array.

    Parameters
    ----------
    config : ChipConfig
    latency : int
        Cycles from a vector's request to its sums.

    Members
    -------
    scale_valid : In(1), scale : In(8 * columns)
        A weight tile's scales.
    row_valid : In(1), row_first, row_last : In(1), nan : In(columns)
        A row's elements that are NaN.
    next, next_scaled : In(1)
        In the next cycle a weight tile's first sums come (and it is the last of its block, so it has scales).
    clear : In(1)
        Forget all weight tiles.
    o_scale : Out(array of 8), o_nan : Out(columns)
        Of the weight tile whose sums come; scales only where a block ends.
    """

    def __init__(self, config: ChipConfig, latency: int):
        self._config = config
        # A weight tile is loaded in at least so many cycles; a few are under way before and behind the array.
        self._depth = latency // config.rows + 4
        super().__init__({
            "scale_valid": In(1), "scale": In(8 * config.columns),
            "row_valid": In(1), "row_first": In(1), "row_last": In(1), "nan": In(config.columns),
            "next": In(1), "next_scaled": In(1), "clear": In(1),
            "o_scale": Out(data.ArrayLayout(8, config.columns)), "o_nan": Out(config.columns),
        })

    def elaborate(self, platform):
        m = Module()
        columns = self._config.columns
        m.submodules.scales = scales = _HoldingQueue(8 * columns, self._depth)
        m.d.comb += [
            scales.valid.eq(self.scale_valid), scales.i.eq(self.scale),
            scales.take.eq(self.next_scaled), scales.clear.eq(self.clear),
            self.o_scale.as_value().eq(scales.o),
        ]
        if any(FORMATS[name].has_nan for name in self._config.formats):
            nan, whole = Signal(columns), Signal()
            with m.If(self.row_valid):
                m.d.sync += nan.eq(self.nan | nan & (~self.row_first).replicate(columns))
            m.d.sync += whole.eq(self.row_valid & self.row_last)
            m.submodules.flags = flags = _HoldingQueue(columns, self._depth)
            m.d.comb += [flags.valid.eq(whole), flags.i.eq(nan), flags.take.eq(self.next),
                         flags.clear.eq(self.clear), self.o_nan.eq(flags.o)]
        return m


class _HoldingQueue(wiring.Component):
    """A queue that never fills; what left it last stays on `o`. Latency 2 cycles, one item per cycle.

    Members
    -------
    valid : In(1), i : In(shape)
        An item comes.
    take : In(1)
        The oldest one leaves: it is on `o` from the next cycle on.
    clear : In(1)
    o : Out(shape)
    """

    def __init__(self, shape, depth: int):
        self._shape, self._depth = shape, depth
        super().__init__({"valid": In(1), "i": In(shape), "take": In(1), "clear": In(1), "o": Out(shape)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(self._shape, self._depth)
        m.d.comb += [queue.i.valid.eq(self.valid), queue.i.payload.eq(self.i), queue.o.ready.eq(self.take),
                     queue.clear.eq(self.clear)]
        with m.If(self.take):
            m.d.sync += self.o.eq(queue.o.payload)
        return m
