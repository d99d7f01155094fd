"""Fields of VECTOR instructions: which have no meaning, and what the datapath needs of them."""

from functools import reduce
from operator import or_

from amaranth.hdl import Const, Mux, Signal

from ..arith.order import total_order
from ..isa import (
    TOP_MOST,
    ErrorCode,
    OperandUse,
    OutFormat,
    Reduce,
    ResultFunction,
    ScaleMode,
    SecondSource,
    Source,
)
from ..lib.delay import delay
from ..timing import MOST_ITERATIONS, steps, sum_levels
from .shapes import Geometry, Size

__all__ = ["check_fields", "rescales", "takes_itself", "write_settings"]

_FLOATS = (OutFormat.E4M3, OutFormat.E2M1)


def check_fields(m, config, fields, error, address):
    """The first field without meaning, if any, to `error` and its value to `address`."""
    counts = [fields[f"count{level}"] for level in range(4)]
    integer = fields.out_format == OutFormat.INT32
    fp32, has_sum = fields.out_format == OutFormat.FP32, fields.reduce == Reduce.SUM
    has_float, functions = Const(config.vector_floats, 1), Const(config.functions, 1)
    no_sum = has_sum & ~(fields.row & fp32) if config.functions else has_sum
    row_of_floats = fp32 if config.float_row_sums else fp32 & (fields.reduce == Reduce.MAXIMUM)
    last_source, last_use = ((Source.BYTES, OperandUse.INDEX) if config.functions else
                             (Source.TABLE, OperandUse.MULTIPLY))
    excluded = integer if config.functions else integer | (fields.scale_mode != ScaleMode.NONE)
    takes_fp32 = ((fields.b_use == OperandUse.MULTIPLY)
                  | ((fields.b_use == OperandUse.ADD) & fields.float))
    m.d.sync += [error.eq(ErrorCode.FIELD), address.eq(0)]
    with m.If(_unknown_format(config, fields.out_format)):
        m.d.sync += address.eq(fields.out_format)
    with m.Elif((fields.scale_mode > ScaleMode.COLUMN.value)
                | (integer & (fields.scale_mode != ScaleMode.NONE))):
        m.d.sync += address.eq(fields.scale_mode)
    with m.Elif(fields.float & (integer | ~has_float | no_sum | (fields.a_source == Source.BYTES))):
        m.d.sync += address.eq(fields.float)
    with m.Elif(fields.a_source > last_source.value):
        m.d.sync += address.eq(fields.a_source)
    with m.Elif(fields.a_bf16 & ~(functions & fields.float & (fields.a_source == Source.WORDS))):
        m.d.sync += address.eq(fields.a_bf16)
    with m.Elif((fields.b_use > last_use.value)
                | ((fields.b_use == OperandUse.ADD) & fields.bias)
                | ((fields.b_use == OperandUse.MULTIPLY) & excluded)
                | ((fields.b_use == OperandUse.INDEX) & (fields.a_source != Source.TABLE))):
        m.d.sync += address.eq(fields.b_use)
    with m.Elif((fields.b_source == SecondSource.A) & (fields.b_use == OperandUse.INDEX) if config.functions else
                fields.b_source > SecondSource.TABLE.value):
        m.d.sync += address.eq(fields.b_source)
    with m.Elif(fields.b_bf16 & ~(functions & takes_fp32 & (fields.b_source == SecondSource.WORDS))):
        m.d.sync += address.eq(fields.b_bf16)
    with m.Elif(fields.row & ~(functions & (integer | row_of_floats))):
        m.d.sync += address.eq(fields.row)
    with m.Elif((fields.function != ResultFunction.NONE) & ~(functions & fp32)):
        m.d.sync += address.eq(fields.function)
    with m.Elif(fields.row & (fields.tail > config.columns)):
        m.d.sync += address.eq(fields.tail)
    with m.Elif(_bad_top(config, fields)):
        m.d.sync += address.eq(fields.top)
    with m.Elif(_bad_parts(config, fields)):
        m.d.sync += address.eq(fields.parts)
    if config.functions:
        for count in counts[:2]:
            with m.Elif((fields.float | takes_itself(fields)) & has_sum & (count != 1)):
                m.d.sync += address.eq(count)
    with m.Elif((counts[0] != 0) & (counts[1] != 0) & (counts[2] != 0) & (counts[3] != 0)):
        m.d.sync += error.eq(ErrorCode.NONE)


def takes_itself(fields):
    """Whether operand B is used, and A itself; in a chip with functions."""
    return (fields.b_source == SecondSource.A) & (fields.b_use != OperandUse.NONE)


def rescales(fields):
    """Whether results are multiplied by operand B and then by a scale; in a chip with functions."""
    return (fields.b_use == OperandUse.MULTIPLY) & (fields.scale_mode != ScaleMode.NONE)


def _unknown_format(config, out_format):
    """Whether this chip does not have a format."""
    lacks = [*(() if config.has_float_results else _FLOATS), *(() if config.block_scaled else [OutFormat.BF16]),
             *(() if config.has_mxint8_results else [OutFormat.MXINT8])]
    last = max(item.value for item in OutFormat if item not in lacks)
    return reduce(or_, (out_format == item for item in lacks if item.value < last), out_format > last)


