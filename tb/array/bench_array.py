"""The systolic array: exact sums with a fixed latency, and weights that change without a bubble."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from kiwicha.array.multiplier import multiplier_class, simulation_models
from kiwicha.array.systolic import SystolicArray
from kiwicha.formats import FORMATS
from tb import harness
from tb.array.formats import chip
from tb.harness import Bench, clock, port


def limits(config):
    """The least and the greatest operand that the chip's formats have."""
    items = [FORMATS[name] for name in config.formats]
    return (-max(item.max_significand for item in items),
            max(item.max_significand - (not item.is_float) for item in items))


class Schedule:
    """What the array is given in each cycle, and what it must answer; times are cycles from 0.

    Weights come as early and vectors as soon as the contract allows, plus what `gap()` adds.
    """

    def __init__(self, config, random, gap=lambda: 0, operands=None):
        self.rows, self.columns = config.rows, config.columns
        self._sum_width = config.sum_width
        self._row_bits = (config.rows - 1).bit_length()
        self._operand_width, self._sign_magnitude = config.operand_width, config.sign_magnitude
        self._random, self._gap = random, gap
        low, high = limits(config)
        self._operands = operands or (lambda *shape: random.integers(low, high + 1, shape))
        self._weights_from = 0
        self._vectors_from = 0
        self.a, self.w, self.o = {}, {}, {}
        self.swaps = []

    def tile(self, vectors):
        """A tile of weights and `vectors` vectors."""
        weights = self._operands(self.rows, self.columns)
        time = self._weights_from
        for row in range(self.rows):
            time += self._gap()
            self.w[time] = 1 | row << 1 | self._bits(weights[row]) << 1 + self._row_bits
            time += 1
        # Now the swap may come.
        time = max(time, self._vectors_from) + self._gap()
        self.swaps.append(time)
        self._weights_from = time
        for index in range(vectors):
            vector = self._operands(self.rows)
            self.a[time] = 1 | (index == 0) << 1 | self._bits(vector) << 2
            sums = vector.astype(np.int64) @ weights.astype(np.int64)
            self.o[time] = 1 | sum(int(value) % (1 << self._sum_width) << 1 + self._sum_width * column
                                   for column, value in enumerate(sums))
            time += 1 + self._gap()
        self._vectors_from = time

    def idle(self):
        """Inputs without `valid`, all else random: (a, w)."""
        a = int(self._random.integers(2)) << 1 | self._noise(self.rows) << 2
        row = int(self._random.integers(self.rows))
        return a, row << 1 | self._noise(self.columns) << 1 + self._row_bits

    def _noise(self, count):
        return self._bits(self._random.integers(0, 1 << self._operand_width, count))

    def _bits(self, values):
        width = self._operand_width
        if self._sign_magnitude:
            # Zeros of both signs.
            signs = np.where(values == 0, self._random.integers(2, size=values.shape), values < 0)
            values = np.abs(values) | signs << width - 1
        return sum(int(value) % (1 << width) << width * index for index, value in enumerate(values))

    @property
    def end(self):
        return max([*self.a, *self.w]) + 1


def generator(label):
    return np.random.default_rng(harness.rng(label).getrandbits(64))


async def play(dut, schedule, *, stop=None, limit=20_000):
    """Give the array the schedule, up to cycle `stop` if given; each cycle's output must be the expected one."""
    config, latency = harness.current().params["config"], harness.current().params["latency"]
    end = schedule.end + latency + config.rows + 3 if stop is None else stop
    assert end <= limit
    for cycle in range(end):
        a, w = schedule.idle()
        port(dut, "a").value = schedule.a.get(cycle, a)
        port(dut, "w").value = schedule.w.get(cycle, w)
        await RisingEdge(clock(dut))
        # Just after an edge the outputs are still those from before it.
        got = int(port(dut, "o").value)
        want = schedule.o.get(cycle - latency, 0)
        if want:
            assert got == want, _difference(schedule, cycle - latency, got, want)
        else:
            assert not got & 1, f"a vector came out in cycle {cycle}, where none was due"


def _difference(schedule, given, got, want):
    if not got & 1:
        return f"no vector came out for the one given in cycle {given}"
    width = (want.bit_length() + schedule.columns) // schedule.columns
    bad = [column for column in range(schedule.columns)
           if (got ^ want) >> 1 + schedule._sum_width * column & (1 << schedule._sum_width) - 1]
    tile = sum(time <= given for time in schedule.swaps) - 1
    return (f"vector given in cycle {given}, {given - schedule.swaps[tile]} after swap {tile} "
            f"(swaps {schedule.swaps[:tile + 2][-3:]}): wrong columns {bad}, {width} bits or fewer")


def lengths(config, random):
    """Numbers of vectors per tile that are interesting for this array, in random order, each next to others."""
    rows = config.rows
    chosen = [1, 1, 2, rows - 1, rows, rows + 1, 2 * rows + 3] * 4
    random.shuffle(chosen)
    return [max(1, count) for count in chosen]


