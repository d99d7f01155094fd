"""The largest of rows: every result in its cycle, whatever keys there are and whenever there is room."""

import cocotb

from kiwicha import ChipConfig
from kiwicha.isa import TOP_MOST
from kiwicha.timing import row_top, row_top_results, steps
from kiwicha.vector.row_top import RowTop
from tb import harness
from tb.harness import Bench, cycles, port
from tb.mutation import mutated_bench
from tb.vector.model import NAN, largest, order
from tb.vector.programs import FLOATS


def config(columns, lanes):
    return ChipConfig(name=f"top{columns}_{lanes}", rows=4, columns=columns, bus_width=128, vector_lanes=lanes,
                      scratchpad_banks=2, bank_lines=64, accumulator_lines=64, functions=True, top_k=True)


class World:
    """Feeds steps, and holds what comes to what should."""

    def __init__(self, dut):
        self.dut, self.config = dut, harness.current().params["config"]
        self.random = harness.rng("row top")
        self.lanes, self.steps = self.config.vector_lanes, steps(self.config)
        self.cycle, self.compared = 0, -1       # compared: with this cycle the last key so far is
        self.p_room = 1
        #: Results that are to go, from which cycle on the first of them may, and the one that went a cycle ago.
        self.due, self.soonest, self.coming = [], 0, None
        self.results = []       # cycles

    async def step(self, **inputs):
        """One cycle, with or without a step's keys; what nobody looks at is random."""
        get, cycle = self.random.getrandbits, self.cycle
        junk = {"valid": 0, "key": [get(32) for _ in range(self.lanes)], "counts": get(self.lanes),
                "begins": get(1), "ends": get(1), "top": get(4), "room": self.random.random() < self.p_room}
        inputs = junk | inputs
        for name, value in inputs.items():
            if isinstance(value, list):
                value = sum(word << 32 * lane for lane, word in enumerate(value))
            port(self.dut, name).value = int(value)
        await cycles(self.dut, 1)
        goes = bool(self.due) and cycle >= self.soonest and inputs["room"]
        assert port(self.dut, "free").value == (goes and len(self.due) == 1), f"cycle {cycle}: the last one goes"
        assert port(self.dut, "o_valid").value == (self.coming is not None), f"cycle {cycle}: a result, or none"
        busy = cycle <= self.compared or bool(self.due) or self.coming is not None
        assert port(self.dut, "busy").value == busy, f"cycle {cycle}: busy, or not"
        if self.coming is not None:
            got = int(port(self.dut, "o").value)
            assert got == self.coming, f"cycle {cycle}: {got:08X}, not {self.coming:08X}"
            self.results.append(cycle)
        self.coming = self.due.pop(0) if goes else None
        if goes:
            self.soonest = cycle + self.steps
        self.cycle += 1

    async def settle(self):
        while self.due:
            await self.step()

    def numbers(self, pool):
        """Of a step: any, some special ones, or a few again and again; and which of them count."""
        words = [self.random.choice(pool) if pool else self.random.getrandbits(32) for _ in range(self.lanes)]
        return words, [self.random.random() < 0.8 for _ in range(self.lanes)]

    async def row(self, length, top, pool=None, pause=0, ends=True, words=()):
        """A row of so many steps, or the beginning of one; its results are to come when nothing else is."""
        bits, begin = [], self.cycle
        for number in range(length):
            step, counts = self.numbers(pool)
            # The first always counts, and there are enough.
            counts[0] = counts[0] or not number
            if words or len(bits) + self.lanes * (length - number - 1) < top:
                counts = [True] * self.lanes
            step = words[number * self.lanes:(number + 1) * self.lanes] or step
            bits += [word for word, there in zip(step, counts, strict=True) if there]
            last = ends and number == length - 1
            at = self.cycle
            await self.step(valid=1, key=[int(order(word)) & 0xFFFFFFFF for word in step],
                            counts=sum(there << lane for lane, there in enumerate(counts)), begins=number == 0,
                            ends=last, **({"top": top} if last else {}))
            self.compared = at + self.lanes
            if last:
                values, places = largest(bits, top)
                self.due, self.soonest = values + places, max(self.soonest, self.compared + 2)
            while self.cycle <= self.compared - (not last) or self.random.random() < pause:
                await self.step()
        return begin


