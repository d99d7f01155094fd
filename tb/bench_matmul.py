"""The MATMUL unit with its array, scratchpad and accumulators: sums, order, pace, errors, against numpy loops."""

import itertools

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

import harness
from harness import Bench, StreamDriver, bounded, cycles, port
from kiwicha import ChipConfig
from kiwicha.array.matmul import MatmulUnit
from kiwicha.config import READ_LATENCY
from kiwicha.control.unit import ErrorReport, UnitPort
from kiwicha.formats import ElementFormat
from kiwicha.isa import Activity, ErrorCode, Unit, unit_layout
from kiwicha.memory.accumulator import Accumulator, accumulation
from kiwicha.memory.ports import ReadPort, WritePort, line_write
from kiwicha.memory.scratchpad import Scratchpad
from scaled_model import BlockModel, bad_field, elements, random_scaled_fields


def ports(config):
    """The unit's scratchpad ports."""
    return "aws" if config.block_scaled else "aw"


class MatmulBench(wiring.Component):
    """The unit and its memories; `deny_a` and so on hold its requests back, and some wires are for looking."""

    def __init__(self, config):
        self.config = config
        line = 8 * config.line_bytes
        super().__init__({
            "control": Out(UnitPort(Unit.MATMUL)), "load": In(WritePort(line)),
            "read": In(ReadPort(32 * config.columns)), **{f"deny_{name}": In(1) for name in ports(config)},
            "acc": Out(accumulation(config)),
            **{f"{name}_{what}": Out(width) for name in ports(config)
               for what, width in (("valid", 1), ("line", 16), ("taken", 1))},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = MatmulUnit(self.config)
        m.submodules.scratchpad = scratchpad = Scratchpad(self.config)
        m.submodules.accumulator = accumulator = Accumulator(self.config)
        connect(m, flipped(self.control), unit.control)
        connect(m, flipped(self.load), scratchpad.load)
        connect(m, flipped(self.read), accumulator.read)
        m.d.comb += [accumulator.i.eq(unit.acc), self.acc.eq(unit.acc)]
        for name in ports(self.config):
            ours, theirs, deny = getattr(unit, name), getattr(scratchpad, name), getattr(self, f"deny_{name}")
            m.d.comb += [
                theirs.request.valid.eq(ours.request.valid & ~deny),
                theirs.request.payload.eq(ours.request.payload),
                ours.request.ready.eq(theirs.request.ready & ~deny),
                ours.data.eq(theirs.data),
                ours.valid.eq(theirs.valid),
                getattr(self, f"{name}_valid").eq(ours.request.valid),
                getattr(self, f"{name}_line").eq(ours.request.payload),
                getattr(self, f"{name}_taken").eq(ours.request.valid & ours.request.ready),
            ]
        return m


class World:
    """The design, what it must compute, and the rules it must keep in every cycle."""

    def __init__(self, dut, label):
        self.dut, self.config = dut, harness.current().params["config"]
        self.rng = harness.rng(label)
        self.ports = ports(self.config)
        self.p_deny = dict.fromkeys(self.ports, 0.0)
        accumulator = Accumulator(self.config)
        #: Cycles between two sums to one accumulator line, and from a sum to its read.
        self.rest, self.settle = accumulator.hazard, accumulator.latency
        self.aborting = False
        self.now = 0
        self.log = {name: [] for name in (*self.ports, "acc", "retire")}   # cycles; (cycle, line) for ports
        self.activities = []
        self.vectors = 0                # of all instructions sent, and after each
        self.ends = []
        config = self.config
        memory = np.random.default_rng(self.rng.getrandbits(32)).integers(
            -128, 128, (config.scratchpad_lines, config.line_bytes), np.int8)
        memory[self.rng.randrange(8)::8] = -128
        self.memory, self.sums = memory, np.zeros((config.accumulator_lines, config.columns), np.int32)
        self.expected = {name: [] for name in self.ports}
        self.blocks = BlockModel(config)

    @classmethod
    async def begin(cls, dut, label):
        await harness.start(dut)
        world = cls(dut, label)
        layout = line_write(8 * world.config.line_bytes)
        for line, values in enumerate(world.memory):
            port(dut, "load__request__valid").value = 1
            port(dut, "load__request__payload").value = harness.pack(
                layout, address=line, data=int.from_bytes(values.tobytes(), "little"))
            await cycles(dut, 1)
        port(dut, "load__request__valid").value = 0
        world.driver = StreamDriver(dut, "control__i", rng=harness.rng(f"{label} driver"))
        cocotb.start_soon(world._watch())
        # So that every accumulator has a value that the model knows.
        lines = world.config.accumulator_lines
        world.send(instruction(world.config, count=(lines, 1, 1, 1), acc_stride=(1, 0, 0, 0)))
        await world.finish()
        return world

    # The model.

    def send(self, fields, index=0):
        """Queue an instruction, and do in the model what it does; False if it ends in an error, half done."""
        packed = {"index": index}
        for name, value in fields.items():
            if isinstance(value, tuple):
                first = 2 if name in ("w_stride", "a_scale_stride", "w_scale_stride") else 0
                packed |= {f"{name}{first + i}": item for i, item in enumerate(value)}
            else:
                packed[name] = value
        self.driver.send([harness.pack(unit_layout(Unit.MATMUL), packed)])
        return self._execute(fields)

    def _execute(self, f):
        config = self.config
        if 0 in f["count"] or bad_field(config, f):
            return False
        for i3, i2 in itertools.product(range(f["count"][3]), range(f["count"][2])):
            w_line = f["w_line"] + i2 * f["w_stride"][0] + i3 * f["w_stride"][1]
            if f["scaled"]:
                self.blocks.tile(f, i2, i3)
                if self.blocks.end:
                    if not 0 <= self.blocks.w_scale_line < config.scratchpad_lines:
                        return False
                    self.expected["w"].append(self.blocks.w_scale_line)
            for row in range(config.rows):
                if not 0 <= w_line + row < config.scratchpad_lines:
                    return False
                self.expected["w"].append(w_line + row)
            tile = elements(self.memory[w_line:w_line + config.rows], f["w_format"], config.columns)
            for i1, i0 in itertools.product(range(f["count"][1]), range(f["count"][0])):
                index = (i0, i1, i2, i3)
                a_line = f["a_line"] + sum(i * s for i, s in zip(index, f["a_stride"], strict=True))
                acc_line = f["acc_line"] + sum(i * s for i, s in zip(index, f["acc_stride"], strict=True))
                if not 0 <= a_line < config.scratchpad_lines:
                    return False
                number = i1 * f["count"][0] + i0
                scale_line = self.blocks.a_scale_line + number // config.line_bytes
                byte = number % config.line_bytes
                fetch = f["scaled"] and self.blocks.end and byte == 0
                if fetch and not 0 <= scale_line < config.scratchpad_lines:
                    return False
                if not 0 <= acc_line < config.accumulator_lines:
                    return False
                self.expected["a"].append(a_line)
                self.expected.get("s", []).extend([scale_line] if fetch else [])
                vector = elements(self.memory[a_line:a_line + 1], f["a_format"], config.rows)[0]
                if f["scaled"]:
                    index = (i0, i1, i2 // f["block_tiles"], i3)
                again = any(i > 0 for i, s in zip(index, f["acc_stride"], strict=True) if s == 0)
                old = self.sums[acc_line] if f["accumulate"] or again else np.zeros_like(self.sums[acc_line])
                if f["scaled"]:
                    self.sums[acc_line] = self.blocks.vector(
                        acc_line, vector, tile, old, self.sums[acc_line],
                        self.memory.view(np.uint8)[scale_line % len(self.memory), byte],
                        self.memory.view(np.uint8)[self.blocks.w_scale_line % len(self.memory), :config.columns])
                else:
                    self.sums[acc_line] = (old + vector.astype(np.int64) @ tile.astype(np.int64)).astype(np.int32)
                self.vectors += 1
        self.ends.append(self.vectors)
        return True

    # The rules.

    async def _watch(self):
        held, last_used = dict.fromkeys(self.ports), {}
        while True:
            for name in self.ports:
                port(self.dut, f"deny_{name}").value = self.rng.random() < self.p_deny[name]
            await cycles(self.dut, 1)
            self.now += 1
            for name in self.ports:
                valid, line, taken = (int(port(self.dut, f"{name}_{what}").value)
                                      for what in ("valid", "line", "taken"))
                assert held[name] is None or self.aborting or (valid and line == held[name]), \
                    f"{name}: the request changed while it waited"
                held[name] = line if valid and not taken else None
                if taken:
                    self.log[name].append((self.now, line))
            acc = int(port(self.dut, "acc").value)
            if acc & 1:
                line = acc >> 1 & 0xFFFF
                rested = self.now - last_used.get(line, -self.rest)
                assert rested >= self.rest, "an accumulator line before it has rested"
                last_used[line] = self.now
                self.log["acc"].append(self.now)
            self._watch_control()

    def _watch_control(self):
        control = {name: int(port(self.dut, f"control__{name}").value)
                   for name in ("retire", "quiet", "activity", "progress")}
        activity = Activity(control["activity"])
        self.activities.append(activity)
        issued = {name: self.log[name][-1:] and self.log[name][-1][0] == self.now for name in "aw"}
        assert bool(issued["a"]) == (activity == Activity.BUSY)
        assert bool(control["quiet"]) == (activity == Activity.IDLE)
        assert bool(issued["a"] or issued["w"]) == bool(control["progress"])
        if control["retire"]:
            assert not self.aborting
            self.log["retire"].append(self.now)
            done = self.ends[len(self.log["retire"]) - 1]
            assert self.log["acc"][done - 1:done] == [self.now - self.settle], "retire: wrong time"

    # What tests do.

    async def finish(self, limit=20_000):
        """Wait until all is done, and compare requests and accumulators."""
        async def retired():
            while len(self.log["retire"]) < len(self.ends):
                await cycles(self.dut, 1)
        await bounded(retired(), limit)
        await self.quiet(3)
        for name in self.ports:
            assert [line for _, line in self.log[name]] == self.expected[name], f"{name}: wrong lines"
        assert (await self.read_all() == self.sums).all()

    async def quiet(self, limit):
        for _ in range(limit):
            await cycles(self.dut, 1)
            if port(self.dut, "control__quiet").value == 1:
                return
        raise AssertionError(f"not quiet after {limit} cycles")

    async def read_all(self):
        """The accumulators, through the epilogue's port."""
        words = []
        for line in range(self.config.accumulator_lines + READ_LATENCY + 1):
            port(self.dut, "read__request__valid").value = line < self.config.accumulator_lines
            port(self.dut, "read__request__payload").value = line % self.config.accumulator_lines
            await cycles(self.dut, 1)
            if port(self.dut, "read__valid").value == 1:
                words.append(int(port(self.dut, "read__data").value))
        port(self.dut, "read__request__valid").value = 0
        size = 4 * self.config.columns
        return np.stack([np.frombuffer(word.to_bytes(size, "little"), "<i4") for word in words])

    def error(self):
        fields = harness.unpack(ErrorReport, int(port(self.dut, "control__error").value))
        return fields if fields["valid"] else None

    async def abort(self):
        """Abort, wait until quiet, and take over the accumulators as they are now."""
        whole = 2 * self.config.rows + self.config.columns + 60
        self.aborting = True
        port(self.dut, "control__abort").value = 1
        await cycles(self.dut, 1)
        await bounded(self.driver.drain(), 100)
        await self.quiet(whole)
        port(self.dut, "control__abort").value = 0
        await cycles(self.dut, 2)
        assert self.error() is None
        self.aborting = False
        self.sums = (await self.read_all()).copy()
        self.log = {name: [] for name in self.log}
        self.expected, self.vectors, self.ends = {name: [] for name in self.ports}, 0, []


def instruction(config, **fields):
    """An instruction of one vector and one tile, but for `fields`; counts and strides from level 0 (or 2) up."""
    return {"accumulate": 0, "scaled": 0, "a_format": ElementFormat.INT8, "w_format": ElementFormat.INT8,
            "block_tiles": 0, "a_scale_line": 0, "a_scale_stride": (0, 0), "w_scale_line": 0,
            "w_scale_stride": (0, 0), "a_line": 0, "w_line": config.scratchpad_lines // 2, "acc_line": 0,
            "count": (1, 1, 1, 1), "a_stride": (0,) * 4, "acc_stride": (0,) * 4, "w_stride": (0, 0)} | fields


def random_instruction(config, rng, most=40):
    """Any instruction without errors; often a reduction, or one that comes back to its lines soon."""
    while True:
        count = tuple(rng.choice((1, 1, 2, 3, rng.randint(1, most))) for _ in range(4))
        if np.prod(count) <= most and count[2] * count[3] <= 6:
            break

    def walk(lines, counts, extra=0, zeros=1):
        while True:
            high = rng.choice((1, 3, 40, lines))
            strides = tuple(rng.choice((*(0,) * zeros, 1, -1, rng.randint(-high, high))) for _ in counts)
            reach = [stride * (count - 1) for stride, count in zip(strides, counts, strict=True)]
            low, top = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0) + extra
            if top - low < lines:
                return rng.choice((-low, lines - 1 - top, rng.randint(-low, lines - 1 - top))), strides

    a_line, a_stride = walk(config.scratchpad_lines, count)
    acc_line, acc_stride = walk(config.accumulator_lines, count, zeros=rng.choice((1, 3)))
    w_line, w_stride = walk(config.scratchpad_lines, count[2:], config.rows - 1)
    return instruction(config, accumulate=rng.randrange(2), a_line=a_line, w_line=w_line, acc_line=acc_line,
                       count=count, a_stride=a_stride, acc_stride=acc_stride, w_stride=w_stride)


def random_scaled(config, rng):
    """A block-scaled instruction without errors, its blocks' sums each in a place of its own."""
    while True:
        fields = random_instruction(config, rng)
        fields |= random_scaled_fields(config, rng, fields["count"])
        own = len({sum(i * s for i, s in zip(index, fields["acc_stride"], strict=False))
                   for index in itertools.product(*map(range, fields["count"][:2]))})
        if fields["block_tiles"] == 1 or (own == np.prod(fields["count"][:2]) and fields["acc_stride"][2] == 0):
            return fields


@cocotb.test()
@cocotb.parametrize(p_deny=[(0, 0), (0.5, 0.1), (0.1, 0.5), (0.7, 0.7)], p_valid=[0.05, 1.0])
async def random_programs(dut, p_deny, p_valid):
    world = await World.begin(dut, f"random {p_deny} {p_valid}")
    for _ in range(2):
        world.p_deny |= dict(zip("aw", p_deny, strict=True))
        world.driver.p_valid = p_valid
        for index in range(25):
            assert world.send(random_instruction(world.config, world.rng), index)
        await world.finish()


@cocotb.test()
@cocotb.parametrize(p_deny=[(0, 0, 0), (0.5, 0.1, 0.3), (0.1, 0.5, 0.8)], p_valid=[0.05, 1.0])
async def random_scaled_programs(dut, p_deny, p_valid):
    """Block-scaled and integer products of all formats in turn."""
    world = await World.begin(dut, f"scaled {p_deny} {p_valid}")
    for _ in range(3):
        world.p_deny = dict(zip("aws", p_deny, strict=True))
        world.driver.p_valid = p_valid
        for index in range(25):
            make = random_scaled if world.rng.random() < 0.8 else random_instruction
            assert world.send(make(world.config, world.rng), index)
        await world.finish()


@cocotb.test()
@cocotb.parametrize(instructions=[(3, 5), (8, 1)])
async def tiles_follow_without_a_bubble(dut, instructions):
    """`number` instructions of `tiles` tiles: a tile of M vectors every max(M, rows) cycles, from the first on."""
    number, tiles = instructions
    world = await World.begin(dut, "pace")
    config, rest = world.config, world.rest
    for m in (1, config.rows - 1, config.rows, config.rows + 1, 3 * config.rows):
        before = len(world.log["a"])
        for i in range(number):
            # Operands in different banks, and accumulator lines that have rested.
            world.send(instruction(config, count=(m, 1, tiles, 1), a_stride=(1, 0, 2, 0),
                                   acc_line=32 * (i % (config.accumulator_lines // 32)),
                                   acc_stride=(1, 0, rest if m < rest else 0, 0),
                                   w_stride=(config.rows, 0), accumulate=1))
        await world.finish()
        swaps = [cycle for cycle, _ in world.log["a"][before::m]]
        assert len(swaps) == number * tiles
        gaps = {after - now for now, after in itertools.pairwise(swaps)}
        assert gaps == {max(m, config.rows)}, f"{m} vectors a tile: {gaps} cycles"
    assert config.rows < rest or Activity.PORT not in world.activities


@cocotb.test()
async def scaled_tiles_follow_without_a_bubble(dut):
    """A block's last tile loads one line more, and each line of A's scales takes no cycle from another bank."""
    world = await World.begin(dut, "scaled pace")
    config, tiles = world.config, 6
    for m in (config.rows + 1, 3 * config.rows, 32):
        before = len(world.log["a"])
        for _ in range(2):
            # In four banks: A, then its scales, and the weights with theirs.
            world.send(instruction(config, scaled=1, block_tiles=2, count=(m, 1, tiles, 1), a_stride=(1, 0, 2, 0),
                                   acc_stride=(1, 0, 0, 0), w_stride=(config.rows, 0), a_scale_line=64,
                                   a_scale_stride=(4, 0), w_scale_line=192, w_scale_stride=(1, 0)))
        await world.finish()
        swaps = [cycle for cycle, _ in world.log["a"][before::m]]
        gaps = {after - now for now, after in itertools.pairwise(swaps)}
        assert gaps == {max(m, world.rest)}, f"{m} vectors a tile: {gaps} cycles"


@cocotb.test()
async def sums_to_one_line_rest(dut):
    """Vectors to n lines in turn come as fast as the lines rest."""
    world = await World.begin(dut, "rest")
    for n in range(1, world.rest + 2):
        before = len(world.log["a"])
        world.send(instruction(world.config, count=(n, 20, 1, 1), acc_stride=(1, 0, 0, 0), a_stride=(1, 2, 0, 0)))
        await world.finish()
        rounds = [cycle for cycle, _ in world.log["a"][before::n]]
        gaps = [after - now for now, after in itertools.pairwise(rounds)]
        assert set(gaps) == {max(n, world.rest)}, f"{n} lines in turn: {gaps} cycles"


@cocotb.test()
async def latency(dut):
    """The first vector is asked for when its tile is there, and retires after as many cycles as promised."""
    world = await World.begin(dut, "latency")
    before = {name: len(log) for name, log in world.log.items()}
    assert world.send(instruction(world.config))
    while world.driver.accepted < 2:
        await cycles(dut, 1)
    accepted = world.now
    await world.finish()
    rows = [cycle for cycle, _ in world.log["w"][before["w"]:]]
    assert rows == [accepted + 3 + i for i in range(world.config.rows)]
    assert world.log["a"][before["a"]][0] == rows[-1] + 1
    whole = harness.current().params["latency"]
    assert world.log["acc"][before["acc"]] == rows[-1] + 1 + whole
    assert world.log["retire"][before["retire"]] == rows[-1] + 1 + whole + world.settle


@cocotb.test()
async def a_retired_sum_can_be_read_at_once(dut):
    world = await World.begin(dut, "read")
    for line in (0, world.config.accumulator_lines - 1):
        world.send(instruction(world.config, acc_line=line, accumulate=1))
        port(dut, "read__request__valid").value = 1
        port(dut, "read__request__payload").value = line
        seen = []
        while len(seen) <= READ_LATENCY:
            await cycles(dut, 1)
            if seen or port(dut, "control__retire").value == 1:
                seen.append(int(port(dut, "read__data").value))
        port(dut, "read__request__valid").value = 0
        await cycles(dut, READ_LATENCY + 1)
        assert seen[READ_LATENCY] == int.from_bytes(world.sums[line].astype("<i4").tobytes(), "little")
        await world.finish()


@cocotb.test()
async def activities(dut):
    """What the counters will count: each state in its place, and nothing else."""
    world = await World.begin(dut, "activity")
    config, tail = world.config, harness.current().params["latency"] + world.settle
    for deny, waits in (({"a": 0.0, "w": 0.0}, Activity.OPERAND), ({"a": 0.0, "w": 1.0}, Activity.PORT),
                        ({"a": 1.0, "w": 0.0}, Activity.PORT)):
        start = len(world.activities)
        world.p_deny |= deny
        # Operands in different banks, so that the unit does not stand in its own way.
        world.send(instruction(config, count=(6, 1, 1, 1), acc_stride=(1, 0, 0, 0)))
        await cycles(dut, 40)
        world.p_deny = dict.fromkeys(world.ports, 0.0)
        await world.finish()
        seen = [key for key, _ in itertools.groupby(world.activities[start:])]
        front = [Activity.OPERAND, waits] if waits == Activity.PORT else [Activity.OPERAND]
        if deny["w"]:
            front.append(Activity.OPERAND)
        assert seen == [Activity.IDLE, *front, Activity.BUSY, Activity.DRAIN, Activity.IDLE], seen
        assert world.activities[start:].count(Activity.BUSY) == 6
        assert world.activities[start:].count(Activity.DRAIN) == tail


def bad_instructions(config, rng):
    """Instructions with an error, and (code, address) of what comes first."""
    lines, accs, rows = config.scratchpad_lines, config.accumulator_lines, config.rows
    field, pad, acc = ErrorCode.FIELD, ErrorCode.SCRATCHPAD_RANGE, ErrorCode.ACCUMULATOR_RANGE
    for level in range(4):
        count = [2, 2, 2, 2]
        count[level] = 0
        # A zero count comes before any wrong line.
        yield {"count": tuple(count), "w_line": lines, "a_line": lines, "acc_line": accs}, field, 0
        for stride, at in ((-1, -1), (-0x8000, -0x8000), (0x7FFF, 0x7FFF)):
            strides = tuple(stride if i == level else 0 for i in range(4))
            count = tuple(3 if i == level else 2 for i in range(4))
            yield {"count": count, "a_stride": strides}, pad, at
            yield {"count": count, "acc_stride": strides}, acc, at
            if level >= 2:
                yield {"count": count, "w_line": 0, "w_stride": strides[2:]}, pad, at
    # A line just too far, after all others; a tile's weights before its vectors; A before the accumulators.
    for row in range(rows):
        yield {"w_line": lines - row, "a_line": lines, "acc_line": accs}, pad, lines
    yield {"w_line": lines - rows, "a_line": 0xFFFF, "acc_line": accs}, pad, 0xFFFF
    yield {"acc_line": accs}, acc, accs
    yield {"a_line": lines - 3, "a_stride": (1, 0, 0, 0), "count": (4, 1, 1, 1)}, pad, lines
    yield {"acc_line": accs - 5, "acc_stride": (0, 0, 1, 0), "count": (1, 1, 6, 1)}, acc, accs
    yield ({"w_line": lines - 3 * rows, "w_stride": (rows, 0), "count": (2, 2, 4, 1), "acc_line": accs - 3,
            "acc_stride": (0, 0, 1, 0)}, pad, lines)
    wrong = ElementFormat.E3M2 if config.block_scaled else ElementFormat.INT4
    yield {"a_format": wrong, "a_line": lines}, field, wrong.value
    yield {"w_format": wrong, "a_line": lines}, field, wrong.value
    yield {"scaled": 1, "block_tiles": 128 // rows + 1}, field, 128 // rows + 1
    yield {"scaled": 1}, field, 0
    if config.block_scaled:
        scaled = {"scaled": 1, "block_tiles": 2, "count": (4, 1, 3, 2)}
        yield scaled | {"w_scale_line": lines, "a_scale_line": lines, "acc_line": accs}, acc, accs
        yield scaled | {"w_scale_line": lines, "a_scale_line": lines}, pad, lines
        yield scaled | {"w_scale_line": lines - 1, "w_scale_stride": (0, -0x8000)}, pad, lines - 1 - 0x8000
        yield scaled | {"w_scale_line": lines - 1, "w_scale_stride": (1, 0)}, pad, lines
        yield scaled | {"a_scale_line": 0, "a_scale_stride": (-1, 0)}, pad, -1
        yield scaled | {"a_scale_line": lines - 1, "count": (config.line_bytes + 1, 1, 1, 1)}, pad, lines
    # The next tile's weights are wrong too, and are asked for earlier.
    yield ({"w_line": lines - 2 * rows, "w_stride": (rows, 0), "count": (4 * rows, 1, 3, 1), "acc_line": accs - 5,
            "acc_stride": (0, 0, 3, 0)}, pad, lines)
    yield ({"w_line": lines - 2 * rows, "w_stride": (rows, 0), "count": (4 * rows, 1, 3, 1), "acc_line": accs - 3,
            "acc_stride": (0, 0, 3, 0)}, acc, accs)


@cocotb.test()
@cocotb.parametrize(p_deny=[0, 0.4])
async def errors_then_abort_then_work(dut, p_deny):
    world = await World.begin(dut, f"errors {p_deny}")
    for fields, code, address in bad_instructions(world.config, world.rng):
        world.p_deny = dict.fromkeys(world.ports, p_deny)
        index = world.rng.getrandbits(24)
        for _ in range(world.rng.randrange(3)):
            assert world.send(random_instruction(world.config, world.rng, most=12), index ^ 1)
        assert not world.send(instruction(world.config, **fields), index)
        for _ in range(world.rng.randrange(3)):
            world.driver.send([harness.pack(unit_layout(Unit.MATMUL), index=index ^ 2, count2=1, count3=1)])

        async def failed(world=world):
            while world.error() is None:
                await cycles(dut, 1)
        await bounded(failed(), 5000)
        await cycles(dut, world.rng.choice((0, 1, 60)))
        got, due = world.error(), {"valid": 1, "code": code, "index": index, "address": address % (1 << 64)}
        assert got == due, f"{fields}: {got}, expected {due}"
        # All that came before has been asked for, and no more vectors.
        assert [line for _, line in world.log["a"]] == world.expected["a"]
        assert len(world.log["retire"]) <= len(world.ends)
        await world.abort()
        assert world.send(random_instruction(world.config, world.rng, most=12))
        await world.finish()
        world.log, world.expected = {name: [] for name in world.log}, {name: [] for name in world.ports}
        world.vectors, world.ends = 0, []


@cocotb.test()
@cocotb.parametrize(p_deny=[0, 0.5])
async def abort_at_any_time(dut, p_deny):
    world = await World.begin(dut, f"abort {p_deny}")
    for _ in range(30):
        world.p_deny = dict.fromkeys(world.ports, p_deny)
        for _ in range(world.rng.randrange(4)):
            world.send(random_instruction(world.config, world.rng))
        await cycles(dut, world.rng.randrange(60))
        await world.abort()
        for _ in range(2):
            assert world.send(random_instruction(world.config, world.rng, most=12))
        await world.finish()
        world.log, world.expected = {name: [] for name in world.log}, {name: [] for name in world.ports}
        world.vectors, world.ends = 0, []


COMMON = ("random_programs", "tiles_follow_without_a_bubble", "sums_to_one_line_rest", "latency",
          "a_retired_sum_can_be_read_at_once", "activities", "errors_then_abort_then_work", "abort_at_any_time")


def matmul_bench(name, rows, columns, lines=64, **parameters):
    config = ChipConfig(name=name, rows=rows, columns=columns, bus_width=64, epilogue_lanes=2, bank_lines=64,
                        accumulator_lines=lines, **parameters)
    scaled = config.block_scaled
    return Bench(name=f"matmul_{name}", build=lambda: MatmulBench(config),
                 testcase=(*COMMON, "random_scaled_programs", "scaled_tiles_follow_without_a_bubble") if scaled
                 else COMMON,
                 params={"config": config, "latency": rows + columns + 3 + READ_LATENCY + scaled})


BENCHES = [
    matmul_bench("square", 4, 4),
    matmul_bench("eight", 8, 8, scratchpad_banks=2),
    matmul_bench("odd", 3, 5),
    matmul_bench("scaled", 4, 6, formats=("int8", "int4", "e4m3", "e3m2", "e2m3", "e2m1"), lines=256),
    matmul_bench("scaled_narrow", 8, 4, formats=("int8", "e2m1"), lines=256),
]
