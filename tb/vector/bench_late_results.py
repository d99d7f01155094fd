"""Results of rows, and functions of results: every word, in its cycle."""

from functools import partial

import cocotb
import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import ResultFunction
from kiwicha.timing import RESULT_FUNCTIONS, row_reducer, row_sums, steps, sum_levels
from kiwicha.vector.late_results import LateResults
from kiwicha_host.golden import functions
from tb import harness
from tb.harness import Bench, cycles, port
from tb.mutation import Invisible, mutated_bench
from tb.vector.model import float_sum, order, unorder
from tb.vector.programs import FLOATS, INTS

_GOLDEN = {ResultFunction.EXP2: functions.exp2, ResultFunction.RECIPROCAL: functions.reciprocal,
           ResultFunction.RSQRT: functions.rsqrt}
_INPUTS = {"valid": 1, "begins": 1, "ends": 1, "tail": 1, "sum": 1, "integer": 1, "row": 1, "function": 2}


def config(columns, lanes):
    return ChipConfig(name=f"late{columns}_{lanes}", rows=4, columns=columns, bus_width=128, vector_lanes=lanes,
                      scratchpad_banks=2, bank_lines=64, accumulator_lines=64, functions=True)


class World:
    """Feeds steps, and holds what comes to what should."""

    def __init__(self, dut):
        self.dut, self.config = dut, harness.current().params["config"]
        self.random = harness.rng("late results")
        self.lanes, self.steps = self.config.vector_lanes, steps(self.config)
        self.cycle, self.due, self.open = 0, {}, []     # due: words and step, by cycle; open: from and to
        self.adding = False     # a row is on its way to an FP32 sum: idle if it stands still

    async def step(self, **inputs):
        """One cycle, with or without a step's results; what nobody looks at is random."""
        junk = {name: self.random.getrandbits(bits) for name, bits in _INPUTS.items()}
        junk |= {"valid": 0, "key": [self.random.getrandbits(32) for _ in range(self.lanes)], "step": 0,
                 "word": [self.random.getrandbits(32) for _ in range(self.lanes)], "limit": 1}
        if self.config.float_row_sums:
            junk["levels"] = 0 if inputs.get("row") else self.random.choice((0, 1, 14))
        for name, value in (junk | inputs).items():
            if isinstance(value, list):
                value = sum(word << 32 * lane for lane, word in enumerate(value))
            port(self.dut, name).value = int(getattr(value, "value", value))
        await cycles(self.dut, 1)
        words, number = self.due.pop(self.cycle, (None, None))
        assert port(self.dut, "o_valid").value == (words is not None), f"cycle {self.cycle}: words, or none"
        if words is not None:
            got = int(port(self.dut, "o").value)
            got = [got >> 32 * lane & 0xFFFFFFFF for lane in range(self.lanes)]
            assert got == words, f"cycle {self.cycle}: {got}, not {words}"
            assert port(self.dut, "o_step").value == number
        idle = not any(first < self.cycle <= last + 1 for first, last in self.open)
        if not (self.adding and idle):
            assert port(self.dut, "idle").value == idle, f"cycle {self.cycle}: idle, or not"
        self.cycle += 1

    async def settle(self):
        while self.due or not port(self.dut, "idle").value:
            await self.step()
        self.open.clear()

    def keys(self, integer, narrow=0):
        """Of a step: as keys, and as they are; of one size, if `narrow`."""
        edges = INTS if integer else FLOATS
        words = [(self.random.choice(edges) if self.random.random() < 0.3 else
                  self.random.getrandbits(32)) & 0xFFFFFFFF for _ in range(self.lanes)]
        if narrow and self.random.random() < 0.98:
            words = [word & 0x81FFFFFF | 0x3E000000 for word in words]
        words = [word if integer or word & 0x7FFFFFFF <= 0x7F800000 else 0x7FC00000 for word in words]
        return [word if integer else int(order(word)) & 0xFFFFFFFF for word in words], words

    async def row(self, iterations, function, integer, is_sum, gap, levels=0, ends=True):
        columns = self.config.columns
        tail = self.random.randint(1, columns)
        values, self.adding = [], levels > 0
        more = {"levels": levels} if levels else {}
        for iteration, step in np.ndindex(iterations, self.steps):
            while self.random.random() < gap:
                await self.step()
            last = iteration == iterations - 1
            keys, words = self.keys(integer, narrow=levels)
            values += [word for lane, word in enumerate(words)
                       if self.lanes * step + lane < (tail if last else columns)]
            end = ends and last and step == self.steps - 1
            if end:
                self._expect_row(values, function, integer, is_sum, levels)
            await self.step(valid=1, key=keys, word=words, step=step, begins=iteration + step == 0, ends=end,
                            tail=last, limit=tail, sum=is_sum, integer=integer, row=1, function=function,
                            **more)
        self.adding = self.adding and not ends

    def _expect_row(self, values, function, integer, is_sum, levels):
        values = np.array(values, np.uint32)
        if levels:
            result = float_sum(values)
        elif is_sum:
            result = np.uint32(int(values.astype(np.int64).sum()) % (1 << 32))
        elif integer:
            result = values.view(np.int32).max().view(np.uint32)
        else:
            result = unorder(order(values).max())
        first = self.cycle + (row_sums(self.config, levels) if levels else row_reducer(self.config)) + 1
        if function != ResultFunction.NONE:
            result = _GOLDEN[function](np.array([result]).view(np.float32)).view(np.uint32)[0]
            first += RESULT_FUNCTIONS + 1
        self.due |= {first + step: ([int(result)] * self.lanes, step) for step in range(self.steps)}
        self.open.append((self.cycle, first + self.steps - 1))

    async def one(self, function, step):
        """A step whose results have a function, and the cycles that it takes."""
        keys, words = self.keys(False)
        results = _GOLDEN[function](np.array(words, np.uint32).view(np.float32)).view(np.uint32)
        at = self.cycle + RESULT_FUNCTIONS + self.lanes + 1
        self.due[at] = (results.tolist(), step)
        self.open.append((self.cycle, at))
        await self.step(valid=1, key=keys, word=words, step=step, row=0, function=function, integer=0)
        for _ in range(self.lanes - 1):
            await self.step()


