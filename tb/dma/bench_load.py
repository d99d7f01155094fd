"""LOAD: the bytes, lines and errors of a plain model, under random memory and scratchpad; and its speed."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from kiwicha.bus.axi import AxiRead
from kiwicha.dma.load import LoadUnit
from kiwicha.isa import Activity, Unit
from kiwicha.memory.ports import line_write
from tb import harness
from tb.axi_checker import AxiReadChecker
from tb.dma import runs
from tb.dma.environment import Control, Indices, draw_transfers
from tb.dma.model import CONFIGS, AxiReadMemory, Memory, load_lines
from tb.dma.runs import simple
from tb.harness import Bench, clock, cycles, port


class Env:
    """A LoadUnit with everything around it; `written` is what the scratchpad was told, in order."""

    @classmethod
    async def start(cls, dut, label):
        await harness.start(dut)
        self = cls()
        self.dut = dut
        self.config = config = CONFIGS[harness.current().params["config"]]
        self.rng = harness.rng(label)
        self.memory = Memory(config, self.rng)
        self.control = Control(dut, Unit.LOAD, self.memory)
        self.bus = AxiReadMemory(dut, "bus", AxiRead(config), self.memory, harness.rng(label + "bus"))
        self.checker = AxiReadChecker(dut, "bus", AxiRead(config), config.reads_in_flight)
        self.checker.first, self.checker.last = self.memory.first, self.memory.last
        self.written = []
        self.retired_at = []
        self.p_write = 1.0
        self.control.working = self._working
        self.control.on_retire = lambda: self.retired_at.append(len(self.written))
        self.control.while_error = self._nothing_asked
        cocotb.start_soon(self._write_port())
        #: Where indices are; nothing that is written comes here.
        self.scratchpad = np.zeros((config.scratchpad_lines, config.line_bytes), np.uint8)
        self.indices = Indices(dut, self.control, self.scratchpad, config) if config.indices else None
        return self

    def _working(self):
        """BUSY with a line that the scratchpad takes, PORT with one that it does not, MEMORY without any."""
        valid, ready = (port(self.dut, f"write__request__{side}").value == 1 for side in ("valid", "ready"))
        waits = {Activity.MEMORY, Activity.OPERAND} if self.indices and self.indices.wanted else {Activity.MEMORY}
        return {Activity.BUSY if ready else Activity.PORT} if valid else waits

    def _nothing_asked(self):
        assert not port(self.dut, "bus__ar__valid").value, "a burst is asked for after the error"
        assert self.checker.outstanding == 0, "an error with bursts on the bus"

    def slow(self):
        """From now on everything takes its random time."""
        self.bus.latency = lambda: self.rng.choice([0, 5, self.rng.randrange(200)])
        self.bus.p_ar, self.bus.p_r, self.p_write = (self.rng.choice([0.2, 0.6, 1]) for _ in range(3))
        self.control.p_valid = 0.3
        if self.indices:
            self.indices.p_ready, self.indices.delay = 0.3, lambda: self.rng.choice([0, 1, self.rng.randrange(40)])

    async def _write_port(self):
        edge = RisingEdge(clock(self.dut))
        valid, ready = port(self.dut, "write__request__valid"), port(self.dut, "write__request__ready")
        payload = port(self.dut, "write__request__payload")
        shape, held = line_write(8 * self.config.line_bytes), None
        while True:
            taking = self.rng.random() < self.p_write
            ready.value = int(taking)
            await edge
            if not valid.value:
                assert held is None or self.control.aborting, "line withdrawn"
                held = None
                continue
            bits = int(payload.value)
            assert held is None or held == bits or self.control.aborting, "line changed while it waited"
            held = None if taking else bits
            if taking:
                line = harness.unpack(shape, bits)
                self.written.append((line["address"], line["data"].to_bytes(self.config.line_bytes, "little")))

    async def run(self, transfers, limit=None):
        """Run *transfers* and compare everything with the model."""
        lines, ends, error = load_lines(self.config, self.memory, transfers, self.scratchpad)
        self.written.clear()
        self.retired_at.clear()
        self.control.retired = 0
        self.control.send(transfers)
        await self.control.settle(len(transfers), limit or 60 * len(lines) + 400 * len(transfers) + 4000)
        for number, (got, want) in enumerate(zip(self.written, lines, strict=False)):
            assert got == want, f"line {number}: {got[0]}, {got[1].hex()} instead of {want[0]}, {want[1].hex()}"
        assert len(self.written) == len(lines)
        assert len(self.retired_at) == len(ends), f"{len(self.retired_at)} retired, not {len(ends)}"
        assert all(got >= want for got, want in zip(self.retired_at, ends, strict=True)), "retired too early"
        assert self.checker.outstanding == 0
        if error is None:
            assert self.control.error is None, self.control.error
        else:
            seen = self.control.error
            assert seen is not None and (seen["code"], seen["index"], seen["address"]) == error, (seen, error)
            await self.control.abort()


@cocotb.test()
async def every_alignment_and_length(dut):
    env = await Env.start(dut, "align")
    beat, line = env.config.bus_bytes, env.config.line_bytes
    transfers = []
    for offset in range(beat):
        for length in runs.lengths(env.config):
            start = env.memory.first + env.rng.randrange(0, 3000, beat) + offset
            stride = env.rng.choice([length, 37, -length])
            transfers.append(simple(address=start + 600, row_bytes=length, rows=2, row_stride=stride,
                                    segment_bytes=env.rng.choice([line, line, beat, 5]), row_line_stride=5,
                                    index=len(transfers)))
    await env.run(transfers)


@cocotb.test()
@cocotb.parametrize(pace=["fast", "slow"], number=[0, 1, 2])
async def random_transfers(dut, pace, number):
    env = await Env.start(dut, f"random{pace}{number}")
    if pace == "slow":
        env.slow()
    await env.run(draw_transfers(env.config, env.memory, env.rng, 20, load=True))


@cocotb.test()
async def pages(dut):
    """Runs over edges of 4 KiB, by a byte more or less; all the way to the window's ends."""
    env = await Env.start(dut, "pages")
    memory, line = env.memory, env.config.line_bytes
    transfers = []
    for edge in range(memory.first + 4096, memory.last, 4096):
        for before in (0, 1, env.config.bus_bytes, 50):
            for after in (1, env.config.bus_bytes + 1, 49):
                transfers.append(simple(address=edge - before, row_bytes=before + after, segment_bytes=line))
    await env.run(transfers + runs.whole_window(env))
    assert max(beats for _, beats in env.checker.bursts) == 256


