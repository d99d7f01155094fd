"""Loop nests and the addresses that walk them: one shared component for every address generator."""

from functools import reduce
from operator import or_

from amaranth import Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["POINTER_WIDTH", "LoopNest", "Pointer"]

#: Wide enough that a 16-bit address plus one 16-bit stride never wraps, so a range check is exact.
POINTER_WIDTH = 18


class LoopNest(wiring.Component):
    """Nested loops, level 0 innermost, one iteration per `advance`.

    `advance` may hang on a long path, for it only enables registers; `load` chooses what goes into each of them.

    Parameters
    ----------
    levels : int
        Number of loops.
    width : int
        Bits of a count.

    Members
    -------
    load : In(1)
        With `advance`: start over with `counts` (each at least 1).
    advance : In(1)
        Go to the next iteration.
    first, last : Out(levels)
        Level i is in its first (last) iteration; registers.
    carry : Out(levels)
        One-hot: the level whose index grows at the next `advance`; all zero in the very last iteration.
    done : Out(1)
        This is the very last iteration.
    """

    def __init__(self, levels: int, width: int = 16):
        self.levels = levels
        self.width = width
        super().__init__({
            "load": In(1),
            "counts": In(data.ArrayLayout(width, levels)),
            "advance": In(1),
            "first": Out(levels),
            "last": Out(levels),
            "carry": Out(levels),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # The same as `last`, for `carry` alone, which steers all pointers. Other initial values keep them apart.
        ends = Signal(self.levels, init=-1, reset_less=True)
        m.d.comb += self.done.eq(self.last.all())
        for level in range(self.levels):
            # count - 1, to start each round with; iterations after this one.
            top, left = (Signal(self.width, name=f"{name}{level}", reset_less=True) for name in ("top", "left"))
            inner_done = self.last[:level].all() if level else Const(1, 1)
            m.d.comb += self.carry[level].eq((ends[:level].all() if level else 1) & ~ends[level])
            ending = Signal(name=f"ending{level}")       # the next iteration is the last
            with m.If(self.load):
                m.d.comb += ending.eq(self.counts[level] == 1)
            with m.Elif(self.last[level]):
                m.d.comb += ending.eq(top == 0)
            with m.Else():
                m.d.comb += ending.eq(left == 1)
            with m.If(self.advance & (self.load | inner_done)):
                m.d.sync += [self.last[level].eq(ending), ends[level].eq(ending)]
            with m.If(self.advance & self.load):
                m.d.sync += [top.eq(self.counts[level] - 1), left.eq(self.counts[level] - 1),
                             self.first[level].eq(1)]
            with m.Elif(self.advance & inner_done):
                m.d.sync += [left.eq(Mux(self.last[level], top, left - 1)), self.first[level].eq(self.last[level])]
        return m


class Pointer(wiring.Component):
    """An address that follows a :class:`LoopNest`: base plus the sum of index times stride over its levels.

    Each level remembers the address at which its current iteration began, so a carry costs one addition and
    any range check of `value`, made before each iteration, is exact.

    Parameters
    ----------
    levels : int
        Number of loops.
    stride_width, base_width : int
        Bits.

    Members
    -------
    load : In(1)
        With `advance`: take `base`.
    base : In(16)
    strides : In(signed(16) array)
    advance, carry
        From the loop nest; with `load`, none may carry.
    value : Out(signed(18))
        The current address; a register.
    """

    def __init__(self, levels: int, stride_width: int = 16, base_width: int = 16):
        self.levels = levels
        self.width = max(stride_width, base_width) + 2
        super().__init__({
            "load": In(1),
            "base": In(base_width),
            "strides": In(data.ArrayLayout(signed(stride_width), levels)),
            "advance": In(1),
            "carry": In(levels),
            "value": Out(signed(self.width)),
        })

    def elaborate(self, platform):
        m = Module()
        starts = [Signal(signed(self.width), name=f"start{level}", reset_less=True)
                  for level in range(self.levels)]
        # All additions at once, beside the logic of `carry`; after both nothing but the choice of one.
        choices = [(self.load, self.base)]
        choices += [(carry, (start + stride)[:self.width])
                    for carry, start, stride in zip(self.carry, starts, self.strides, strict=True)]
        following = Signal(self.width)
        m.d.comb += [
            self.value.eq(starts[0]),
            following.eq(reduce(or_, (choice & chosen.replicate(self.width) for chosen, choice in choices))),
        ]
        for level, start in enumerate(starts):
            with m.If(self.advance & (self.load | self.carry[level:].any())):
                m.d.sync += start.eq(following)
        return m
