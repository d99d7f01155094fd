"""The memories and the control unit around the vector unit."""

from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from kiwicha.control.unit import ErrorReport
from kiwicha.isa import TABLE_WORDS, Activity, Unit
from kiwicha.layouts import unit_layout
from kiwicha.timing import READ_LATENCY
from kiwicha.vector.unit import VectorUnit
from tb import harness
from tb.harness import clock, cycles, port
from tb.vector.model import expected
from tb.vector.programs import FLOATS, INTS, PLAIN, instruction

__all__ = ["surround"]

LAYOUT = unit_layout(Unit.VECTOR)
#: Amaranth works a layout's size out each time that it is asked.
_INSTRUCTION_BITS = LAYOUT.size


class Surroundings:
    """Accumulators, scratchpad and control: answers reads, records writes, watches the rules."""

    def __init__(self, dut, config, label):
        self.dut, self.config = dut, config
        # Made in the simulator only: elsewhere Amaranth may warn of a unit that is never elaborated.
        unit = VectorUnit(config)
        #: Cycles from the last read to the write, without and with dynamic scales; room for lines between the two.
        self.latency, self.dynamic_scale_latency = unit.latency, unit.dynamic_scale_latency
        self.under_way = unit.lines_under_way
        self.random = harness.rng(label)
        self.clk = clock(dut)
        self.instructions = deque()
        self.p_acc = self.p_params = self.p_operand = self.p_write = self.p_valid = 1.0
        self.accumulator = np.zeros((config.accumulator_lines, config.columns), np.int32)
        self.scratchpad = np.zeros((config.scratchpad_lines, config.line_bytes), np.uint8)
        #: What the tables hold, unless an abort has made that uncertain.
        self.tables, self.tables_known = np.zeros((2, TABLE_WORDS), np.uint32), False
        self.writes, self.retired = [], []      # retired: how many writes there were by then
        self.reads, self.fetches, self.write_cycles = [], [], []    # cycles
        self.cycle = 0
        self.activity = []
        self.aborting = self.abort_asked = False
        self.error = None
        self.open = 0

    def fill(self):
        random = np.random.default_rng(self.random.getrandbits(64))
        for array, edges in ((self.accumulator, INTS), (self.scratchpad.view(np.int32), INTS)):
            shape = array.shape
            values = random.integers(-(1 << 31), 1 << 31, shape) >> random.integers(0, 32, shape)
            array[:] = np.where(random.random(shape) < 0.2, random.choice(edges, shape), values)
        if self.config.block_scaled:
            self.fill_floats(random)
        # Half of the scratchpad's lines hold floats, for scales.
        words = self.scratchpad.view(np.uint32)
        half = words[len(words) // 2:]
        near_one = random.integers(0, 1 << 32, half.shape) & 0x8FFFFFFF | 0x30000000
        half[:] = np.where(random.random(half.shape) < 0.3, random.choice(FLOATS, half.shape), near_one)

    def fill_floats(self, random):
        """Most accumulators as FP32: often small numbers of one size, of which a few are special."""
        shape = self.accumulator.shape
        middle, spread = random.choice([1, 5, 20, 127, 127, 240]), random.choice([1, 3, 30])
        exponents = np.clip(middle + random.integers(-spread, spread + 1, shape), 0, 254)
        bits = random.integers(0, 1 << 32, shape) & 0x807FFFFF | exponents << 23
        # Often those with which rounding decides.
        short = random.random(shape) < 0.5
        bits = np.where(short, bits & (-1 << random.choice([17, 18, 19, 20, 22])), bits)
        special = random.random(shape) < random.choice([0, 0.003, 0.3])
        bits = np.where(special, random.choice(FLOATS, shape), bits)
        zero = random.random((len(bits), 1)) < 0.1
        bits = np.where(zero, bits & 1 << 31, bits)
        lines = random.random((len(bits), 1)) < random.choice([0.5, 1])
        self.accumulator[:] = np.where(lines, bits.astype(np.uint32).view(np.int32), self.accumulator)

    def stall(self, share):
        """Each port lets through the share of requests that `share()` says, anew for each."""
        self.p_acc, self.p_params, self.p_operand, self.p_write = (share() for _ in range(4))

    def send(self, instructions):
        self.instructions.extend(harness.pack(LAYOUT, fields) for fields in instructions)

    def start(self):
        cocotb.start_soon(self._run())

    async def _run(self):
        get = {name: port(self.dut, name) for name in (
            *(f"{name}__request__{part}" for name in ("acc", "params", "operand", "write")
              for part in ("valid", "payload")),
            *(f"control__{name}" for name in ("retire", "error", "quiet", "activity", "progress", "i__ready")))}
        offer = self._payloads()
        ready = {name: port(self.dut, f"{name}__request__ready") for name in ("acc", "params", "operand", "write")}
        answers = {name: [None] * (READ_LATENCY - 1) for name in ("acc", "params", "operand")}
        stores = {"acc": self.accumulator, "params": self.scratchpad, "operand": self.scratchpad}
        held, offered = None, False
        while True:
            was_aborting, self.aborting = self.aborting, self.abort_asked
            port(self.dut, "control__abort").value = int(self.aborting)
            if self.aborting:
                self.instructions.clear()
            offered = bool(self.instructions) and (offered or self.random.random() < self.p_valid)
            port(self.dut, "control__i__valid").value = int(offered)
            offer("control__i__payload", self.instructions[0] if offered else None, _INSTRUCTION_BITS)
            now = {"acc": self.random.random() < self.p_acc, "params": self.random.random() < self.p_params,
                   "operand": self.random.random() < self.p_operand, "write": self.random.random() < self.p_write}
            for name, value in now.items():
                ready[name].value = int(value)
            await RisingEdge(self.clk)
            self.cycle += 1
            taken = offered and get["control__i__ready"].value == 1
            if taken:
                assert not self.aborting, "an instruction taken during abort"
                self.instructions.popleft()
                offered = False
            took, waits = {}, {}
            for name, store in stores.items():
                asks = get[f"{name}__request__valid"].value == 1
                took[name], waits[name] = now[name] and asks, asks and not now[name]
                line = int(get[f"{name}__request__payload"].value) if took[name] else None
                if took[name]:
                    assert line < len(store), f"{name} reads line {line}"
                answer = answers[name].pop(0)
                answers[name].append(line)
                port(self.dut, f"{name}__valid").value = int(answer is not None)
                data = None if answer is None else int.from_bytes(store[answer].tobytes(), "little")
                offer(f"{name}__data", data, 8 * store[0].nbytes)
            if took["operand"]:
                self.fetches.append(self.cycle)
            if get["control__retire"].value == 1:
                self.retired.append(len(self.writes))
            # Instructions between their being taken and their end.
            self.open = 0 if self.aborting else self.open + taken - (get["control__retire"].value == 1)
            valid = get["write__request__valid"].value == 1
            payload = int(get["write__request__payload"].value) if valid else None
            if held is not None and not self.aborting:
                assert payload == held, "write changed while it waited"
            held = payload if valid and not now["write"] else None
            if valid and now["write"]:
                assert not was_aborting, "a write after abort"
                self.writes.append((payload & 0xFFFF, (payload >> 16).to_bytes(self.config.line_bytes, "little")))
                self.write_cycles.append(self.cycle)
            coming = any(line is not None for line in (*answers["params"], *answers["operand"]))
            self._watch(get, took, waits, coming, taken or (valid and now["write"]))

    def _payloads(self):
        """A function that drives a payload; where there is none, a random one, which stays until there is."""
        idle = set()

        def drive(name, value, bits):
            if value is not None:
                idle.discard(name)
                port(self.dut, name).value = value
            elif name not in idle:
                idle.add(name)
                port(self.dut, name).value = self.random.getrandbits(bits)
        return drive

    def _watch(self, get, took, waits, coming, moves):
        activity = Activity(int(get["control__activity"].value))
        quiet = get["control__quiet"].value == 1
        self.activity.append(activity)
        assert (activity == Activity.IDLE) == quiet, f"{activity} while quiet is {quiet}"
        # A read that takes operand A from the scratchpad shows nowhere else.
        assert activity == Activity.BUSY or not took["acc"], f"{activity} while it reads"
        if activity == Activity.BUSY:
            self.reads.append(self.cycle)
        elif waits["acc"] or waits["operand"] or (waits["params"] and self.open == 1):
            assert activity == Activity.PORT, f"{activity} while a port lets nothing through"
        else:
            assert activity != Activity.PORT or waits["params"], f"{activity} while no port is waited for"
        # But the datapath may have to run empty, whatever comes, if results leave it by several ways.
        ways = self.config.block_scaled or self.config.functions
        if coming and not self.aborting and not ways:
            assert activity != Activity.DRAIN, "DRAIN while lines are on their way here"
        moves = moves or any(took.values()) or activity == Activity.BUSY or get["control__retire"].value == 1
        assert (get["control__progress"].value == 1) == moves, "progress must say whether anything moves"
        bits = int(get["control__error"].value)
        # Without an error the rest means nothing, and to take it apart in every cycle takes long.
        report = harness.unpack(ErrorReport, bits) if bits & 1 else None
        if self.error is not None and not self.aborting:
            assert report == self.error, "the error changed"
        self.error = report

    def until(self, condition, limit):
        async def wait():
            for _ in range(limit):
                if condition():
                    return
                await RisingEdge(self.clk)
            raise AssertionError(f"not done within {limit} cycles")
        return wait()

    async def run(self, instructions):
        """Run instructions to the end of all, or to an error, and check every write; gives the error."""
        if not self.tables_known:
            self.tables_known = True
            await self.run([instruction(self.config, self.random, **PLAIN | {"load_a": 1, "load_b": 1})])
        self.writes, self.retired, self.write_cycles, self.activity = [], [], [], []
        self.reads, self.fetches = [], []
        first = self.cycle
        want, ends, error, reads = [], [], None, 0
        for fields in instructions:
            writes, fault, read = expected(self.config, fields, self.accumulator, self.scratchpad, self.tables)
            want += writes
            if fault:
                error = {"valid": 1, "code": fault[0], "index": fields["index"],
                         "address": fault[1] % (1 << 64)}
                break
            reads += read
            ends.append(len(want))
        self.send(instructions)
        # Ports let one request in ten through, and more than half of the bound is to spare.
        steps = -(-self.config.columns // self.config.vector_lanes)
        loads = sum(fields["load_a"] + fields["load_b"] for fields in instructions)
        most = max([int(np.prod([f[f"count{i}"] for i in range(4)])) for f in instructions], default=0)
        limit = 20_000 + (40 + 2 * steps) * (reads + 128 * most + len(want)) + 20 * TABLE_WORDS * loads
        await self.until(lambda: self.error is not None or len(self.retired) >= len(instructions), limit)
        await cycles(self.dut, 60 if error else 2)
        names = [f"{line:#x}: {data.hex()}" for line, data in self.writes]
        wanted = [f"{line:#x}: {data.hex()}" for line, data in want]
        for number, (got, right) in enumerate(zip(names, wanted, strict=False)):
            which = next((i for i, end in enumerate(ends) if number < end), len(ends))
            assert got == right, f"write {number}: {got}, not {right}; {instructions[which]}"
        assert len(names) == len(wanted), f"{len(names)} writes, not {len(wanted)}"
        assert self.error == error, f"error {self.error}, not {error}"
        assert self.retired == ends, f"retired at writes {self.retired}, not {ends}"
        if error is None:
            assert len(self.reads) == reads, f"{len(self.reads)} reads, not {reads}"
            assert port(self.dut, "control__quiet").value == 1
        else:
            assert port(self.dut, "control__quiet").value == 0
        self.elapsed = self.cycle - first
        return error

    async def abort(self, limit=100):
        """Abort until quiet; what the driver still offers is dropped as well."""
        self.abort_asked, self.tables_known = True, False
        await cycles(self.dut, 2)
        await self.until(lambda: port(self.dut, "control__quiet").value == 1, limit)
        self.abort_asked = False
        await cycles(self.dut, 2)
        assert self.error is None


async def surround(dut, label):
    config = harness.current().params["config"]
    await harness.start(dut)
    around = Surroundings(dut, config, label)
    around.fill()
    around.start()
    return around
