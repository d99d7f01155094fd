"""FP32 sums of rows: all results of a row to one, in pairs."""

from typing import NamedTuple

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..arith.float_add import FloatAdd
from ..config import ChipConfig
from ..formats import MINUS_ZERO
from ..isa import ResultFunction
from ..lib.delay import delay
from ..lib.stream import Queue
from ..timing import MOST_ITERATIONS, sum_levels, sum_tree
from .shapes import Geometry

__all__ = ["RowSums"]

#: Pairs that may wait for the second adder, and rows between their last step and their sum. Of all rows and pauses
#: there are 2 pairs at most; and 6 rows, of a step each.
_WAITING, _OPEN = 4, 8


class _Item(NamedTuple):
    """The sum of some neighbours of a row, and whether it is the first, or the last, of its level."""
    valid: Value
    value: Value
    first: Value
    last: Value


class _Pair(NamedTuple):
    """Two of them that are to be added; the flags are the sum's."""
    valid: Value
    a: Value
    b: Value
    first: Value
    last: Value


_HELD = data.StructLayout({"value": 32, "first": 1, "waits": 1})


class RowSums(wiring.Component):
    """Adds FP32 numbers, `lanes` of them a cycle, from a row's first step to its last.

    The order is that of a balanced tree over a row's numbers: neighbours are added, then sums of neighbours, and
    so on; a lone one at the end is added to -0, which leaves it as it is. So NaN is the canonical one.

    A step's values go through a tree of adders, whose sums a first adder takes in pairs, and a second one does the
    additions of all levels above: of each level, one sum is held until the next one comes. A row of n sums has
    n / 2 of these additions, and at each level up to half of one more, for a lone one at its end: in all no more
    than n. The second adder's own sums never wait, but pairs of the first one's do: a row's last for up to
    :data:`~kiwicha.timing.SUM_WAIT` cycles (`tests/test_row_sums.py` says why). For a row's latency to be the same
    whatever comes before it, its sum waits for what is left of these: shorter than until the next row's.

    Latency :func:`~kiwicha.timing.row_sums` cycles from the step that ends a row, one step per cycle, no stall.

    Members
    -------
    valid : In(1)
        A step's values are here.
    value : In(array of 32)
    counts : In(lanes)
        Which of them count.
    begins, ends : In(1)
        It is a row's first, or last.
    levels : In
        Of additions over a row's steps, at least 1: :func:`~kiwicha.timing.sum_levels`. It may change only when
        all rows that ended are out and nothing is `moving`.
    function : In(ResultFunction)
        Comes out with the row that this step ends.
    o_valid : Out(1), o : Out(32), o_function : Out(ResultFunction)
        A row's sum; only in this cycle.
    moving : Out(1)
        A value was in an adder, or on its way to one, a cycle ago: not one that waits for a step to come.
    """

    def __init__(self, config: ChipConfig):
        self._config, self._lanes = config, Geometry.of(config).lanes
        self._most_levels = sum_levels(config, MOST_ITERATIONS)
        super().__init__({
            "valid": In(1), "value": In(data.ArrayLayout(32, self._lanes)), "counts": In(self._lanes),
            "begins": In(1), "ends": In(1), "levels": In(range(self._most_levels + 1)),
            "function": In(ResultFunction),
            "o_valid": Out(1), "o": Out(32), "o_function": Out(ResultFunction), "moving": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        self._moving = [self.valid]
        step, function = self._steps(m)
        first, first_ends = self._add(m, "first", _neighbours(m, step, "held_step"))
        second, second_ends = self._add_again(m, _neighbours(m, first, "held_sum"))
        with m.If(first_ends | second_ends):
            m.d.sync += self.o.eq(Mux(first_ends, first.value, second.value))
        self._hand_out(m, step.valid & step.last, function)
        m.d.sync += self.moving.eq(Cat(self._moving).any())
        return m

    def _steps(self, m):
        """The sum of each step's values, and the function that came with it."""
        values = [delay(m, Mux(counts, value, MINUS_ZERO), f"value_{lane}")
                  for lane, (value, counts) in enumerate(zip(self.value, self.counts, strict=True))]
        level = 0
        while len(values) > 1:
            adders = [FloatAdd() for _ in values[::2]]
            for index, add in enumerate(adders):
                m.submodules[f"step_{level}_{index}"] = add
                m.d.comb += [add.a.eq(values[2 * index]), add.b.eq(values[2 * index + 1])]
            values, level = [add.o for add in adders], level + 1
        cycles = 1 + FloatAdd.LATENCY * level
        first, last, function = (delay(m, value, name, cycles) for value, name in (
            (self.begins, "step_first"), (self.ends, "step_last"), (self.function, "step_function")))
        return _Item(self._follow(m, self.valid, "step_valid", cycles), values[0], first, last), function

    def _add(self, m, name, pair):
        """The sum of a pair, as an item unless it is a row's; and whether it is that."""
        m.submodules[name] = add = FloatAdd()
        m.d.comb += [add.a.eq(pair.a), add.b.eq(pair.b)]
        valid = self._follow(m, pair.valid, f"{name}_valid", FloatAdd.LATENCY)
        first, last = (delay(m, value, f"{name}_{flag}", FloatAdd.LATENCY) for value, flag in
                       ((pair.first, "first"), (pair.last, "last")))
        ends = first & last
        return _Item(valid & ~ends, add.o, first, last), valid & ends

    def _add_again(self, m, pair):
        """Sums of the second adder: of pairs like this one, which wait for a cycle without one of its own."""
        m.submodules.pairs = pairs = Queue(data.StructLayout({"a": 32, "b": 32, "first": 1, "last": 1}), _WAITING)
        depth = max(1, self._most_levels - 2)
        m.submodules.held_sums = memory = Memory(shape=_HELD, depth=depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        height, own = Signal(range(depth + 1)), Signal(pairs.o.payload.shape())
        takes, own_valid = Signal(own.shape()), Signal()
        chosen = _Pair(self._follow(m, own_valid | pairs.o.valid, "takes_valid", 1),
                       *(delay(m, takes[name], f"takes_{name}") for name in ("a", "b", "first", "last")))
        item, ends = self._add(m, "second", chosen)
        completed, left = _paired(item, read.data)
        m.d.comb += [
            pairs.i.valid.eq(pair.valid), pairs.o.ready.eq(~own_valid), own_valid.eq(completed.valid),
            *(queued[name].eq(getattr(source, name)) for queued, source in ((pairs.i.p, pair), (own, completed))
              for name in ("a", "b", "first", "last")),
            takes.eq(Mux(own_valid, own, pairs.o.p)),
            read.addr.eq(height), write.addr.eq(height), write.data.eq(left), write.en.eq(item.valid),
            height.eq(delay(m, Mux(own_valid, height + 1, 0)[:len(height)], "height", 1 + FloatAdd.LATENCY)),
        ]
        self._moving.append(pairs.o.valid)
        return item, ends

    def _hand_out(self, m, ends, function):
        """A row's sum is out when it has been here as long as the latest one."""
        times = [sum_tree(max(1, levels)) for levels in range(self._most_levels + 1)]
        now = Signal(range(times[-1] + 1))
        row = data.StructLayout({"due": now.shape(), "function": ResultFunction})
        m.submodules.open_rows = rows = Queue(row, _OPEN)
        cycles, due = Signal.like(now, name="cycles", reset_less=True), Signal()
        with m.If(self.valid):
            # One is the register at the end.
            m.d.sync += cycles.eq(Array(time - 1 for time in times)[self.levels])
        m.d.comb += [
            rows.i.valid.eq(ends), rows.i.p.due.eq(now + cycles), rows.i.p.function.eq(function),
            due.eq(rows.o.valid & (rows.o.p.due == now)), rows.o.ready.eq(due),
        ]
        m.d.sync += [now.eq(now + 1), self.o_valid.eq(due), self.o_function.eq(rows.o.p.function)]

    def _follow(self, m, valid, name, cycles):
        """A valid bit, `cycles` later; while it is under way, something is moving."""
        way = Signal(cycles, name=name)
        m.d.sync += way.eq(Cat(valid, way)[:cycles])
        self._moving.append(way)
        return way[-1]


def _paired(item, held):
    """An item and the one that is held of its level and row, or the last one alone; and what is held after it."""
    both = held.waits & ~item.first
    goes = both | item.last
    # If the last one is alone, what is held is the second of a pair, or another row's.
    first = item.first | held.first
    return (_Pair(item.valid & goes, item.value, Mux(both, held.value, MINUS_ZERO), first, item.last),
            Cat(item.value, item.first, ~goes))


def _neighbours(m, item, name):
    """The pairs of items that are all of one level."""
    held = Signal(_HELD, name=name, reset_less=True)
    pair, left = _paired(item, held)
    with m.If(item.valid):
        m.d.sync += held.eq(left)
    return pair
