"""STORE: the bytes and errors of a plain model, and no byte else, under random bus and scratchpad; its speed."""

from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from kiwicha.bus.axi import AxiWrite
from kiwicha.dma.store import StoreUnit
from kiwicha.isa import Activity, ErrorCode, Unit
from kiwicha.timing import READ_LATENCY
from tb import harness
from tb.axi_checker import AxiWriteChecker
from tb.dma import runs
from tb.dma.environment import Control, Indices, draw_transfers
from tb.dma.model import CONFIGS, AxiWriteMemory, Memory, store_bytes
from tb.dma.runs import simple
from tb.harness import Bench, clock, cycles, port


class Env:
    """A StoreUnit with everything around it."""

    @classmethod
    async def start(cls, dut, label):
        await harness.start(dut)
        self = cls()
        self.dut = dut
        self.config = config = CONFIGS[harness.current().params["config"]]
        self.rng = harness.rng(label)
        self.memory = Memory(config, self.rng)
        content = np.frombuffer(self.rng.randbytes(config.scratchpad_bytes), np.uint8)
        self.scratchpad = content.reshape(-1, config.line_bytes).copy()
        self.control = Control(dut, Unit.STORE, self.memory)
        self.bus = AxiWriteMemory(dut, "bus", AxiWrite(config), self.memory, harness.rng(label + "bus"))
        self.checker = AxiWriteChecker(dut, "bus", AxiWrite(config), config.writes_in_flight)
        self.checker.first, self.checker.last = self.memory.first, self.memory.last
        self.p_read = 1.0
        self.snapshots = []     # bytes in memory at each retirement
        self.control.working = self._working
        self.control.on_retire = lambda: self.snapshots.append(len(self.bus.log))
        self.control.while_error = self._check_silence
        cocotb.start_soon(self._read_port())
        self.indices = Indices(dut, self.control, self.scratchpad, config) if config.indices else None
        return self

    def _working(self):
        """BUSY with a beat that the memory takes, MEMORY with one that it does not or without any; PORT only after
        the scratchpad has not taken a request.
        """
        valid, ready = (port(self.dut, f"bus__w__{side}").value == 1 for side in ("valid", "ready"))
        if valid:
            return {Activity.BUSY if ready else Activity.MEMORY}
        waits = {Activity.MEMORY, Activity.OPERAND} if self.indices and self.indices.wanted else {Activity.MEMORY}
        return waits | {Activity.PORT} if self.p_read < 1 else waits

    def slow(self):
        self.bus.latency = lambda: self.rng.choice([0, 5, self.rng.randrange(200)])
        self.bus.p_aw, self.bus.p_w, self.p_read = (self.rng.choice([0.2, 0.6, 1]) for _ in range(3))
        self.control.p_valid = 0.3
        if self.indices:
            self.indices.p_ready, self.indices.delay = 0.3, lambda: self.rng.choice([0, 1, self.rng.randrange(40)])

    def _check_silence(self):
        waits = port(self.dut, "bus__aw__valid").value
        assert self.checker.outstanding == 0 and not waits, "a burst after an error"

    async def _read_port(self):
        edge = RisingEdge(clock(self.dut))
        valid, ready = port(self.dut, "read__request__valid"), port(self.dut, "read__request__ready")
        address = port(self.dut, "read__request__payload")
        answers = deque([None] * (READ_LATENCY - 1))
        held = None
        while True:
            taking = self.rng.random() < self.p_read
            ready.value = int(taking)
            await edge
            offered = int(address.value) if valid.value else None
            if held is not None and not self.control.aborting:
                assert offered == held, "request changed or withdrawn"
            if offered is not None:
                assert offered < self.config.scratchpad_lines
            held = None if taking else offered
            answers.append(offered if taking else None)
            answer = answers.popleft()
            port(self.dut, "read__valid").value = int(answer is not None)
            line = self.scratchpad[answer].tobytes() if answer is not None else self.rng.randbytes(
                self.config.line_bytes)
            port(self.dut, "read__data").value = int.from_bytes(line, "little")

    async def run(self, transfers, limit=None):
        """Run *transfers*, whose bytes do not overlap, and compare everything with the model."""
        before = self.memory.data.copy()
        content, ends, error = store_bytes(self.config, self.memory, self.scratchpad, transfers)
        self.snapshots.clear()
        self.bus.log.clear()
        self.control.retired = 0
        self.control.send(transfers)
        await self.control.settle(len(transfers), limit or 60 * len(content) // 8 + 600 * len(transfers) + 4000)
        assert len(self.snapshots) == len(ends), f"{len(self.snapshots)} retired, not {len(ends)}"
        assert all(got >= want for got, want in zip(self.snapshots, ends, strict=True)), "retired too early"
        assert self.checker.outstanding == 0
        self._compare(before, dict(content), dict(content[:ends[-1] if ends else 0]), error)
        if error is None:
            assert self.control.error is None, self.control.error
        else:
            seen = self.control.error
            assert seen is not None and (seen["code"], seen["index"], seen["address"]) == error, (seen, error)
            await self.control.abort()

    def _compare(self, before, may, must, error):
        """What may have been written is right; what must have been, was; all else is as before."""
        for address, times in self.bus.log.items():
            assert times == 1, f"{address:#x} written {times} times"
            # A bus error is found out when later bytes are on their way.
            assert address in may or (error and error[0] is ErrorCode.BUS_WRITE), f"{address:#x} written"
        for address, value in may.items():
            assert address not in self.bus.log or self.memory[address] == value, f"{address:#x} is wrong"
        for address in must:
            assert address in self.bus.log, f"{address:#x} not written"
        after = self.memory.data.copy()
        touched = np.fromiter(self.bus.log, np.uint64, len(self.bus.log)) - np.uint64(self.memory.base)
        after[touched.astype(np.int64)] = before[touched.astype(np.int64)]
        assert (after == before).all()


@cocotb.test()
async def every_alignment_and_length(dut):
    env = await Env.start(dut, "align")
    beat, line = env.config.bus_bytes, env.config.line_bytes
    for part in range(0, beat, 4):
        transfers, start = [], env.memory.first
        for offset in range(part, part + 4):
            for length in runs.lengths(env.config):
                start = (start + beat - 1) // beat * beat + offset
                transfers.append(simple(address=start, row_bytes=length, rows=2,
                                        row_stride=length + env.rng.choice([0, 3]),
                                        segment_bytes=env.rng.choice([line, line, beat, 5]), row_line_stride=5,
                                        line=env.rng.randrange(100), index=len(transfers)))
                start += 2 * length + 3
        await env.run(transfers)


@cocotb.test()
@cocotb.parametrize(pace=["fast", "slow"], order=["any", "aw", "w"])
async def random_transfers(dut, pace, order):
    env = await Env.start(dut, f"random{pace}{order}")
    env.bus.order = order
    if pace == "slow":
        env.slow()
    await env.run(draw_transfers(env.config, env.memory, env.rng, 15, load=False))


@cocotb.test()
async def pages(dut):
    """Runs over edges of 4 KiB, by a byte more or less; all the way to the window's ends."""
    env = await Env.start(dut, "pages")
    memory, line = env.memory, env.config.line_bytes
    for before in (0, 1, env.config.bus_bytes, 50):
        for after in (1, env.config.bus_bytes + 1, 49):
            await env.run([simple(address=edge - before, row_bytes=before + after, segment_bytes=line)
                           for edge in range(memory.first + 4096, memory.last, 4096)])
    for transfer in runs.whole_window(env):
        await env.run([transfer])
    assert max(beats for _, beats in env.checker.bursts) == 256


def miss_window(env, transfer):
    """From the window's end outwards or from outside, so that the good transfers' bytes stay alone."""
    memory, rng = env.memory, env.rng
    top = 1 << env.config.address_width
    transfer["address"] = rng.choice([memory.first - rng.randint(1, 40), memory.last + 1, 0, 3, top - 1, top - 20,
                                 rng.getrandbits(64), memory.first + (1 << 63)]) % (1 << 64)
    if rng.random() < 0.3:
        transfer.update(address=memory.last - rng.randrange(30), row_bytes=60)


@cocotb.test()
@cocotb.parametrize(kind=["field", "range", "window", "bus"])
async def errors(dut, kind):
    """The first error in program order, all before it done, nothing outside; then the unit works again."""
    env = await Env.start(dut, "errors" + kind)
    for round in range(14):
        if round == 7:
            env.slow()
        # The last region stays empty, for the transfers that run over the window's end.
        transfers = draw_transfers(env.config, env.memory, env.rng, 7, load=False)[:6]
        for victim in env.rng.sample(range(1, 6), 2):
            runs.spoil(env, transfers[victim], kind, miss_window)
        await env.run(transfers)
        env.memory.bad = set()
    await env.run(draw_transfers(env.config, env.memory, env.rng, 3, load=False))


@cocotb.test()
async def two_errors_in_one_transfer(dut):
    await runs.two_errors(await Env.start(dut, "two"))


@cocotb.test()
async def error_meets_next_burst(dut):
    """A bus error comes about when the next transfer's burst leaves: it is told when that has been answered."""
    env = await Env.start(dut, "meets")
    env.bus.latency = lambda: 20
    bus, first = env.config.bus_bytes, env.memory.first
    for gap in range(10, 60):
        env.memory.bad = {first}
        env.control.send([simple(address=first, row_bytes=bus, index=1)])
        await cycles(dut, gap)
        env.control.send([simple(address=first + 4096, row_bytes=bus, index=2)])
        await env.control.settle(2, 200)
        assert env.control.error and env.control.error["index"] == 1
        await cycles(dut, 5)
        await env.control.abort()


@cocotb.test()
@cocotb.parametrize(fields=[{"row_bytes": 0}, {"line": 0xFFFF}, {"address": 0}])
async def earlier_error_found_later(dut, fields):
    """The second transfer's error is known long before the first transfer's burst is answered with one."""
    env = await Env.start(dut, "earlier")
    bus, first = env.config.bus_bytes, env.memory.first
    for latency in range(20, 60, 3):
        env.bus.latency = lambda latency=latency: latency
        env.memory.bad = {first}
        env.control.send([simple(address=first, row_bytes=bus, index=1),
                          simple(**{"address": first + bus, "row_bytes": bus, "index": 2, **fields})])
        await env.control.settle(2, 300)
        error = env.control.error
        assert error and (error["code"], error["index"]) == (ErrorCode.BUS_WRITE, 1), error
        await env.control.abort()


@cocotb.test()
async def address_below_zero_and_above_the_top(dut):
    await runs.address_overflow(await Env.start(dut, "overflow"))


@cocotb.test()
async def abort_at_any_moment(dut):
    env = await Env.start(dut, "abort")
    for round in range(30):
        if round == 12:
            env.slow()
        env.bus.order = env.rng.choice(["any", "aw", "w"])
        env.bus.log.clear()
        transfers = draw_transfers(env.config, env.memory, env.rng, 8, load=False, length=200)
        content = dict(store_bytes(env.config, env.memory, env.scratchpad, transfers)[0])
        env.control.send(transfers)
        await cycles(dut, env.rng.choice([1, 3, 10, env.rng.randrange(300)]))
        asked, strobed = len(env.checker.bursts), env.checker.strobed
        await env.control.abort()
        assert len(env.checker.bursts) <= asked + 2, "new bursts after abort"
        assert env.checker.strobed - strobed <= 3 * env.config.bus_bytes, "bytes written long after abort"
        for address in env.bus.log:
            assert env.memory[address] == content[address]
        strobed = env.checker.beats
        await cycles(dut, 5)
        assert env.checker.beats == strobed
        assert env.checker.outstanding == 0
        await env.run(draw_transfers(env.config, env.memory, env.rng, 1, load=False))


@cocotb.test()
@cocotb.parametrize(shape=runs.SPEED)
async def throughput(dut, shape):
    env = await Env.start(dut, "speed")
    env.bus.latency = lambda: 30
    transfers, beats = runs.speed(env.config, env.memory.first, shape)
    start = env.control.now
    await env.run(transfers)
    took, limit = env.control.now - start, 1.05 * beats + 60 + 30
    assert env.checker.beats == beats
    dut._log.info("STORE: %s, %d beats in %d cycles (limit %d)", shape, beats, took, limit)
    assert took <= limit, f"{took} cycles, limit {limit}"


@cocotb.test()
@cocotb.parametrize(pace=["fast", "slow"], number=[0, 1])
async def indexed_transfers(dut, pace, number):
    env = await Env.start(dut, f"indexed{pace}{number}")
    if pace == "slow":
        env.slow()
    await runs.indexed_transfers(env, load=False)


@cocotb.test()
@cocotb.parametrize(kind=runs.INDEX_ERRORS)
async def index_errors(dut, kind):
    await runs.index_errors(await Env.start(dut, "index" + kind), kind, load=False)


@cocotb.test()
async def indexed_overflow(dut):
    await runs.indexed_overflow(await Env.start(dut, "indexed_overflow"))


@cocotb.test()
async def index_latency(dut):
    await runs.index_latency(await Env.start(dut, "index_latency"))


@cocotb.test()
async def abort_with_an_index(dut):
    await runs.abort_with_an_index(await Env.start(dut, "index_abort"), load=False)


@cocotb.test()
async def no_indices(dut):
    await runs.no_indices(await Env.start(dut, "no_indices"), load=False)


ALWAYS = ("every_alignment_and_length", "random_transfers", "pages", "errors", "two_errors_in_one_transfer",
          "error_meets_next_burst", "earlier_error_found_later",
          "address_below_zero_and_above_the_top", "abort_at_any_moment",
          "no_indices")
INDEXED = ("indexed_transfers", "index_errors", "indexed_overflow", "index_latency", "abort_with_an_index")


def _tests(config):
    """The time limits assume 8 writes in flight."""
    return ALWAYS + ("throughput",) * (config.writes_in_flight >= 8) + INDEXED * config.indices


BENCHES = [Bench(module=__name__, name=f"store_{name}", build=lambda config=config: StoreUnit(config),
                 params={"config": name}, testcase=_tests(config))
           for name, config in CONFIGS.items()]