def _dynamic_scale(config, fields):
    """Whether results take a dynamic scale, for a format that this chip has."""
    formats = (*(_FLOATS if config.has_float_results else ()),
               *([OutFormat.MXINT8] if config.has_mxint8_results else ()))
    return reduce(or_, (fields.out_format == item for item in formats)) if formats else Const(0, 1)


def _bad_parts(config, fields):
    has_second = fields.b_use != OperandUse.NONE
    if config.functions and config.dynamic_scales:
        # The word of a row is the same for all columns, and A's own are each part's.
        has_second = has_second & (fields.b_source != SecondSource.ROW) & (fields.b_source != SecondSource.A)
    per_column = fields.bias | (fields.scale_mode == ScaleMode.COLUMN) | has_second
    most = Geometry.of(config).most_parts
    return _dynamic_scale(config, fields) & ((fields.parts == 0) | (fields.parts > most)
                                          | (per_column & (fields.parts != 1)))


def _bad_top(config, fields):
    if not config.top_k:
        return fields.top != 0
    length = Mux(fields.tail == 0, config.columns, fields.tail)
    before = fields.count2 - 1
    # Of a row of so many iterations it does not matter: each has two columns at least.
    few = ~before[2:16].any()
    fits = ~few | (before[:2] * config.columns + length >= fields.top)
    good = (fields.row & (fields.reduce == Reduce.MAXIMUM) & (fields.out_format == OutFormat.FP32)
            & (fields.function == ResultFunction.NONE) & (fields.top <= TOP_MOST) & fits)
    return (fields.top != 0) & ~good


def write_settings(m, config, fields, checking, settings, enable):
    """What the datapath needs of an instruction, a cycle after `checking`.

    Bounds are keys; without `clamp`, those that every key is between. Made, compared, written: 3 cycles.
    """
    integer = fields.out_format == OutFormat.INT32
    low, high = (delay(m, Mux(integer, bound.as_signed(), total_order(bound)), name)
                 for bound, name in ((fields.clamp_low, "low"), (fields.clamp_high, "high")))
    checked, crossed = Signal(), Signal()
    m.d.sync += [checked.eq(checking), crossed.eq(low > high), enable.eq(checked)]
    m.d.comb += [
        # min(max(x, low), high) is `high` for every x if the bounds are the wrong way round.
        settings.low.eq(Mux(fields.clamp, Mux(crossed, high, low), -(1 << 31))),
        settings.high.eq(Mux(fields.clamp, high, (1 << 31) - 1)),
        settings.integer.eq(integer),
        settings.size.eq(_size(config, fields)),
        settings.zero_point.eq(fields.zero_point),
        settings.fetched.eq(fields.a_source != Source.ACCUMULATOR),
        settings.sum.eq(fields.reduce == Reduce.SUM),
        settings.add.eq(fields.b_use == OperandUse.ADD),
        settings.multiply.eq(fields.b_use == OperandUse.MULTIPLY),
    ]
    if config.vector_floats:
        m.d.comb += settings.float.eq(fields.float)
    if config.functions:
        m.d.comb += [
            settings.itself.eq(takes_itself(fields)), settings.rescale.eq(rescales(fields)),
            settings.row.eq(fields.row), settings.function.eq(fields.function),
            settings.tail.eq(Mux(fields.tail == 0, config.columns, fields.tail)),
        ]
    if config.float_row_sums:
        m.d.comb += settings.levels.eq(delay(m, _sum_levels(config, fields), "levels"))
    if config.top_k:
        m.d.comb += settings.top.eq(fields.top)
    if config.dynamic_scales:
        m.d.comb += [
            settings.dynamic_scale.eq(_dynamic_scale(config, fields)),
            settings.rule.eq(fields.scale_rule),
        ]
    if config.has_float_results and config.has_mxint8_results:
        m.d.comb += settings.mxint8.eq(fields.out_format == OutFormat.MXINT8)


def _sum_levels(config, fields):
    """:func:`~kiwicha.timing.sum_levels` of an instruction, or 0."""
    last = sum(fields.count2 << place for place in range(6) if steps(config) >> place & 1) - 1
    # Whether there is a one in this place or above.
    above = [last[place:].any() for place in range(1, sum_levels(config, MOST_ITERATIONS))]
    is_sum = fields.row & (fields.out_format == OutFormat.FP32) & (fields.reduce == Reduce.SUM)
    return Mux(is_sum, 1 + sum(above), 0)


def _size(config, fields):
    if not config.block_scaled:
        return fields.out_format != OutFormat.INT8
    byte = (fields.out_format == OutFormat.INT8) | (fields.out_format == OutFormat.E4M3)
    if config.has_mxint8_results:
        byte = byte | (fields.out_format == OutFormat.MXINT8)
    return Mux(fields.out_format == OutFormat.BF16, Size.HALF.value,
               Mux(fields.out_format == OutFormat.E2M1, Size.NIBBLE.value,
                   Mux(byte, Size.BYTE.value, Size.WORD.value)))
