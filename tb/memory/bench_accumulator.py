"""The accumulators: sums at one a cycle, the hazard distance, and VECTOR's reads, against numpy."""

import cocotb
import numpy as np

from kiwicha import ChipConfig
from kiwicha.memory.accumulator import Accumulator, accumulation
from kiwicha.timing import READ_LATENCY
from tb import harness
from tb.harness import Bench, cycles, port

#: Cycles from a sum to the next use of its line, without block scaling.
REST = READ_LATENCY + 2


class Model:
    """Drives both ports, one cycle at a time, and checks each answer."""

    def __init__(self, dut):
        self.dut = dut
        self.config = harness.current().params["config"]
        self.lines = self.config.accumulator_lines
        self.layout = accumulation(self.config)
        self.sums = np.zeros((self.lines, self.config.columns), np.uint32)
        self.used = np.full(self.lines, -REST)      # when each line was last given to `i`
        self.now = 0
        self.answers = []
        self.reads = 0

    def idle(self, line):
        """Whether `line` may be used in this cycle."""
        return self.now - self.used[line] >= REST

    def bank(self, line):
        return line * 2 // self.lines

    async def cycle(self, item=None, read=None):
        """Give `item` (line, add, int data) and ask for `read`; returns whether the read was accepted."""
        fields = {}
        if item is not None:
            line, add, values = item
            fields = {"valid": 1, "address": line, "add": int(add), "data": [int(v) for v in values]}
        port(self.dut, "i").value = harness.pack(self.layout, fields)
        port(self.dut, "read__request__valid").value = read is not None
        port(self.dut, "read__request__payload").value = read or 0
        await cycles(self.dut, 1)
        accepted = False
        if read is not None:
            accepted = item is None or self.bank(item[0]) != self.bank(read)
            assert port(self.dut, "read__request__ready").value == accepted
        self._check_answer(self.sums[read].copy() if accepted else None)
        if item is not None:
            kept = self.sums[line] if add else 0
            self.sums[line] = kept + np.asarray(values, np.int64).astype(np.uint32)
            self.used[line] = self.now
        self.now += 1
        return accepted

    def _check_answer(self, answer):
        self.answers.append(answer)
        due = self.answers.pop(0) if len(self.answers) > READ_LATENCY else None
        assert (port(self.dut, "read__valid").value == 1) == (due is not None)
        if due is not None:
            data = int(port(self.dut, "read__data").value)
            got = np.frombuffer(data.to_bytes(4 * self.config.columns, "little"), "<u4")
            assert (got == due).all(), f"read {got}, expected {due}"
            self.reads += 1

    def values(self, random):
        """Column sums of any size, often extreme."""
        top = 1 << (self.config.sum_width - 1)
        return [random.choice((-top, top - 1, -1, 0, random.randrange(-top, top)))
                for _ in range(self.config.columns)]

    async def check_all(self):
        for _ in range(REST):
            await self.cycle()
        for line in range(self.lines):
            assert await self.cycle(read=line)
        for _ in range(READ_LATENCY):
            await self.cycle()


async def begin(dut, label):
    """A model whose lines all have known values, which are no sign extension's."""
    await harness.start(dut)
    model, random = Model(dut), harness.rng(label)
    for line in range(model.lines):
        await model.cycle((line, False, model.values(random)))
    for _ in range(REST):
        await model.cycle()
    return model, random


@cocotb.test()
@cocotb.parametrize(p_item=[0.3, 1.0], spread=[2, 100])
async def random_sums(dut, p_item, spread):
    """Sums and reads at random, some lines as close to each other as they may be."""
    model, random = await begin(dut, f"random {p_item} {spread}")
    hot = [random.randrange(model.lines) for _ in range(6)]
    for _ in range(4000):
        item = read = None
        lines = hot if random.randrange(spread) else range(model.lines)
        line = random.choice(lines)
        if random.random() < p_item and model.idle(line):
            item = (line, random.random() < 0.8, model.values(random))
        line = random.choice(lines)
        if model.idle(line) and (item is None or item[0] != line):
            read = line
        await model.cycle(item, read)
    assert model.reads > 300
    await model.check_all()


@cocotb.test()
async def one_sum_a_cycle(dut):
    """REST lines in turn, each used again as early as may be, while VECTOR reads the other bank."""
    model, random = await begin(dut, "turn")
    for cycle in range(600):
        bank = cycle // 100 % 2
        line = bank * model.lines // 2 + cycle % REST
        other = (1 - bank) * model.lines // 2 + random.randrange(model.lines // 2)
        await model.cycle((line, True, model.values(random)), other if model.idle(other) else None)
    await model.check_all()


@cocotb.test()
async def sums_wrap(dut):
    """Modulo 2^32: the extreme sums, as often as it takes."""
    model, _ = await begin(dut, "wrap")
    top = 1 << (model.config.sum_width - 1)
    lines = (0, model.lines // 2, 1, 2, model.lines - 1)[-REST:]     # each REST cycles after its last use
    values = [[value] * model.config.columns for value in (-top, top - 1, -top, top - 1, -top)]
    times = (1 << 31) // (top - 1) + 2
    for cycle in range(REST * times):
        turn = cycle % REST
        await model.cycle((lines[turn], True, values[turn]) if turn < len(lines) else None)
    assert (model.sums[lines[0]] < 1 << 31).all() and (model.sums[lines[1]] >= 1 << 31).all()
    await model.check_all()


@cocotb.test()
async def rest_is_what_the_class_says(dut):
    model, random = await begin(dut, "rest")
    for line in (0, model.lines - 1):
        await model.cycle((line, True, model.values(random)))
        for _ in range(REST - 1):
            await model.cycle()
        assert await model.cycle(read=line)
        await model.cycle((line, False, model.values(random)))
        for _ in range(REST - 1):
            await model.cycle()
        await model.cycle((line, True, model.values(random)))
    await model.check_all()


def accumulator_bench(name, testcase, **parameters):
    config = ChipConfig(name=name, bus_width=64, vector_lanes=2, bank_lines=16, **parameters)

    def build():
        accumulator = Accumulator(config)
        assert accumulator.latency == accumulator.hazard == REST
        return accumulator

    return Bench(module=__name__, name=f"accumulator_{name}", build=build, testcase=testcase,
                 params={"config": config})


COMMON = ("random_sums", "one_sum_a_cycle", "rest_is_what_the_class_says")
BENCHES = [
    accumulator_bench("small", COMMON, rows=4, columns=4, accumulator_lines=64),
    # The more rows, the fewer sums until they wrap.
    accumulator_bench("wide", (*COMMON, "sums_wrap"), rows=32, columns=5, accumulator_lines=16),
]
