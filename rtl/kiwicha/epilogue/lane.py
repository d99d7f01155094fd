"""One lane of the epilogue: what happens to a column."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..arith.convert import FloatToInt8, IntToFloat
from ..arith.delay import Delay, later
from ..arith.multiply import FloatMultiply
from ..arith.order import total_order

__all__ = ["Lane"]


class Lane(wiring.Component):
    """Bias, conversion, scale, clamp, maximum, conversion: one value per cycle, without a stall.

    Each input belongs to the value that came in so many cycles before, which the names below say:

    ============  =============================================================================
    at 0          add the bias, modulo 2^32
    at SCALE      multiply by the factor, in FP32
    at KEY        from here on, values are keys that compare as integers; INT32 joins here
    at CLAMP      compare with both bounds, then choose
    at MAXIMUM    the larger of this and the maximum so far, which `first` starts anew
    at RESULT     from keys to results, and to int8
    at OUT        both results are there
    ============  =============================================================================

    Members
    -------
    acc, bias : In(signed(32))
    scale : In(32)
    integer_key : In(1)
        INT32, at KEY.
    low, high : In(signed(32))
        Bounds as keys, low <= high, at CLAMP.
    valid, first : In(1)
        At MAXIMUM. Without `valid` the maximum so far stays.
    integer_result : In(1)
        INT32, at RESULT.
    zero_point : In(signed(8))
        At RESULT.
    word : Out(32)
    byte : Out(signed(8))
    """

    SCALE = 1 + IntToFloat.LATENCY
    KEY = SCALE + FloatMultiply.LATENCY
    CLAMP = KEY + 1
    MAXIMUM = CLAMP + 2
    RESULT = MAXIMUM + 1
    OUT = RESULT + FloatToInt8.LATENCY

    acc: In(signed(32))
    bias: In(signed(32))
    scale: In(32)
    integer_key: In(1)
    low: In(signed(32))
    high: In(signed(32))
    valid: In(1)
    first: In(1)
    integer_result: In(1)
    zero_point: In(signed(8))
    word: Out(32)
    byte: Out(signed(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.to_float = to_float = IntToFloat()
        m.submodules.multiply = multiply = FloatMultiply()
        m.submodules.around = around = Delay(32, self.KEY - 1)
        m.submodules.to_int8 = to_int8 = FloatToInt8()
        m.submodules.beside = beside = Delay(32, self.OUT - self.RESULT)

        total = later(m, (self.acc + self.bias)[:32], "total")
        m.d.comb += [
            to_float.i.eq(total),
            around.i.eq(total),
            multiply.a.eq(to_float.o),
            multiply.b.eq(self.scale),
        ]
        key = Signal(signed(32))
        m.d.comb += key.eq(Mux(self.integer_key, around.o.as_signed(), total_order(multiply.o)))
        clamped = self._clamp(m, later(m, key, "key_late"))

        maximum = Signal(signed(32), reset_less=True)
        with m.If(self.valid & (self.first | (clamped > maximum))):
            m.d.sync += maximum.eq(clamped)

        bits = Mux(self.integer_result, maximum.as_unsigned(), total_order(maximum))
        m.d.comb += [
            to_int8.i.eq(bits),
            to_int8.zero_point.eq(self.zero_point),
            self.byte.eq(to_int8.o),
            beside.i.eq(bits),
            self.word.eq(beside.o),
        ]
        return m

    def _clamp(self, m, key):
        low, high = (later(m, bound, name) for bound, name in ((self.low, "low_late"), (self.high, "high_late")))
        is_low = later(m, key < self.low, "is_low")
        is_high = later(m, key > self.high, "is_high")
        return later(m, Mux(is_high, high, Mux(is_low, low, later(m, key, "key_compared"))), "clamped")
