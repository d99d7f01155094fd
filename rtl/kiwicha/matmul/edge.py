"""Between the scratchpad and the array, and between the array and the accumulators."""

from amaranth import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..array.decode import EdgeDecoder
from ..array.systolic import activations, column_sums, weight_row
from ..config import ChipConfig
from ..lib.delay import Delay, delay, delay_valid
from ..memory.ports import LINE_ADDRESS
from ..timing import READ_LATENCY, accumulator_latency, array_latency, decode_latency
from .items import Vector, WeightRow

__all__ = ["ArrayEdge", "SumCollector", "edge_latency", "tag_layout"]


def edge_latency(config: ChipConfig) -> int:
    """Cycles from a request to its elements at the array's edge."""
    return READ_LATENCY + decode_latency(config)


def tag_layout(config: ChipConfig) -> data.StructLayout:
    """What a vector's sums must know of it: where they go, and whether instruction, weight tile or block end."""
    passed = {"scaled": 1, "begin": 1, "end": 1} if config.block_scaled else {}
    return data.StructLayout({"address": LINE_ADDRESS, "add": 1, "last": 1, "swap": 1, **passed})


class ArrayEdge(wiring.Component):
    """Lines through the decoders to the array's edge, each with what was known of it when it was requested.

    Latency: :func:`edge_latency` cycles from a request to `o_a` and `o_w`. Throughput: a vector and a row per
    cycle.

    Members
    -------
    vector : In(Vector), row : In(WeightRow)
        Those that are requested in this cycle, if any are.
    a, w : In(struct)
        The ports' answers, `valid` and `data`.
    o_a : Out(activations(config)), o_w : Out(weight_row(config))
        For the array. A line of scales is no row.
    nan_a : Out(rows), nan_w : Out(columns)
        Which of these elements are NaN.
    w_scales : Out(1)
        `w` is a line of the weights' scales; only with block scaling.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        answer = data.StructLayout({"valid": 1, "data": 8 * config.line_bytes})
        super().__init__({
            "vector": In(Vector(config)), "row": In(WeightRow(config)),
            "a": In(answer), "w": In(answer),
            "o_a": Out(activations(config)), "o_w": Out(weight_row(config)),
            "nan_a": Out(config.rows), "nan_w": Out(config.columns),
            **({"w_scales": Out(1)} if config.block_scaled else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config, vector, row = self.config, self.vector, self.row
        m.submodules.decode_a = decode_a = EdgeDecoder(config, config.rows)
        m.submodules.decode_w = decode_w = EdgeDecoder(config, config.columns)
        valid_w = self.w.valid
        if config.block_scaled:
            is_scale = delay(m, row.scale, "is_scale", READ_LATENCY)
            valid_w = self.w.valid & ~is_scale
            m.d.comb += self.w_scales.eq(self.w.valid & is_scale)
        edge = edge_latency(config)
        m.d.comb += [
            decode_a.i.eq(self.a.data), decode_a.format.eq(delay(m, vector.format, "a_format", READ_LATENCY)),
            decode_w.i.eq(self.w.data), decode_w.format.eq(delay(m, row.format, "w_format", READ_LATENCY)),
            self.o_a.data.eq(decode_a.o), self.o_w.data.eq(decode_w.o),
            self.nan_a.eq(decode_a.nan), self.nan_w.eq(decode_w.nan),
            self.o_a.swap.eq(delay(m, vector.swap, "swap", edge)),
            self.o_w.row.eq(delay(m, row.row, "row", edge)),
            self.o_a.valid.eq(delay_valid(m, self.a.valid, "a_edge", decode_a.latency)),
            self.o_w.valid.eq(delay_valid(m, valid_w, "w_edge", decode_w.latency)),
        ]
        return m


class SumCollector(wiring.Component):
    """Column sums to the accumulators: the tag of each vector waits in a delay line as long as its way.

    Latency: none from `sums` to `o`. Throughput: a vector's sums per cycle.

    Members
    -------
    vector : In(Vector)
        The one that is requested in this cycle, if any is.
    sums : In(column_sums(config))
        The array's, `edge_latency + array_latency` cycles later.
    abort : In(1)
        What comes no longer retires anything.
    coming : Out(tag_layout(config))
        The tag of the vector whose sums come in the next cycle; means nothing if none do.
    tag : Out(tag_layout(config))
        That of the sums in this cycle.
    retire : Out(1)
        The last sums of an instruction can be read from the accumulators by a request in this cycle.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "vector": In(Vector(config)), "sums": In(column_sums(config)), "abort": In(1),
            "coming": Out(tag_layout(config)), "tag": Out(tag_layout(config)), "retire": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, layout = self.config, tag_layout(self.config)
        m.submodules.tags = tags = Delay(layout, edge_latency(config) + array_latency(config) - 1)
        retire = delay_valid(m, self.sums.valid & self.tag.last, "retire", accumulator_latency(config))
        m.d.comb += [
            tags.i.address.eq(self.vector.acc[:LINE_ADDRESS]),
            *(tags.i[name].eq(self.vector[name]) for name in layout.members if name != "address"),
            self.coming.eq(tags.o),
            self.tag.eq(delay(m, tags.o, "tag_now")),
            self.retire.eq(retire & ~self.abort),
        ]
        return m
