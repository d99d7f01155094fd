"""The port that indices share with STORE's lines: every word and line its own, at its time."""

from collections import deque
from dataclasses import replace

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from kiwicha.config import ChipConfig
from kiwicha.dma.index import IndexPort, IndexReader
from kiwicha.timing import INDEX_READ, READ_LATENCY
from tb import harness
from tb.harness import Bench, clock, port
from tb.mutation import mutated_bench

CONFIGS = {name: replace(ChipConfig.preset(name), indices=True) for name in ("tiny", "ulx3s_85f")}
UNITS = ("load", "store")


class World:
    """Drives all four ports, a cycle at a time, and holds the answers against the lines."""

    def __init__(self, dut, label):
        self.dut = dut
        self.config = config = CONFIGS[harness.current().params["config"]]
        self.rng = rng = harness.rng(label)
        content = np.frombuffer(rng.randbytes(config.scratchpad_bytes), np.uint8)
        self.lines = content.reshape(-1, config.line_bytes)
        self.place = IndexPort(config).members["request"].signature.members["payload"].shape
        self.asking = dict.fromkeys(UNITS)      # what is offered: (line, word)
        self.awaited = dict.fromkeys(UNITS)     # what was accepted: (when, line, word)
        self.came = {unit: [] for unit in UNITS}        # cycles from request to answer
        self.line = None                        # what STORE asks for
        self.coming = deque()                   # its lines that were accepted: (when, line)
        self.answers = deque([None] * READ_LATENCY)
        self.now = self.taken = self.denied = 0

    def _offer(self, p_index, p_line, p_ready):
        rng, config = self.rng, self.config
        for unit in UNITS:
            free = self.asking[unit] is None and self.awaited[unit] is None
            if free and rng.random() < p_index[unit]:
                self.asking[unit] = rng.randrange(config.scratchpad_lines), rng.randrange(config.line_bytes // 4)
            elif self.asking[unit] and rng.random() < 0.02:
                self.asking[unit] = None        # withdrawn
            line, word = self.asking[unit] or (rng.randrange(config.scratchpad_lines), 0)
            port(self.dut, f"{unit}__request__valid").value = int(self.asking[unit] is not None)
            port(self.dut, f"{unit}__request__payload").value = harness.pack(self.place, line=line, word=word)
        if self.line is None and rng.random() < p_line:
            self.line = rng.randrange(config.scratchpad_lines)
        port(self.dut, "lines__request__valid").value = int(self.line is not None)
        port(self.dut, "lines__request__payload").value = self.line or 0
        ready = rng.random() < p_ready
        port(self.dut, "read__request__ready").value = int(ready)
        return ready

    async def cycle(self, p_index, p_line=1.0, p_ready=1.0):
        dut, size = self.dut, self.config.line_bytes
        ready = self._offer(p_index, p_line, p_ready)
        answer = self.answers.popleft()
        data = self.lines[answer].tobytes() if answer is not None else self.rng.randbytes(size)
        port(dut, "read__valid").value = int(answer is not None)
        port(dut, "read__data").value = int.from_bytes(data, "little")
        await RisingEdge(clock(dut))
        self.now += 1
        asks = port(dut, "read__request__valid").value == 1
        self.answers.append(int(port(dut, "read__request__payload").value) if asks and ready else None)
        self._check_lines(ready)
        for unit in UNITS:
            self._check_answer(unit)
        for unit in UNITS:
            self._check_request(unit)

    def _check_lines(self, ready):
        dut = self.dut
        due = bool(self.coming) and self.coming[0][0] + READ_LATENCY == self.now
        assert (port(dut, "lines__valid").value == 1) == due
        if due:
            line = int(port(dut, "lines__data").value).to_bytes(self.config.line_bytes, "little")
            assert line == self.lines[self.coming.popleft()[1]].tobytes()
        if port(dut, "lines__request__ready").value == 1:
            assert ready, "a line is accepted that the scratchpad refuses"
            if self.line is not None:
                self.coming.append((self.now, self.line))
                self.line, self.taken = None, self.taken + 1
        elif ready:
            self.denied += 1

    def _check_answer(self, unit):
        awaited = self.awaited[unit]
        if port(self.dut, f"{unit}__valid").value == 1:
            assert awaited, f"{unit} gets an index that it did not ask for"
            when, line, word = awaited
            assert int(port(self.dut, f"{unit}__data").value) == int(self.lines[line].view("<u4")[word])
            self.came[unit].append(self.now - when)
            self.awaited[unit] = None

    def _check_request(self, unit):
        if port(self.dut, f"{unit}__request__ready").value == 1 and self.asking[unit] is not None:
            assert not any(self.awaited.values()), "two indices at once"
            self.awaited[unit], self.asking[unit] = (self.now, *self.asking[unit]), None


async def start(dut, label):
    for name in ("load__request__valid", "store__request__valid", "lines__request__valid", "read__valid"):
        port(dut, name).value = 0
    await harness.start(dut)
    return World(dut, label)


@cocotb.test()
@cocotb.parametrize(p_ready=[1.0, 0.5, 0.1])
async def words_and_lines(dut, p_ready):
    world = await start(dut, f"both{p_ready}")
    for _ in range(3000):
        await world.cycle({"load": 0.3, "store": 0.3}, p_line=0.7, p_ready=p_ready)
    for unit in UNITS:
        assert len(world.came[unit]) > 60, unit
        assert min(world.came[unit]) >= INDEX_READ
    # A line is only refused where an index is asked for; one asked for and withdrawn may be among them.
    assert world.denied <= sum(map(len, world.came.values())) + 1
    assert world.taken > 500 * p_ready


@cocotb.test()
@cocotb.parametrize(unit=UNITS)
async def latency(dut, unit):
    """With a free port each index takes as long as it says, whatever STORE reads, and a line one cycle longer."""
    world = await start(dut, f"latency{unit}")
    for _ in range(400):
        await world.cycle({"load": 0, "store": 0} | {unit: 0.5})
    assert set(world.came[unit]) == {INDEX_READ}
    assert len(world.came[unit]) >= 400 // (INDEX_READ + 4)
    # The last one may be under way.
    assert world.denied - len(world.came[unit]) in (0, 1)


@cocotb.test()
async def lines_alone(dut):
    """Without an index STORE has the port to itself."""
    world = await start(dut, "alone")
    for _ in range(200):
        await world.cycle({"load": 0, "store": 0})
    assert (world.taken, world.denied) == (200, 0)


BENCHES = [
    mutated_bench("index_reader", lambda: IndexReader(CONFIGS["tiny"]), "index.py", module=__name__,
                  params={"config": "tiny"}),
    Bench(module=__name__, name="index_reader_ulx3s_85f", build=lambda: IndexReader(CONFIGS["ulx3s_85f"]),
          params={"config": "ulx3s_85f"})]
