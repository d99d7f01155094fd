"""The registers alone: what each reads and takes, what is refused, pulses, interrupts, and how long it takes."""

import dataclasses

import cocotb
from cocotb.triggers import RisingEdge

from kiwicha.bus.axi import AxiLite, Resp
from kiwicha.config import ChipConfig
from kiwicha.control.registers import Registers
from kiwicha.control.supervisor import ErrorRecord
from kiwicha.control.unit import Window
from kiwicha.isa import REGISTER_ADDRESS_WIDTH, REGISTERS, Activity, ErrorCode, Unit
from tb import harness
from tb.harness import StreamDriver, StreamMonitor, bounded, clock, cycles, pack, port, unpack
from tb.mutation import Invisible, mutated_bench

CONFIG = dataclasses.replace(ChipConfig.preset("tiny"), name="forty", address_width=40)
HIGH = (1 << CONFIG.address_width - 32) - 1
WORD = 0xFFFF_FFFF
#: For each register that keeps what is written: the bits that it has, and what it is after reset.
KEPT = {"PROGRAM_LOW": (WORD, 0), "PROGRAM_HIGH": (WORD, 0), "PROGRAM_COUNT": (0xFF_FFFF, 0),
        "WINDOW_FIRST_LOW": (0xFFFF_F000, 0xFFFF_F000), "WINDOW_FIRST_HIGH": (HIGH, HIGH),
        "WINDOW_LAST_LOW": (0xFFFF_F000, 0xFFF), "WINDOW_LAST_HIGH": (HIGH, 0),
        "WATCHDOG": (WORD, 1 << 20), "IRQ_ENABLE": (3, 0)}
WINDOWS = ("WINDOW_FIRST_LOW", "WINDOW_FIRST_HIGH", "WINDOW_LAST_LOW", "WINDOW_LAST_HIGH")
GUARDED = ("PROGRAM_LOW", "PROGRAM_HIGH", "PROGRAM_COUNT", "WATCHDOG", *WINDOWS)
STRICT = ("PROGRAM_COUNT", "WINDOW_FIRST_HIGH", "WINDOW_LAST_HIGH")
NAMES = {register.offset: name for name, register in REGISTERS.items()}
CONSTANT = {"ID": 0x4B495749, "VERSION": 0x20005, "ACCUMULATOR": CONFIG.accumulator_lines,
            "FEATURES": CONFIG.functions | CONFIG.block_scales << 1 | CONFIG.indices << 2 | CONFIG.top_k << 3,
            "FORMATS": 0b000011,
            "ARRAY": CONFIG.rows | CONFIG.columns << 8 | CONFIG.vector_lanes << 16 | CONFIG.line_bytes << 24,
            "BUS": CONFIG.bus_width // 8 | 40 << 8 | CONFIG.reads_in_flight << 16 | CONFIG.writes_in_flight << 24,
            "SCRATCHPAD": CONFIG.bank_lines | CONFIG.scratchpad_banks << 16 | CONFIG.queue_depth << 24}
_CHANNELS = AxiLite(REGISTER_ADDRESS_WIDTH).members
W, R = (_CHANNELS[name].signature.members["payload"].shape for name in "wr")