def miss_window(env, transfer):
    """Let some bytes of a good transfer lie outside of the window."""
    memory, rng = env.memory, env.rng
    top = 1 << env.config.address_width
    transfer["fill_only"] = 0
    transfer["address"] = rng.choice([
        memory.last - rng.randrange(40), memory.first - rng.randint(1, 40), memory.last + 1, 0, 3, top - 1,
        top - 20, rng.getrandbits(64), memory.first + (1 << 63)]) % (1 << 64)
    if rng.random() < 0.5:
        transfer["plane_stride"] = rng.choice([-1 << 31, (1 << 31) - 1, 1 << 20])
        transfer["row_stride"] = rng.choice([-1 << 31, (1 << 31) - 1, transfer["row_bytes"], 5])


@cocotb.test()
@cocotb.parametrize(kind=["field", "range", "window", "bus"])
async def errors(dut, kind):
    """The first error in program order, all before it done, nothing after it; then the unit works again."""
    env = await Env.start(dut, "errors" + kind)
    for round in range(14):
        if round == 7:
            env.slow()
        transfers = draw_transfers(env.config, env.memory, env.rng, 6, load=True)
        for victim in env.rng.sample(range(1, 6), 2):
            runs.spoil(env, transfers[victim], kind, miss_window)
        await env.run(transfers)
        env.memory.bad = set()
    await env.run(draw_transfers(env.config, env.memory, env.rng, 3, load=True))


