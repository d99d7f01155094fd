"""All results of a row to one: their sum as integers, or their maximum."""

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..lib.delay import delay, delay_valid
from ..timing import row_reducer
from .shapes import Geometry

__all__ = ["RowReducer"]

_LEAST = -(1 << 31)


class RowReducer(wiring.Component):
    """Sums or compares int32 values, `lanes` of them a cycle, from a row's first step to its last.

    Sums are modulo 2^32, and a maximum is one of the values: neither depends on their order. Latency
    :attr:`latency` cycles from the step that ends a row, one step per cycle, no stall.

    Members
    -------
    valid : In(1)
        A step's values are here.
    value : In(array of signed(32))
        Integers, or keys that compare as such.
    counts : In(lanes)
        Which of them count.
    begins, ends : In(1)
        It is a row's first, or last.
    sum : In(1)
        A sum rather than the maximum.
    o_valid : Out(1)
        The row's result is here; only in this cycle.
    o : Out(signed(32))
    """

    def __init__(self, config: ChipConfig):
        self._geometry = geometry = Geometry.of(config)
        self.latency = row_reducer(config)
        super().__init__({
            "valid": In(1), "value": In(data.ArrayLayout(signed(32), geometry.lanes)),
            "counts": In(geometry.lanes), "begins": In(1), "ends": In(1), "sum": In(1),
            "o_valid": Out(1), "o": Out(signed(32)),
        })

    def elaborate(self, platform):
        m = Module()
        values = [delay(m, Mux(self.counts[lane], self.value[lane], Mux(self.sum, 0, _LEAST)), f"value_{lane}")
                  for lane in range(self._geometry.lanes)]
        levels, is_sum = self.latency - 2, delay(m, self.sum, "is_sum_0")
        for level in range(levels):
            values = [delay(m, _joined(is_sum, a, b), f"value_{level}_{index}")
                      for index, (a, b) in enumerate(zip(values[::2], values[1::2], strict=True))]
            is_sum = delay(m, is_sum, f"is_sum_{level + 1}")
        valid, ends = (delay_valid(m, bit, name, levels + 1) for bit, name in
                       ((self.valid, "valid_"), (self.valid & self.ends, "ends_")))
        begins = delay(m, self.begins, "begins_late", levels + 1)
        with m.If(valid):
            m.d.sync += self.o.eq(Mux(begins, values[0], _joined(is_sum, self.o, values[0])))
        m.d.sync += self.o_valid.eq(ends)
        return m


def _joined(is_sum, a, b):
    """The sum of two, or the larger."""
    return Mux(is_sum, (a + b)[:32], Mux(a < b, b, a)[:32]).as_signed()