@cocotb.test()
async def back_to_back(dut):
    """No gaps anywhere: tiles of M vectors follow one another every max(M, rows) cycles."""
    config = harness.current().params["config"]
    random = generator("back_to_back")
    schedule = Schedule(config, random)
    counts = lengths(config, random)
    for count in counts:
        schedule.tile(count)
    for index, (first, second) in enumerate(zip(schedule.swaps, schedule.swaps[1:], strict=False)):
        assert second - first == max(counts[index], config.rows)
    await harness.start(dut)
    await play(dut, schedule)


@cocotb.test()
async def single_vectors(dut):
    """M = 1 over and over: weights stream without a pause, and every tile is used once."""
    config = harness.current().params["config"]
    schedule = Schedule(config, generator("single"))
    for _ in range(12):
        schedule.tile(1)
    await harness.start(dut)
    await play(dut, schedule)


@cocotb.test()
async def random_gaps(dut):
    """Bubbles between vectors, between rows of weights, and before swaps; rare and frequent."""
    config = harness.current().params["config"]
    random = generator("gaps")
    for often in (0.1, 0.6):
        schedule = Schedule(config, random,
                            gap=lambda often=often: int(random.geometric(0.4)) if random.random() < often else 0)
        for count in lengths(config, random)[:16]:
            schedule.tile(count)
        await harness.start(dut)
        await play(dut, schedule)


@cocotb.test()
async def late_swaps(dut):
    """A whole tile waits for long while the one before it is used."""
    config = harness.current().params["config"]
    random = generator("late")
    schedule = Schedule(config, random)
    for count in (5 * config.rows, 1, 3 * config.rows + 1, 2, 4 * config.rows):
        schedule.tile(count)
    await harness.start(dut)
    await play(dut, schedule)


@cocotb.test()
async def extremes(dut):
    """Sums of largest magnitude, the least operand's square in every cell included, and others of the edges."""
    config = harness.current().params["config"]
    random = generator("extremes")
    low, high = limits(config)
    await harness.start(dut)
    for value in (low, high):
        schedule = Schedule(config, random, operands=lambda *shape, value=value: np.full(shape, value))
        schedule.tile(3)
        await play(dut, schedule)
        top = schedule.o[schedule.swaps[0]] >> 1 & (1 << config.sum_width) - 1
        assert top == config.rows * value * value
    mixed = Schedule(config, random, operands=lambda *shape: np.where(
        random.random(shape[:1] if len(shape) == 1 else (1, shape[1])) < 0.5, low, high)
        * np.ones(shape, np.int64))
    edges = Schedule(config, random, operands=lambda *shape: random.choice([low, low + 1, -1, 0, 1, high], shape))
    for schedule in (mixed, edges):
        for _ in range(20):
            schedule.tile(4)
        await play(dut, schedule)


@cocotb.test()
async def reset_forgets(dut):
    """Vectors, weights and swaps under way at a reset leave no trace in what follows at once."""
    config, latency = harness.current().params["config"], harness.current().params["latency"]
    random = generator("reset")
    await harness.start(dut)
    for _ in range(6):
        before = Schedule(config, random)
        before.tile(config.rows)
        while before.end < 3 * (config.rows + latency):
            before.tile(config.rows)
        await play(dut, before, stop=int(random.integers(config.rows + latency, before.end)))
        port(dut, "rst").value = 1
        a, w = before.idle()
        port(dut, "a").value = a | 3
        port(dut, "w").value = w | 1
        await RisingEdge(clock(dut))
        port(dut, "rst").value = 0
        after = Schedule(config, random)
        after.tile(2)
        after.tile(1)
        await play(dut, after)


def _bench(rows, columns, multiplier="portable", formats=("int8",)):
    config = chip(formats, rows=rows, columns=columns, multiplier=multiplier, vector_lanes=1)
    variant = multiplier_class(config)
    latency = rows + columns // variant.columns + variant.latency + 1

    def build():
        array = SystolicArray(config)
        assert array.latency == latency
        return array

    name = "_".join(["array", f"{rows}x{columns}", multiplier, *formats[1:]])
    return Bench(module=__name__, name=name, build=build, extra_sources=simulation_models(config),
                 params={"config": config, "latency": latency})


# The 16x16 array of two MACs per multiplier is in the bench of its chip, chip_ulx3s_85f.
BENCHES = [
    _bench(2, 2), _bench(3, 5), _bench(5, 2), _bench(8, 8), _bench(2, 32), _bench(32, 3),
    _bench(4, 3, "ecp5"),
    _bench(8, 3, formats=("int8", "e3m2")), _bench(4, 3, "ecp5", ("int8", "e3m2")),
    _bench(4, 5, formats=("int8", "e4m3")), _bench(8, 3, "ecp5", ("int8", "e4m3")),
    _bench(4, 4, "ecp5_packed", ("int4", "e2m1")),
    _bench(2, 2, "ecp5_packed"), _bench(12, 6, "ecp5_packed"),
]
