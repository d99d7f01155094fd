"""FP32 sums of rows: every sum, in its cycle, whatever rows and pauses come before it."""

import cocotb

from kiwicha import ChipConfig
from kiwicha.isa import ResultFunction
from kiwicha.timing import FLOAT_ADD, row_sums, sum_levels
from kiwicha.vector.row_sums import RowSums
from tb import harness
from tb.harness import Bench, cycles, port
from tb.mutation import Invisible, mutated_bench
from tb.vector.model import NAN, float_sum
from tb.vector.programs import FLOATS


def config(columns, lanes):
    return ChipConfig(name=f"sums{columns}_{lanes}", rows=4, columns=columns, bus_width=128, vector_lanes=lanes,
                      scratchpad_banks=2, bank_lines=64, accumulator_lines=64, functions=True)


class World:
    """Feeds steps, and holds what comes to what should."""

    def __init__(self, dut):
        self.dut, self.config = dut, harness.current().params["config"]
        self.random = harness.rng("row sums")
        self.lanes = self.config.vector_lanes
        self.most = sum_levels(self.config, (1 << 16) - 1)
        self.cycle, self.due = 0, {}        # due: sum and function, by cycle

    async def step(self, **inputs):
        """One cycle, with or without a step's values; what nobody looks at is random."""
        get = self.random.getrandbits
        junk = {"valid": 0, "value": [get(32) for _ in range(self.lanes)], "counts": get(self.lanes),
                "begins": get(1), "ends": get(1), "levels": self.random.randint(0, self.most), "function": get(2)}
        for name, value in (junk | inputs).items():
            if isinstance(value, list):
                value = sum(word << 32 * lane for lane, word in enumerate(value))
            port(self.dut, name).value = int(getattr(value, "value", value))
        await cycles(self.dut, 1)
        total, function = self.due.pop(self.cycle, (None, None))
        assert port(self.dut, "o_valid").value == (total is not None), f"cycle {self.cycle}: a sum, or none"
        if total is not None:
            got = int(port(self.dut, "o").value)
            assert got == total, f"cycle {self.cycle}: {got:08X}, not {total:08X}"
            assert port(self.dut, "o_function").value == function.value, f"cycle {self.cycle}: the function"
        self.cycle += 1

    async def settle(self):
        while self.due:
            await self.step()
        await self.step()
        assert not port(self.dut, "moving").value, "all sums are out, and something moves"

    def values(self, specials):
        """Of a step: of one size, so that rounding decides, or special ones; those that do not count are -0."""
        words = [self.random.choice(FLOATS) if self.random.random() < specials else
                 self.random.getrandbits(32) & 0x81FFFFFF | 0x3E000000 for _ in range(self.lanes)]
        counts = [self.random.random() < 0.9 for _ in range(self.lanes)]
        return words, counts, [word if there else 1 << 31 for word, there in zip(words, counts, strict=True)]

    async def row(self, steps, pause=0, specials=0, ends=True):
        """A row of so many steps, with pauses; or the beginning of one."""
        levels, function, numbers = max(1, (steps - 1).bit_length()), self.random.choice(list(ResultFunction)), []
        for number in range(steps):
            while self.random.random() < pause:
                await self.step()
            words, counts, counted = self.values(specials)
            numbers += counted
            last = ends and number == steps - 1
            if last:
                self.due[self.cycle + row_sums(self.config, levels)] = int(float_sum(numbers)), function
            await self.step(valid=1, value=words, counts=sum(bit << lane for lane, bit in enumerate(counts)),
                            begins=number == 0, ends=last, levels=levels,
                            **({"function": function} if last else {}))


@cocotb.test()
async def rows(dut):
    """Rows of as many levels follow one another, of any length there is for it."""
    await harness.start(dut)
    world = World(dut)
    for pause in (0, 0.3):
        for levels, count in enumerate((24, 20, 16, 10, 6, 4, 3), start=1):
            fewest, most = (1 << levels - 1) + 1 if levels > 1 else 1, 1 << levels
            for number in range(count):
                steps = (fewest, most)[number] if number < 2 else world.random.randint(fewest, most)
                await world.row(steps, pause, world.random.choice((0, 0, 0.03, 1 / 3)))
            await world.settle()


@cocotb.test()
async def shortest_of_each_level(dut):
    """One step more than a power of two has: a lone one at each level, and no fewer additions than steps."""
    await harness.start(dut)
    world = World(dut)
    for levels in range(1, 8):
        for _ in range(6):
            await world.row((1 << levels - 1) + 1 if levels > 1 else 1)
        await world.settle()


@cocotb.test()
async def beginnings_of_rows(dut):
    """What is left of a row that does not end: nothing that a later one feels, once it stands still."""
    await harness.start(dut)
    world = World(dut)
    for levels in (*range(8), *range(8)):
        await world.row(1 << levels, ends=False)
        # The last step's sum completes a pair of each level; the second adder's queue is a cycle more.
        tree = 1 + FLOAT_ADD * (world.lanes - 1).bit_length()
        for _ in range(tree + (FLOAT_ADD + 1) * levels + (levels != 1)):
            await world.step()
            assert port(dut, "moving").value, f"level {levels}: nothing moves"
        await world.step()
        assert not port(dut, "moving").value, f"level {levels}: still moving"
        length = world.random.choice((1, 2, 3, 5, 9))
        for _ in range(3):
            await world.row(length)
        await world.settle()


@cocotb.test()
async def special_numbers(dut):
    await harness.start(dut)
    world = World(dut)
    for numbers in ([0x7F800000, 0xFF800000], [0x7F800000, 0x7F800000], [0xFFC12345], [NAN, 0], [1 << 31], [0],
                    [1 << 31, 0], [0x3F800000, 0xBF800000], [1, 0x80000002], [0x7F7FFFFF, 0x7F7FFFFF],
                    [0x4B800000, 0x3F800000, 0x3F800000], [0x4B800000, 1 << 31, 0x3F800000, 0x3F800000]):
        for at in (0, 1, 4):
            row = [1 << 31] * at + numbers
            row += [1 << 31] * (8 * world.lanes - len(row))
            world.due[world.cycle + 7 + row_sums(world.config, 3)] = int(float_sum(row)), ResultFunction.EXP2
            for number in range(8):
                await world.step(valid=1, value=row[number * world.lanes:(number + 1) * world.lanes], levels=3,
                                 counts=(1 << world.lanes) - 1, begins=number == 0, ends=number == 7,
                                 function=ResultFunction.EXP2)
    await world.settle()


@cocotb.test()
async def long_rows(dut):
    """Thousands of steps, and rows whose last pairs wait longest."""
    await harness.start(dut)
    world = World(dut)
    for length, count in ((157, 8), (255, 5), (1000, 3), (4099, 2)):
        for _ in range(count):
            await world.row(length)
        await world.settle()


def _shape(columns, lanes):
    chip = config(columns, lanes)
    return Bench(module=__name__, name=f"row_sums_{lanes}", build=lambda: RowSums(chip), params={"config": chip})


_MUTATED = config(2, 2)

BENCHES = [
    _shape(4, 1), _shape(4, 2), _shape(12, 4), _shape(32, 8),
    mutated_bench("row_sums", lambda: RowSums(_MUTATED), "row_sums.py", module=__name__,
                  params={"config": _MUTATED}, testcase=("rows", "shortest_of_each_level", "beginnings_of_rows"),
                  invisible=[Invisible("first = item.first | held.first", "|: second operand alone",
                                       "above the first level, no first item is the last", (1, 2))]),
]