@cocotb.test()
async def error_while_a_burst_is_asked_for(dut):
    """A wrong line is found, its bytes having come, about when the idle bus gets the next instruction's burst."""
    env = await Env.start(dut, "asked")
    env.bus.latency = lambda: 20
    env.control.p_valid = 0.05
    good = simple(address=env.memory.first, row_bytes=1)
    for index in range(60):
        await env.run([{**good, "line": env.config.scratchpad_lines, "index": index}, good])


@cocotb.test()
async def two_errors_in_one_transfer(dut):
    await runs.two_errors(await Env.start(dut, "two"))


@cocotb.test()
async def address_below_zero_and_above_the_top(dut):
    await runs.address_overflow(await Env.start(dut, "overflow"))


@cocotb.test()
async def abort_at_any_moment(dut):
    env = await Env.start(dut, "abort")
    for round in range(25):
        if round == 12:
            env.slow()
        env.written.clear()
        env.control.send(draw_transfers(env.config, env.memory, env.rng, 8, load=True, length=200))
        await cycles(dut, env.rng.choice([1, 3, 10, env.rng.randrange(300)]))
        asked = len(env.checker.bursts)
        await env.control.abort()
        assert len(env.checker.bursts) <= asked + 2, "new bursts after abort"
        lines = len(env.written)
        await cycles(dut, 5)
        assert len(env.written) == lines
        await env.run(draw_transfers(env.config, env.memory, env.rng, 1, load=True))


@cocotb.test()
@cocotb.parametrize(shape=runs.SPEED)
async def throughput(dut, shape):
    env = await Env.start(dut, "speed")
    env.bus.latency = lambda: 30
    transfers, beats = runs.speed(env.config, env.memory.first, shape)
    lines, _, _ = load_lines(env.config, env.memory, transfers)
    start = env.control.now
    await env.run(transfers)
    took, limit = env.control.now - start, 1.05 * max(beats, len(lines)) + 60
    assert env.checker.beats == beats
    dut._log.info("LOAD: %s, %d beats, %d lines in %d cycles (limit %d)", shape, beats, len(lines), took, limit)
    assert took <= limit, f"{took} cycles, limit {limit}"


@cocotb.test()
@cocotb.parametrize(pace=["fast", "slow"], number=[0, 1])
async def indexed_transfers(dut, pace, number):
    env = await Env.start(dut, f"indexed{pace}{number}")
    if pace == "slow":
        env.slow()
    await runs.indexed_transfers(env, load=True)


@cocotb.test()
@cocotb.parametrize(kind=runs.INDEX_ERRORS)
async def index_errors(dut, kind):
    await runs.index_errors(await Env.start(dut, "index" + kind), kind, load=True)


@cocotb.test()
async def indexed_overflow(dut):
    await runs.indexed_overflow(await Env.start(dut, "indexed_overflow"))


@cocotb.test()
async def index_latency(dut):
    await runs.index_latency(await Env.start(dut, "index_latency"))


@cocotb.test()
async def abort_with_an_index(dut):
    await runs.abort_with_an_index(await Env.start(dut, "index_abort"), load=True)


@cocotb.test()
async def no_indices(dut):
    await runs.no_indices(await Env.start(dut, "no_indices"), load=True)


ALWAYS = ("every_alignment_and_length", "random_transfers", "pages", "errors", "two_errors_in_one_transfer",
          "error_while_a_burst_is_asked_for", "address_below_zero_and_above_the_top", "abort_at_any_moment",
          "no_indices")
INDEXED = ("indexed_transfers", "index_errors", "indexed_overflow", "index_latency", "abort_with_an_index")


def _tests(config):
    """The time limits assume 16 reads in flight."""
    return ALWAYS + ("throughput",) * (config.reads_in_flight >= 16) + INDEXED * config.indices


BENCHES = [Bench(module=__name__, name=f"load_{name}", build=lambda config=config: LoadUnit(config),
                 params={"config": name}, testcase=_tests(config))
           for name, config in CONFIGS.items()]