class RegistersEnv:
    """A host, the supervisor's side, counters, and a model of every register."""

    def __init__(self, dut, p_valid=1.0, p_ready=1.0):
        self.dut, self.random = dut, harness.rng("registers")
        self.aw, self.w, self.ar = (StreamDriver(dut, f"host__{name}", rng=harness.rng(name), p_valid=p_valid)
                                    for name in ("aw", "w", "ar"))
        self.b, self.r = (StreamMonitor(dut, f"host__{name}", rng=harness.rng(name), p_ready=p_ready)
                          for name in "br")
        self.kept = {name: reset for name, (_, reset) in KEPT.items()}
        self.pending = self.locked = 0
        self.inputs = dict.fromkeys(("busy", "done", "error", "cycles"), 0)
        self.record = {"code": ErrorCode.NONE, "unit": Unit.FETCH, "index": 0, "address": 0}
        self.pulses = {"start": 0, "abort": 0}
        self.now, self.passed = 0, {}       # the last cycle in which something passed on each channel
        self.salt = self.random.getrandbits(20)
        cocotb.start_soon(self._watch())

    @classmethod
    async def make(cls, dut, **options):
        await harness.start(dut)
        return cls(dut, **options)

    async def _watch(self):
        """Count the pulses; give each counter its value, two cycles after its address."""
        edge = RisingEdge(clock(self.dut))
        asked = [0, 0]
        while True:
            await edge
            self.now += 1
            for name in ("aw", "w", "b", "ar", "r"):
                if all(port(self.dut, f"host__{name}__{side}").value == 1 for side in ("valid", "ready")):
                    self.passed[name] = self.now
            for name in self.pulses:
                self.pulses[name] += int(port(self.dut, name).value)
            place = [int(port(self.dut, f"read_{name}").value) for name in ("unit", "activity")]
            asked = [asked[1], self.counter(*place)]
            port(self.dut, "counter").value = asked[0]

    def counter(self, unit, activity):
        return self.salt << 8 | unit << 4 | activity

    def tell(self):
        """New values for all that is only shown."""
        self.inputs |= {name: self.random.getrandbits(1) for name in ("done", "error")}
        self.inputs["cycles"] = self.random.getrandbits(32)
        self.record = {"code": self.random.choice(list(ErrorCode)), "unit": self.random.choice(list(Unit)),
                       "index": self.random.getrandbits(24), "address": self.random.getrandbits(64)}
        self.drive()

    def drive(self):
        for name, value in self.inputs.items():
            port(self.dut, name).value = value
        port(self.dut, "record").value = pack(ErrorRecord, self.record)

    def shown(self, name):
        """What register `name` must read."""
        if name in self.kept:
            return self.kept[name]
        record, status = self.record, self.inputs
        values = {**CONSTANT, "CONTROL": 0, "IRQ_PENDING": self.pending, "WINDOW_LOCK": self.locked,
                  "STATUS": status["busy"] | status["done"] << 1 | status["error"] << 2 | self.locked << 3,
                  "ERROR": record["code"].value | record["unit"].value << 8, "CYCLES": status["cycles"],
                  "ERROR_INSTRUCTION": record["index"], "ERROR_ADDRESS_LOW": record["address"] & WORD,
                  "ERROR_ADDRESS_HIGH": record["address"] >> 32}
        counters = {f"{unit.name}_{activity.name}": self.counter(unit.value, activity.value)
                    for unit in Unit for activity in Activity}
        return {**values, **counters}[name]

    async def read(self, offset, limit=60):
        count = len(self.r.received)
        self.ar.send([offset])
        await bounded(self.r.wait(count + 1), limit)
        answer = unpack(R, self.r.received[-1])
        name = NAMES.get(offset & ~3)
        want = (self.shown(name), Resp.OKAY) if name else (0, Resp.SLVERR)
        assert (answer["data"], answer["resp"]) == want, f"{name or hex(offset)}: {answer}, not {want}"

    async def send(self, offset, word, strobe=15, limit=60):
        """Put a write on the channels and take its answer."""
        count = len(self.b.received)
        self.aw.send([offset])
        self.w.send([pack(W, data=word, strobe=strobe)])
        await bounded(self.b.wait(count + 1), limit)
        await cycles(self.dut, 1)
        return Resp(self.b.received[-1])

    async def write(self, offset, word, strobe=15):
        name = NAMES.get(offset & ~3)
        bits = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
        effective = word & bits
        mask = KEPT[name][0] if name in KEPT else 0
        refused = (name is None or REGISTERS[name].access == "ro" or (name in STRICT and effective & ~mask)
                   or (name in GUARDED and self.inputs["busy"]) or (name in WINDOWS and self.locked))
        pulses = dict(self.pulses)
        answer = await self.send(offset, word, strobe)
        assert answer == (Resp.SLVERR if refused else Resp.OKAY), f"{name}: {word:#x} with {strobe:04b}: {answer}"
        if not refused:
            if name in KEPT:
                self.kept[name] = self.kept[name] & ~(bits & mask) | effective & mask
            self.pending &= ~effective if name == "IRQ_PENDING" else 3
            self.locked |= name == "WINDOW_LOCK" and effective & 1
            if name == "CONTROL":
                pulses = {key: pulses[key] + (effective >> bit & 1) for bit, key in enumerate(pulses)}
        await cycles(self.dut, 1)
        assert self.pulses == pulses, f"{name}: {self.pulses}"
        self.check_outputs()

    def check_outputs(self):
        kept = self.kept
        first, last = (kept[f"WINDOW_{end}_HIGH"] << 32 | kept[f"WINDOW_{end}_LOW"] for end in ("FIRST", "LAST"))
        want = {"program": kept["PROGRAM_HIGH"] << 32 | kept["PROGRAM_LOW"], "count": kept["PROGRAM_COUNT"],
                "watchdog": kept["WATCHDOG"], "window": pack(Window(CONFIG), first=first >> 12, last=last >> 12),
                "irq": int(bool(kept["IRQ_ENABLE"] & self.pending))}
        got = {name: int(port(self.dut, name).value) for name in want}
        assert got == want


