"""One lane of the vector unit: what happens to a column."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .. import timing
from ..arith.float_add import FloatAdd
from ..arith.float_multiply import FloatMultiply
from ..arith.float_to_int8 import FloatToInt8
from ..arith.int_to_float import IntToFloat
from ..arith.narrow import FloatToBf16
from ..arith.order import total_order
from ..config import ChipConfig
from ..lib.delay import Delay, delay

__all__ = ["Lane"]


class Lane(wiring.Component):
    """Bias, conversion, scale, clamp, maximum, conversion: one value per cycle, without a stall.

    Each input belongs to the value that came in so many cycles before, which the names below say:

    ============  =============================================================================
    at 0          add the bias, or the sum so far, modulo 2^32, then to FP32; or both are FP32 and so is their sum
    at SCALE      multiply by the factor, in FP32; with `rescale`, also by the second one
    at KEY        from here on, values are keys that compare as integers; INT32 joins here
    at CLAMP      compare with both bounds, then choose
    at MAXIMUM    the larger of this and the maximum so far, which `starts` starts anew
    at RESULT     from keys to results, and to int8 and BF16; `result` is there
    at OUT        the other results are there
    ============  =============================================================================

    With `rescale` a value is at SCALE again, and for what follows, when its first product is there:
    :data:`RESCALE` cycles late.

    BF16 comes with block scaling only, `float` with that or functions, and `rescale` with functions.

    Members
    -------
    a, bias : In(signed(32))
    adds : In(1)
        They are a step's.
    again : In(1)
        The sum of the step before takes the place of the bias.
    float : In(1)
        A and bias are FP32, at SCALE.
    scale : In(32)
    second : In(32)
        The second factor, when the value is at SCALE again.
    rescale : In(1)
        There is one, at KEY.
    integer_key : In(1)
        INT32, at KEY.
    low, high : In(signed(32))
        Bounds as keys, low <= high, at CLAMP.
    valid, starts : In(1)
        At MAXIMUM. Without `valid` the maximum so far stays.
    integer_result : In(1)
        INT32, at RESULT.
    zero_point : In(signed(8))
        At RESULT.
    word : Out(32)
    byte : Out(signed(8))
    half : Out(16)
        BF16; only with block scaling.
    result : Out(32)
        The word, at RESULT.
    key : Out(signed(32))
        The same as a key, or INT32.
    """

    SCALE, KEY, CLAMP = timing.LANE_SCALE, timing.LANE_KEY, timing.LANE_CLAMP
    RESCALE = timing.LANE_RESCALE
    MAXIMUM, RESULT, OUT = timing.LANE_MAXIMUM, timing.LANE_RESULT, timing.LANE_OUT

    def __init__(self, config: ChipConfig):
        self._config, self._ecp5 = config, config.multiplier != "portable"
        super().__init__({
            "a": In(signed(32)), "bias": In(signed(32)), "adds": In(1), "again": In(1),
            "scale": In(32), "integer_key": In(1), "low": In(signed(32)), "high": In(signed(32)), "valid": In(1),
            "starts": In(1), "integer_result": In(1), "zero_point": In(signed(8)),
            "word": Out(32), "byte": Out(signed(8)), "result": Out(32), "key": Out(signed(32)),
            **({"float": In(1)} if config.vector_floats else {}),
            **({"second": In(32), "rescale": In(1)} if config.functions else {}),
            **({"half": Out(16)} if config.block_scaled else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.to_float = to_float = IntToFloat()
        m.submodules.multiply = multiply = FloatMultiply(ecp5=self._ecp5)
        m.submodules.around = around = Delay(32, self.KEY - 1)
        m.submodules.to_int8 = to_int8 = FloatToInt8()
        m.submodules.beside = beside = Delay(32, self.OUT - self.RESULT)

        total = Signal(signed(32), reset_less=True)
        with m.If(self.adds):
            m.d.sync += total.eq(self.a + Mux(self.again, total, self.bias))
        m.d.comb += [
            to_float.i.eq(total),
            around.i.eq(total.as_unsigned()),
            multiply.a.eq(self._sum(m, to_float.o)),
            multiply.b.eq(self.scale),
        ]
        key = Signal(signed(32))
        m.d.comb += key.eq(Mux(self.integer_key, around.o.as_signed(), total_order(self._product(m, multiply.o))))
        clamped = self._clamp(m, delay(m, key, "key_late"))

        maximum = Signal(signed(32), reset_less=True)
        with m.If(self.valid & (self.starts | (clamped > maximum))):
            m.d.sync += maximum.eq(clamped)

        m.d.comb += [
            self.key.eq(maximum),
            self.result.eq(Mux(self.integer_result, maximum.as_unsigned(), total_order(maximum))),
            to_int8.i.eq(self.result),
            to_int8.zero_point.eq(self.zero_point),
            self.byte.eq(to_int8.o),
            beside.i.eq(self.result),
            self.word.eq(beside.o),
        ]
        if self._config.block_scaled:
            m.submodules.to_bf16 = to_bf16 = FloatToBf16()
            m.submodules.beside_half = half = Delay(16, self.OUT - self.RESULT - FloatToBf16.LATENCY)
            m.d.comb += [to_bf16.i.eq(self.result), half.i.eq(to_bf16.o), self.half.eq(half.o)]
        return m

    def _sum(self, m, converted):
        """A plus bias in FP32, at SCALE."""
        if not self._config.vector_floats:
            return converted
        m.submodules.add = add = FloatAdd()
        if FloatAdd.LATENCY != self.SCALE:
            raise NotImplementedError("FloatAdd must take as long as the addition and conversion of integers")
        m.d.comb += [add.a.eq(self.a), add.b.eq(self.bias)]
        return Mux(self.float, add.o, converted)

    def _product(self, m, first):
        """The first product, or that times the second factor, at KEY."""
        if not self._config.functions:
            return first
        m.submodules.multiply_again = again = FloatMultiply(ecp5=self._ecp5, lower=18)
        m.d.comb += [again.a.eq(first), again.b.eq(self.second)]
        return Mux(self.rescale, again.o, first)

    def _clamp(self, m, key):
        low, high = (delay(m, bound, name) for bound, name in ((self.low, "low_late"), (self.high, "high_late")))
        is_low = delay(m, key < self.low, "is_low")
        is_high = delay(m, key > self.high, "is_high")
        return delay(m, Mux(is_high, high, Mux(is_low, low, delay(m, key, "key_compared"))), "clamped")
