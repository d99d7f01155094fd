"""The scratchpad: every answer, its time and who goes first, against a model of banks and priorities."""

from collections import deque

import cocotb

from kiwicha import ChipConfig
from kiwicha.memory.ports import line_write
from kiwicha.memory.scratchpad import Scratchpad
from kiwicha.timing import READ_LATENCY, WRITE_LATENCY
from tb import harness
from tb.harness import Bench, cycles, port

READERS = ("a", "w", "params", "operand", "store")
WRITERS = ("vector", "load")


class Model:
    """Drives all ports, one cycle at a time, and knows what must come back."""

    def __init__(self, dut):
        self.dut = dut
        self.config = harness.current().params["config"]
        self.bits = 8 * self.config.line_bytes
        self.layout = line_write(self.bits)
        self.memory = {}
        self.answers = {name: [] for name in READERS}         # by cycle, the last ones

    def bank(self, line):
        return line // self.config.bank_lines

    async def cycle(self, reads, writes):
        """Offer `reads` {name: line} and `writes` {name: (line, data)}; check; return whose was accepted."""
        for name in READERS:
            port(self.dut, f"{name}__request__valid").value = name in reads
            port(self.dut, f"{name}__request__payload").value = reads.get(name, 0)
        for name in WRITERS:
            line, data = writes.get(name, (0, 0))
            port(self.dut, f"{name}__request__valid").value = name in writes
            port(self.dut, f"{name}__request__payload").value = harness.pack(self.layout, address=line, data=data)
        await cycles(self.dut, 1)
        accepted = set()
        for names, lines in ((READERS, reads), (WRITERS, {n: line for n, (line, _) in writes.items()})):
            served = set()
            for name in (name for name in names if name in lines):
                first = self.bank(lines[name]) not in served
                served.add(self.bank(lines[name]))
                assert port(self.dut, f"{name}__request__ready").value == first, f"{name}: wrong ready"
                if first:
                    accepted.add(name)
        self._check_answers(reads, accepted)
        self.memory.update(dict(writes[name] for name in writes if name in accepted))
        return accepted

    def _check_answers(self, reads, accepted):
        for name in READERS:
            self.answers[name].append(self.memory.get(reads[name]) if name in accepted else None)
            valid = port(self.dut, f"{name}__valid").value == 1
            due = self.answers[name].pop(0) if len(self.answers[name]) > READ_LATENCY else None
            assert valid == (due is not None), f"{name}: valid is {valid}, expected {due}"
            if valid:
                assert int(port(self.dut, f"{name}__data").value) == due, f"{name}: wrong line"


async def fill(dut):
    """A model whose every line holds random data, written at a line per cycle."""
    await harness.start(dut)
    model, random = Model(dut), harness.rng("fill")
    for line in range(model.config.scratchpad_lines):
        accepted = await model.cycle({}, {"load": (line, random.getrandbits(model.bits))})
        assert accepted == {"load"}
    for _ in range(WRITE_LATENCY - 1):      # the last of them may be read at once
        await model.cycle({}, {})
    return model


@cocotb.test()
@cocotb.parametrize(p_offer=[0.3, 0.7, 1.0])
async def random_traffic(dut, p_offer):
    """Requests at random that stay until accepted; few lines, so that they follow one another closely."""
    model, random = await fill(dut), harness.rng(f"traffic {p_offer}")
    lines = [random.randrange(model.config.scratchpad_lines) for _ in range(12)]
    reads, writes = {}, {}
    fresh = deque(maxlen=WRITE_LATENCY - 1)     # the lines written in the last cycles
    for _ in range(3000):
        for name in READERS:
            if name not in reads and random.random() < p_offer:
                reads[name] = random.choice(lines)
        for name in WRITERS:
            if name not in writes and random.random() < p_offer:
                writes[name] = (random.choice(lines), random.getrandbits(model.bits))
        # A read and a write of one line in one cycle, or the read too soon after it, is a race.
        asked = {n: line for n, line in reads.items() if not any(line in lines for lines in fresh)}
        offered = {n: w for n, w in writes.items() if w[0] not in asked.values()}
        accepted = await model.cycle(asked, offered)
        fresh.append({writes[name][0] for name in accepted & writes.keys()})
        reads = {name: line for name, line in reads.items() if name not in accepted}
        writes = {name: line for name, line in writes.items() if name not in accepted}


@cocotb.test()
async def full_throughput(dut):
    """Different banks do not hinder one another: as many lines per cycle as there are readers and writers."""
    model, random = await fill(dut), harness.rng("throughput")
    config = model.config
    for cycle in range(400):
        bank = [(cycle // 7 + i) % config.scratchpad_banks for i in range(len(READERS))]
        line = [b * config.bank_lines + random.randrange(config.bank_lines // 2) for b in bank]
        reads = dict(zip(READERS[:config.scratchpad_banks], line, strict=False))
        writes = {name: (line[i] + config.bank_lines // 2, random.getrandbits(model.bits))
                  for i, name in enumerate(WRITERS)}
        assert await model.cycle(reads, writes) == {*reads, *writes}


@cocotb.test()
async def every_line_is_its_own(dut):
    model = await fill(dut)
    for line in range(model.config.scratchpad_lines):
        await model.cycle({"store": line}, {})
    for _ in range(READ_LATENCY + 1):
        await model.cycle({}, {})


@cocotb.test()
async def a_written_line_is_there_as_soon_as_stated(dut):
    model, random = await fill(dut), harness.rng("soon")
    for _ in range(200):
        line = random.randrange(model.config.scratchpad_lines)
        await model.cycle({}, {random.choice(WRITERS): (line, random.getrandbits(model.bits))})
        for _ in range(WRITE_LATENCY - 1):
            await model.cycle({}, {})
        await model.cycle({random.choice(READERS): line}, {})


def scratchpad_bench(name, **parameters):
    config = ChipConfig(name=name, **parameters)
    return Bench(module=__name__, name=f"scratchpad_{name}", build=lambda: Scratchpad(config),
                 params={"config": config})


BENCHES = [
    scratchpad_bench("four", rows=4, columns=4, bus_width=64, vector_lanes=2, scratchpad_banks=4, bank_lines=64,
                     accumulator_lines=16),
    scratchpad_bench("two", rows=2, columns=17, bus_width=64, scratchpad_banks=2, bank_lines=16,
                     accumulator_lines=16),
    scratchpad_bench("eight", rows=16, columns=16, scratchpad_banks=8, bank_lines=32, accumulator_lines=16),
]