@cocotb.test()
async def every_register(dut):
    """What each reads, after reset and with whatever the supervisor says; every other address is none."""
    env = await RegistersEnv.make(dut)
    for offset in [*range(0, 0x200, 4), *(4 * env.random.randrange(0x80, 0x400) for _ in range(20))]:
        env.tell()
        await env.read(offset + env.random.randrange(4))
    for bit in range(9, REGISTER_ADDRESS_WIDTH):
        await env.read(1 << bit)
    # Where there is none reads 0, whatever was read before from its neighbours.
    neighbours = ("ID", "ERROR_ADDRESS_LOW", "WINDOW_FIRST_LOW", "WATCHDOG", "CYCLES")
    for offset in range(0, 0x20 * len(neighbours), 4):
        if offset not in NAMES:
            await env.read(REGISTERS[neighbours[offset // 0x20]].offset)
            await env.read(offset)
    env.check_outputs()


@cocotb.test()
@cocotb.parametrize(busy=[0, 1])
async def writes(dut, busy):
    """Any word with any strobes to any register, before the window is locked and after."""
    env = await RegistersEnv.make(dut)
    env.inputs["busy"] = busy
    for number in range(150):
        env.tell()
        offset = REGISTERS[env.random.choice((*KEPT, *KEPT, *KEPT, "CONTROL", "IRQ_PENDING", *REGISTERS))].offset
        if env.random.random() < 0.1:
            offset = 4 * env.random.randrange(0x400)
        if number > 110 or NAMES.get(offset) != "WINDOW_LOCK":
            word = env.random.choice((env.random.getrandbits(32), env.random.getrandbits(8), 1, 2,
                                      1 << env.random.randrange(32)))
            await env.write(offset, word, env.random.choice((15, 15, env.random.getrandbits(4))))
        await env.read(offset)
        if number == 110:
            await env.write(REGISTERS["WINDOW_LOCK"].offset, 0)
            await env.write(REGISTERS["WINDOW_LOCK"].offset, 1, 0b1110)
            await env.read(REGISTERS["WINDOW_LOCK"].offset)
            await env.write(REGISTERS["WINDOW_LOCK"].offset, 1)
    for name in REGISTERS:
        await env.read(REGISTERS[name].offset)


@cocotb.test()
async def strobes(dut):
    """Each register with every set of strobes; what pends for the host stays."""
    env = await RegistersEnv.make(dut)
    port(dut, "succeeded").value = port(dut, "failed").value = 1
    await cycles(dut, 1)
    port(dut, "succeeded").value = port(dut, "failed").value = 0
    env.pending = 3
    for name, (mask, _) in KEPT.items():
        await env.write(REGISTERS[name].offset, mask)
        for strobe in range(16):
            await env.write(REGISTERS[name].offset, env.random.getrandbits(32) & mask, strobe)
            await env.read(REGISTERS[name].offset)
    await env.read(REGISTERS["IRQ_PENDING"].offset)


@cocotb.test()
async def strict_bits(dut):
    """Each bit that a register does not have and must not lose silently, alone."""
    env = await RegistersEnv.make(dut)
    for name in STRICT:
        for bit in range(32):
            await env.write(REGISTERS[name].offset, 1 << bit)
        await env.read(REGISTERS[name].offset)


@cocotb.test()
async def guards(dut):
    """Busy and locked, each alone and both, refuse what they guard and nothing else."""
    env = await RegistersEnv.make(dut)
    for locked in (0, 1):
        if locked:
            env.inputs["busy"] = 0
            env.tell()
            await env.write(REGISTERS["WINDOW_LOCK"].offset, 1)
        for busy in (1, 0):
            env.inputs["busy"] = busy
            env.tell()
            for name, register in REGISTERS.items():
                if register.access != "ro" and name != "WINDOW_LOCK":
                    await env.write(register.offset, env.random.getrandbits(7))
                    await env.read(register.offset)


@cocotb.test()
async def interrupts(dut):
    """Both ends, enabled or not; one that comes while the host clears, in whichever cycle, is not lost."""
    env = await RegistersEnv.make(dut)
    enable, pending = REGISTERS["IRQ_ENABLE"].offset, REGISTERS["IRQ_PENDING"].offset
    for enabled in (0, 1, 2, 3):
        await env.write(enable, enabled)
        for ends in (1, 2, 3):
            port(dut, "succeeded").value, port(dut, "failed").value = ends & 1, ends >> 1
            await cycles(dut, 1)
            port(dut, "succeeded").value = port(dut, "failed").value = 0
            await cycles(dut, 1)
            env.pending |= ends
            await cycles(dut, 1)
            env.check_outputs()
            await env.read(pending)
            for clear in (ends ^ 3, ends):
                await env.write(pending, clear)
                await env.read(pending)
    for name, bit in (("succeeded", 1), ("failed", 2)):
        for delay in range(6):
            write = cocotb.start_soon(env.send(pending, 3))
            await cycles(dut, 1 + delay)
            port(dut, name).value = 1
            await cycles(dut, 1)
            port(dut, name).value = 0
            await write
            await cycles(dut, 8)
            # Before the write is applied, 3 cycles after it was taken, it clears what came.
            env.pending = bit if delay >= 2 else 0
            await env.read(pending)
            await env.write(pending, 3)


@cocotb.test()
async def latency(dut):
    """An answer 3 cycles after the later of address and data, in either order; a value 5 after its address."""
    env = await RegistersEnv.make(dut)
    offset = REGISTERS["PROGRAM_LOW"].offset
    for gap in range(-4, 5):
        word = env.random.getrandbits(32)
        sends = [lambda: env.aw.send([offset]), lambda word=word: env.w.send([pack(W, data=word, strobe=15)])]
        first, second = sends if gap >= 0 else sends[::-1]
        first()
        await cycles(dut, abs(gap))
        second()
        await cycles(dut, 10)
        assert env.passed["b"] - max(env.passed["aw"], env.passed["w"]) == 3
        assert env.passed["w"] - env.passed["aw"] == gap
        env.kept["PROGRAM_LOW"] = word
        env.check_outputs()
        await env.read(offset)
        await cycles(dut, 1)
        assert env.passed["r"] - env.passed["ar"] == 5


@cocotb.test()
async def channels_far_apart(dut):
    """Two addresses before the first word, and two words before the first address: each finds its own."""
    env = await RegistersEnv.make(dut)
    names = ("PROGRAM_LOW", "WATCHDOG")
    for early, late in (("aw", "w"), ("w", "aw")) * 3:
        words = {name: env.random.getrandbits(32) for name in names}
        items = {"aw": [REGISTERS[name].offset for name in names],
                 "w": [pack(W, data=word, strobe=15) for word in words.values()]}
        count = len(env.b.received)
        getattr(env, early).send(items[early])
        await cycles(dut, 5)
        getattr(env, late).send(items[late])
        await bounded(env.b.wait(count + 2), 60)
        await cycles(dut, 2)
        env.kept |= words
        env.check_outputs()


@cocotb.test()
async def nothing_before_both_are_there(dut):
    """An old word with a new address, or a new word with an old address, does nothing meanwhile."""
    env = await RegistersEnv.make(dut)
    port(dut, "succeeded").value = port(dut, "failed").value = 1
    await cycles(dut, 1)
    port(dut, "succeeded").value = port(dut, "failed").value = 0
    env.pending = 3
    none, ones = (pack(W, data=data, strobe=15) for data in (0, WORD))
    for name in ("WINDOW_LOCK", "IRQ_ENABLE", "IRQ_PENDING", "CONTROL"):
        offset, other = REGISTERS[name].offset, REGISTERS["PROGRAM_LOW"].offset
        await env.write(other, WORD)
        for sends in ((env.aw, offset, env.w, none), (env.w, ones, env.aw, other)):
            count, pulses = len(env.b.received), dict(env.pulses)
            for channel, item in zip(sends[::2], sends[1::2], strict=True):
                assert len(env.b.received) == count
                channel.send([item])
                await cycles(dut, 8)
                env.check_outputs()
            assert len(env.b.received) == count + 1 and env.pulses == pulses
            await env.read(REGISTERS["WINDOW_LOCK"].offset)
            await env.read(REGISTERS["IRQ_PENDING"].offset)


@cocotb.test()
async def slow_host(dut):
    """Reads and writes at once, from a host that takes its answers late."""
    env = await RegistersEnv.make(dut, p_valid=0.3, p_ready=0.3)
    offset = REGISTERS["PROGRAM_HIGH"].offset
    for _ in range(30):
        word = env.random.getrandbits(32)
        read = cocotb.start_soon(env.read(REGISTERS["WATCHDOG"].offset))
        await env.write(offset, word)
        await read
        await env.read(offset)
    assert len(env.b.received) == 30 and len(env.r.received) == 60


#: Lines of the source, each made for several registers in turn.
REFUSE, KEEP = "refuse.eq(Cat(reasons).any())", "value.eq((word & bits & mask)"
ONES = "ones = Mux(hit, word & bits & mask"
BENCHES = [mutated_bench("register_block", lambda: Registers(CONFIG), "registers.py", module=__name__, invisible=[
    Invisible(REFUSE, "stuck at zeros", "there is no reason to refuse these", (0, 8, 10, 11)),
    Invisible(REFUSE, "r| -> r&", "there is one reason to refuse these", (1, 2, 9)),
    Invisible('stored["WINDOW_LOCK"].any()', "r|: lowest bit alone", "it has one bit"),
    Invisible("self.read_unit.eq(group - counters)", "- -> +", "8 groups are a multiple of what a unit can be"),
    Invisible("self.read_unit.eq(group - counters)", "-: first operand alone", "the same"),
    Invisible(ONES, "&: first operand alone", "nobody looks at other bits", (1, 3, 4, 5)),
    Invisible(KEEP, "&: first operand alone", "other bits cannot come, or are ones", (1, 5, 9, 17, 21, 25, 29)),
    Invisible(KEEP, "&: first operand alone", "other bits are zero", (2, 6, 10, 14, 18, 26, 30, 34)),
    Invisible("m.d.sync += [value.eq(source), known.eq(1)]", "assignment left out", "CONTROL reads 0", (36,)),
])]