@cocotb.test()
async def rows(dut):
    await harness.start(dut)
    world = World(dut)
    for gap in (0, 0, 0.3):
        for integer, is_sum, has_function in ((1, 0, 0), (1, 1, 0), (0, 0, 0), (0, 0, 1)):
            for _ in range(12):
                function = world.random.choice(list(_GOLDEN)) if has_function else ResultFunction.NONE
                await world.row(world.random.choice((1, 1, 2, 5)), function, integer, is_sum, gap)
            await world.settle()


@cocotb.test()
async def float_sums(dut):
    """Of rows of as many iterations, one after the other, with functions or without."""
    await harness.start(dut)
    world = World(dut)
    if not world.config.float_row_sums:
        return
    for gap in (0, 0, 0.3):
        for has_function in (0, 1):
            for iterations in (1, 2, 3, 5, 9, 33):
                for _ in range(8 if iterations < 5 else 3):
                    function = world.random.choice(list(_GOLDEN)) if has_function else ResultFunction.NONE
                    await world.row(iterations, function, 0, 1, gap, sum_levels(world.config, iterations))
                await world.settle()
    # Of a row that does not end, something moves for a while; as soon as nothing does, anything else may come.
    for iterations, integer in ((4, 1), (16, 0), (8, 1)):
        await world.row(iterations, ResultFunction.NONE, 0, 1, 0, sum_levels(world.config, iterations), ends=False)
        await world.step()
        assert not port(dut, "idle").value, "idle, and something moves"
        for _ in range(200):
            if port(dut, "idle").value:
                break
            await world.step()
        await world.row(1, ResultFunction.NONE, integer, 0, 0)
        await world.settle()


@cocotb.test()
async def functions_of_steps(dut):
    await harness.start(dut)
    world = World(dut)
    for _ in range(60):
        await world.one(world.random.choice(list(_GOLDEN)), world.random.randrange(world.steps))
        while world.random.random() < 0.2:
            await world.step()
        if world.random.random() < 0.1:
            await world.settle()
    await world.settle()


@cocotb.test()
async def plain_steps_are_not_here(dut):
    await harness.start(dut)
    world = World(dut)
    for _ in range(80):
        await world.step(valid=1, row=0, function=ResultFunction.NONE)
        for _ in range(world.random.choice((0, 0, 40))):
            await world.step()


def _shape(columns, lanes):
    chip = config(columns, lanes)
    return Bench(module=__name__, name=f"late_results_{columns}_{lanes}", build=lambda: LateResults(chip),
                 params={"config": chip})


_MUTATED = config(14, 4)

BENCHES = [
    _shape(4, 1), _shape(32, 8), _shape(2, 2), _shape(14, 4),
    *(mutated_bench(name, partial(LateResults, chip), f"{name}.py", module=__name__,
                    params={"config": chip}, invisible=invisible) for name, chip, invisible in (
        ("row_reducer", _MUTATED,
         [Invisible("Mux(a < b, b, a)", "< -> <=", "of two equal values, either", (0, 1, 2, 3))]),
        ("result_functions", _MUTATED, ()), ("late_results", config(8, 4), ()))),
]
