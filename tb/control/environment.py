"""Everything around the control unit: a host, units that take their time, and a memory with the program."""

import dataclasses

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from kiwicha.bus.axi import AxiRead, ReadId, Resp
from kiwicha.config import ChipConfig
from kiwicha.control.controller import Controller
from kiwicha.control.probe import Probe
from kiwicha.control.unit import ErrorReport, UnitPort, Window
from kiwicha.isa import INSTRUCTION_BYTES, INSTRUCTIONS, REGISTERS, Activity, Unit, counter_address
from kiwicha.layouts import unit_layout
from tb import harness
from tb.harness import Bench, clock, pack, port, unpack
from tb.mutation import Mutated

UNITS = list(INSTRUCTIONS)
HOST = {"awaddr": In(12), "awvalid": In(1), "awready": Out(1), "wdata": In(32), "wstrb": In(4), "wvalid": In(1),
        "wready": Out(1), "bresp": Out(2), "bvalid": Out(1), "bready": In(1), "araddr": In(12),
        "arvalid": In(1), "arready": Out(1), "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1)}


class FlatController(wiring.Component):
    """The control unit, with its probe, and with the AXI4-Lite signals that a bus model expects."""

    def __init__(self, config):
        self._config = config
        super().__init__({
            **{f"host_{name}": member for name, member in HOST.items()},
            "bus": Out(AxiRead(config)), "window": Out(Window(config)), "irq": Out(1),
            "probe": Out(Probe()),
            **{unit.name.lower(): In(UnitPort(unit)) for unit in UNITS}})

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller = controller = Controller(self._config, probe=True)
        host = controller.host
        for ours, stream, inwards in (("aw", host.aw, True), ("w", host.w, True), ("b", host.b, False),
                                      ("ar", host.ar, True), ("r", host.r, False)):
            valid, ready = getattr(self, f"host_{ours}valid"), getattr(self, f"host_{ours}ready")
            m.d.comb += [stream.valid.eq(valid), ready.eq(stream.ready)] if inwards else \
                        [valid.eq(stream.valid), stream.ready.eq(ready)]
        m.d.comb += [
            host.aw.payload.eq(self.host_awaddr), host.w.p.data.eq(self.host_wdata),
            host.w.p.strobe.eq(self.host_wstrb), self.host_bresp.eq(host.b.payload),
            host.ar.payload.eq(self.host_araddr), self.host_rdata.eq(host.r.p.data),
            self.host_rresp.eq(host.r.p.resp), self.irq.eq(controller.irq),
            self.window.eq(controller.window)]
        wiring.connect(m, wiring.flipped(self.bus), controller.bus)
        wiring.connect(m, wiring.flipped(self.probe), controller.probe)
        for unit in UNITS:
            wiring.connect(m, wiring.flipped(getattr(self, unit.name.lower())),
                           getattr(controller, unit.name.lower()))
        return m


class Memory:
    """A read slave: every burst takes its time; it can answer with an error, or fall silent."""

    def __init__(self, dut, config, random):
        self.dut, self.config, self.random = dut, config, random
        self.bytes = {}
        self.bad = set()            # beat addresses that answer SLVERR
        self.silent = False
        self.latency = (1, 20)
        self.p_ready = self.p_beat = 0.7
        self.bursts = []            # every burst accepted: (address, beats)
        self.waiting = []           # (due cycle, [beat addresses])
        self.beat = None
        self.held = None
        shapes = AxiRead(config).members
        self.ar, self.r = (shapes[name].signature.members["payload"].shape for name in ("ar", "r"))
        self._no_beat = pack(self.r, resp=Resp.SLVERR, data=random.getrandbits(config.bus_width))
        self.window = (0, (1 << config.address_width) - 1)

    def write(self, address, blob):
        for offset, value in enumerate(blob):
            self.bytes[address + offset] = value

    def step(self, cycle):
        dut = self.dut
        valid = port(dut, "bus__ar__valid").value == 1
        if valid:
            payload = int(port(dut, "bus__ar__payload").value)
            assert self.held in (None, payload), "the burst changed while it waited"
            self.held = payload
            if self.ready:
                self.held = None
                self.accept(cycle, unpack(self.ar, payload))
        else:
            assert self.held is None, "ar.valid fell before the burst was taken"
        assert port(dut, "bus__r__ready").value == 1, "fetch must always take what it asked for"
        self.ready = self.random.random() < self.p_ready and not self.silent
        port(dut, "bus__ar__ready").value = int(self.ready)
        self.beat = None
        if self.waiting and self.waiting[0][0] <= cycle and not self.silent and self.random.random() < self.p_beat:
            beats = self.waiting[0][1]
            address = beats.pop(0)
            word = bytes(self.bytes.get(address + i, 0xEE) for i in range(self.config.bus_bytes))
            self.beat = pack(self.r, data=int.from_bytes(word, "little"), last=int(not beats), id=ReadId.FETCH,
                             resp=Resp.SLVERR if address in self.bad else Resp.OKAY)
            if not beats:
                self.waiting.pop(0)
        # What is not valid is an error, if one looks at it.
        port(dut, "bus__r__payload").value = self.beat if self.beat is not None else self._no_beat
        port(dut, "bus__r__valid").value = int(self.beat is not None)

    ready = False

    @property
    def owes(self):
        """Whether a burst has been asked for that has not been answered to its end."""
        return bool(self.waiting) or self.held is not None

    def accept(self, cycle, burst):
        beats, size = burst["length"] + 1, self.config.bus_bytes
        first, last = burst["address"], burst["address"] + beats * size - 1
        assert burst["id"] == ReadId.FETCH and first % size == 0
        assert first >> 12 == last >> 12, "a burst crosses 4 KiB"
        assert self.window[0] <= first and last <= self.window[1], "a burst outside the window"
        self.bursts.append((first, beats))
        due = cycle + self.random.randint(*self.latency)
        self.waiting.append((max(due, self.waiting[-1][0] if self.waiting else 0),
                             [first + size * i for i in range(beats)]))


class FakeUnit:
    """A unit that takes some cycles per instruction, holds up to `capacity`, and can fail on purpose."""

    def __init__(self, world, unit):
        self.world, self.unit, self.random = world, unit, world.random
        name = unit.name.lower()
        self.pins = {key: port(world.dut, f"{name}__{key}") for key in
                     ("i__valid", "i__ready", "i__payload", "retire", "error", "abort", "quiet", "activity",
                      "progress")}
        self.capacity = 2
        self.reset()

    def reset(self):
        self.open = []              # [index, cycles left]
        self.failing = None
        self.stopping = 0
        self.ready = False
        self.offered = None
        self.expect_abort = False

    def step(self, cycle):
        world, pins = self.world, self.pins
        retire = 0
        if pins["abort"].value == 1:
            if self.stopping == 0 and (self.open or self.failing):
                self.stopping = 1 + self.random.randrange(15)
            self.open, self.failing, self.offered = [], None, None
        elif pins["i__valid"].value == 1:
            payload = int(pins["i__payload"].value)
            if self.offered is None:
                self.offered = payload
                world.on_offer(self.unit, payload, cycle)
            assert payload == self.offered, "an instruction changed while it was offered"
            if self.ready:
                index = unpack(unit_layout(self.unit), payload)["index"]
                self.open.append([index, world.duration(self.unit, index)])
                self.offered = None
        else:
            assert self.offered is None, "an offered instruction was withdrawn"
        if self.stopping:
            self.stopping -= 1
        elif self.open and not self.failing:
            self.open[0][1] -= 1
            if self.open[0][1] <= 0:
                index = self.open[0][0]
                if index in world.failures:
                    self.failing = (index, *world.failures[index])
                else:
                    self.open.pop(0)
                    retire = 1
                    world.on_retire(self.unit, index, cycle)
        quiet = not self.at_work
        pins["retire"].value = retire
        # What the unit says in the next cycle; a retire belongs to a cycle of work.
        self.say(quiet and not retire)

    @property
    def at_work(self):
        return bool(self.open or self.failing or self.stopping)

    def say(self, quiet):
        pins = self.pins
        self.ready = len(self.open) < self.capacity and not self.failing and not self.stopping and \
            self.random.random() < 0.8
        self.activity = Activity.IDLE if quiet else Activity(self.random.choice((1, 3, 4, 5, 6, 7)))
        error = 0
        if self.failing:
            index, code, address = self.failing
            error = pack(ErrorReport, valid=1, code=code, index=index, address=address)
        pins["i__ready"].value = int(self.ready)
        pins["error"].value = error
        pins["quiet"].value = int(quiet)
        pins["activity"].value = self.activity.value
        pins["progress"].value = int(not quiet and not self.failing and not self.world.frozen)


class ControlEnv:
    """The control unit's surroundings, and an independent account of its semaphores."""

    def __init__(self, dut, label):
        self.dut, self.config = dut, harness.current().params["config"]
        self.random = harness.rng(label)
        self.memory = Memory(dut, self.config, self.random)
        self.units = {unit: FakeUnit(self, unit) for unit in UNITS}
        self.frozen = False
        self.cycle = 0
        self.program = []
        self.durations = (1, 30)
        self.failures = {}
        self.owed = 0               # the last cycle in which memory or a unit had something to finish
        self.forget()

    def forget(self):
        """Begin the account of a new program."""
        self.tokens = [0] * 16
        self.offers, self.retires = [], []      # (unit, index, cycle)
        self.left = {unit: [i for i, item in enumerate(self.program) if item[0] == unit] for unit in UNITS}

    @classmethod
    async def make(cls, dut, label="world"):
        await harness.start(dut)
        world = cls(dut, label)
        for unit in world.units.values():
            unit.say(True)
        cocotb.start_soon(world.run())
        world.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "host"), clock(dut))
        await world.write("WINDOW_FIRST_LOW", 0)
        await world.write("WINDOW_LAST_LOW", 0xFFFF_FFFF)
        if world.config.address_width > 32:
            await world.write("WINDOW_FIRST_HIGH", 0)
        return world

    async def run(self):
        edge = RisingEdge(clock(self.dut))
        while True:
            await edge
            self.cycle += 1
            self.memory.step(self.cycle)
            for unit in self.units.values():
                unit.step(self.cycle)
            if self.memory.owes or any(unit.at_work for unit in self.units.values()):
                self.owed = self.cycle

    # What the units tell.

    def duration(self, unit, index):
        return self.random.randint(*self.durations)

    def on_offer(self, unit, payload, cycle):
        fields = unpack(unit_layout(unit), payload)
        index = fields.pop("index")
        assert self.left[unit] and index == self.left[unit].pop(0), f"{unit} got {index} out of order"
        _, wait, _, bits = self.program[index]
        for item in INSTRUCTIONS[unit].fields:
            value = bits >> item.offset & ((1 << item.width) - 1)
            got = fields[item.name]
            got = getattr(got, "value", got) & ((1 << item.width) - 1)
            assert got == value, f"instruction {index}: {item.name} is {got}, not {value}"
        for number in range(16):
            if wait >> number & 1:
                assert self.tokens[number] > 0, f"instruction {index} did not wait for semaphore {number}"
                self.tokens[number] -= 1
        self.offers.append((unit, index, cycle))

    def on_retire(self, unit, index, cycle):
        for number in range(16):
            self.tokens[number] += self.program[index][2] >> number & 1
        self.retires.append((unit, index, cycle))

    # What the host does.

    async def write(self, name, value, expect=Resp.OKAY):
        offset = REGISTERS[name].offset if isinstance(name, str) else name
        answer = await self.host.write(offset, value.to_bytes(4, "little"))
        assert int(answer.resp) == expect.value, f"{name}: {answer.resp}"

    async def read(self, name):
        offset = REGISTERS[name].offset if isinstance(name, str) else name
        answer = await self.host.read(offset, 4)
        assert int(answer.resp) == Resp.OKAY.value, f"{name}: {answer.resp}"
        return int.from_bytes(answer.data, "little")

    def place(self, program, address):
        """Put a program into memory: (unit, wait, signal) or (unit, wait, signal, bits) for each instruction."""
        self.program = [item if len(item) == 4 else (*item, self.encode(*item)) for item in program]
        for index, item in enumerate(self.program):
            self.memory.write(address + INSTRUCTION_BYTES * index, item[3].to_bytes(INSTRUCTION_BYTES, "little"))

    def encode(self, unit, wait, signal):
        """An instruction with random fields."""
        noise = self.random.getrandbits(8 * INSTRUCTION_BYTES)
        common = 0xFF | 0xFFFF << 32 | 0xFFFF << 48
        return (noise & INSTRUCTIONS[unit].used_mask & ~common) | unit.value | wait << 32 | signal << 48

    async def start(self, program, address=0x1_0000):
        self.place(program, address)
        await self.start_at(address, len(program))

    async def start_at(self, address, count):
        await self.write("PROGRAM_LOW", address & 0xFFFF_FFFF)
        await self.write("PROGRAM_HIGH", address >> 32)
        await self.write("PROGRAM_COUNT", count)
        await self.write("IRQ_PENDING", 3)
        self.forget()
        await self.write("CONTROL", 1)

    async def status(self):
        value = await self.read("STATUS")
        return {"busy": value & 1, "done": value >> 1 & 1, "error": value >> 2 & 1, "locked": value >> 3 & 1}

    async def finish(self, limit, counters=True):
        """Wait for the end of the program, whichever; check the counters (which takes 500 cycles)."""
        begin = self.cycle
        while (await self.status())["busy"]:
            assert self.cycle - begin < limit, f"still busy after {limit} cycles"
        if counters:
            await self.check_counters()
        return await self.status()

    async def stopped(self, limit=40):
        """Wait for the end of an abort: `limit` cycles, however long memory and units take to finish before."""
        begin = self.cycle
        while (await self.status())["busy"]:
            late = self.cycle - max(begin, self.owed)
            assert late < limit, f"still busy {late} cycles after memory and units have finished"
        await self.check_counters()
        return await self.status()

    async def check_done(self, limit):
        status = await self.finish(limit, counters=len(self.program) > 10)
        assert status["done"] and not status["error"], await self.error()
        assert await self.read("IRQ_PENDING") == 1
        assert len(self.retires) == len(self.program)
        assert await self.read(counter_address(Unit.FETCH, Activity.BUSY)) == len(self.program)

    async def check_error(self, code, unit=None, index=None, address=None, limit=2000):
        status = await self.finish(limit, counters=self.random.random() < 0.2)
        assert status["error"] and not status["done"] and not await self.read("IRQ_PENDING") & 1
        got = await self.error()
        want = {"code": code.value, "unit": unit and unit.value, "index": index, "address": address}
        for key, value in want.items():
            assert value is None or got[key] == value, f"{key}: got {got}, want {want}"
        return got

    async def error(self):
        kind = await self.read("ERROR")
        low, high = await self.read("ERROR_ADDRESS_LOW"), await self.read("ERROR_ADDRESS_HIGH")
        return {"code": kind & 0xFF, "unit": kind >> 8 & 0xFF, "index": await self.read("ERROR_INSTRUCTION"),
                "address": high << 32 | low}

    async def check_counters(self):
        total = await self.read("CYCLES")
        for unit in Unit:
            counts = [await self.read(counter_address(unit, activity)) for activity in Activity]
            assert sum(counts) == total, f"{unit}: {counts} do not sum up to {total}"
        assert await self.read("CYCLES") == total, "counting goes on after the end"
        return total


def benches(module, prefix, **params):
    """The benches of `module`, one for each configuration; the first one has planted bugs in it, too."""
    tiny, small, large = map(ChipConfig.preset, ("tiny", "small", "ulx3s_85f"))
    wide = dataclasses.replace(tiny, name="wide_address", address_width=64, queue_depth=1, bus_width=128,
                               columns=16)
    return [Bench(name=f"{prefix}_tiny", module=module, params={"config": tiny, **params},
                  build=lambda: Mutated(FlatController(tiny), "controller.py")),
            *(Bench(name=f"{prefix}_{config.name}", module=module, params={"config": config},
                    build=lambda config=config: FlatController(config)) for config in (small, large, wide))]