@cocotb.test()
async def rows(dut):
    """One after the other, of as few steps as there can be and of many, of each number of results."""
    await harness.start(dut)
    world = World(dut)
    fewest = -(-TOP_MOST // world.lanes)
    for pool in (None, FLOATS, (0, 1 << 31, NAN), (0xFFFFFFFF,), (0x3F800000, 0x3F800001, 0xBF800000)):
        for pause in (0, 0.3):
            for top in range(1, TOP_MOST + 1):
                for length in (-(-top // world.lanes), world.random.randint(fewest, 9 + fewest)):
                    await world.row(length, top, pool, pause)
                    await world.settle()


@cocotb.test()
async def orders_of_few(dut):
    """Ascending, also two by two, and descending; all alike, and a pair of equal ones at every two places."""
    await harness.start(dut)
    world = World(dut)
    count = 16 // world.lanes * world.lanes
    up = [0x3F800000 + place for place in range(count)]
    by_two = [up[place ^ 1] for place in range(count // 2 * 2)] + up[count // 2 * 2:]
    for words in (up, by_two, up[::-1], by_two[::-1], [5] * count, [1 << 31] * (count - 1) + [0],
                  [0] + [1 << 31] * (count - 1), [0xFFFFFFFF] * count, [NAN] * count):
        await world.row(count // world.lanes, TOP_MOST, words=words)
        await world.settle()
    # One, and then another, in front of each that is kept.
    for place in range(TOP_MOST):
        between = up[0] + 10 * (TOP_MOST - place) + 5
        words = [*(up[0] + 10 * (TOP_MOST - other) for other in range(TOP_MOST)), 0, between, between + 1]
        await world.row(count // world.lanes, TOP_MOST, words=words + [0] * (count - len(words)))
        await world.settle()
    for first in range(0, count, 3):
        for second in range(first + 1, count, 2):
            words = world.random.sample(up, count)
            words[first] = words[second] = up[-1] + 1
            await world.row(count // world.lanes, world.random.randint(1, TOP_MOST), words=words)
            await world.settle()


@cocotb.test()
async def latency_and_rate(dut):
    """The first result so long after the last step; the others, each when a line has had all its steps."""
    await harness.start(dut)
    world = World(dut)
    for top in range(1, TOP_MOST + 1):
        length = -(-top // world.lanes) + 1
        world.results, begin = [], await world.row(length, top)
        await world.settle()
        await world.step()
        end = begin + (length - 1) * world.lanes
        assert world.results[0] - end == row_top(world.config)
        assert world.results[-1] - world.results[0] == row_top_results(world.config, top)
        assert len(world.results) == 2 * top


@cocotb.test()
async def results_wait_for_room(dut):
    await harness.start(dut)
    world = World(dut)
    for world.p_room in (0.5, 0.1, 0.9):
        for _ in range(12):
            top = world.random.randint(1, TOP_MOST)
            await world.row(-(-top // world.lanes) + world.random.randrange(4), top)
            await world.settle()


@cocotb.test()
async def beginnings_of_rows(dut):
    """What is left of a row that does not end: nothing."""
    await harness.start(dut)
    world = World(dut)
    for length in range(1, 12):
        await world.row(length, 1, (0x7F800000, NAN), ends=False)
        while world.cycle <= world.compared + world.random.randrange(3):
            await world.step()
        top = world.random.randint(1, TOP_MOST)
        await world.row(-(-top // world.lanes), top)
        await world.settle()


@cocotb.test()
async def long_rows(dut):
    """Of thousands of numbers: places have as many bits as they need."""
    await harness.start(dut)
    world = World(dut)
    for count in (300, 5000):
        words = [world.random.getrandbits(30) for _ in range(count * world.lanes)]
        for place in (-1, -2, count // 2):
            words[place] = 0x7F000000 + place
        await world.row(count, 5, words=words)
        await world.settle()


def _shape(columns, lanes):
    chip = config(columns, lanes)
    return Bench(module=__name__, name=f"row_top_{columns}_{lanes}", build=lambda: RowTop(chip),
                 params={"config": chip})


_MUTATED = config(16, 4)

BENCHES = [
    _shape(4, 1), _shape(2, 2), _shape(12, 4), _shape(32, 8), _shape(2, 4),
    mutated_bench("row_top", lambda: RowTop(_MUTATED), "row_top.py", module=__name__, params={"config": _MUTATED}),
]
