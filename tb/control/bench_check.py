"""The check of instructions: every opcode, every reserved bit, at any pace, in time, and forgotten when told."""

import cocotb

from kiwicha.config import ChipConfig
from kiwicha.control.check import Check, Verdict
from kiwicha.isa import INSTRUCTIONS, Unit
from tb import harness
from tb.harness import cycles, pack, port
from tb.mutation import Invisible, mutated_bench

LATENCY = 5
KIND = {item.name: item.value for item in Verdict.Kind}


class CheckEnv:
    """Sends beats; knows which verdict must be there in which cycle."""

    def __init__(self, dut):
        self.dut, self.config = dut, harness.current().params["config"]
        self.random = harness.rng("check")
        self.now = 0
        self.due = {}

    @classmethod
    async def make(cls, dut):
        await harness.start(dut)
        return cls(dut)

    async def step(self, beat=None, place=None, clear=0):
        """One cycle, with a beat or without; the verdict is compared."""
        beats = 512 // self.config.bus_width
        port(self.dut, "beat_valid").value = int(beat is not None)
        port(self.dut, "beat").value = self.random.getrandbits(self.config.bus_width) if beat is None else beat
        port(self.dut, "place").value = self.random.randrange(beats) if place is None else place
        port(self.dut, "clear").value = clear
        await cycles(self.dut, 1)
        self.now += 1
        want = self.due.pop(self.now, None)
        assert port(self.dut, "valid").value == (want is not None), f"verdict {want} is due"
        if want is not None:
            assert int(port(self.dut, "verdict").value) == want
        if clear:
            self.due.clear()

    async def send(self, bits, pace=1.0, beats=None):
        """Send an instruction, or its first beats only."""
        width = self.config.bus_width
        for place in range(512 // width if beats is None else beats):
            while self.random.random() >= pace:
                await self.step()
            await self.step(bits >> place * width & (1 << width) - 1, place)
        if beats is None:
            self.due[self.now + LATENCY] = verdict(bits)

    async def rest(self):
        for _ in range(LATENCY + 2):
            await self.step()
        assert not self.due


def verdict(bits):
    """What the check must say, from the tables of the ISA."""
    opcode = bits & 0xFF
    unit = next((unit for unit in INSTRUCTIONS if unit.value == opcode), None)
    if unit is None:
        return pack(Verdict, kind=KIND["OPCODE"], unit=Unit.FETCH, number=opcode)
    reserved = [bit for bit in range(512) if bits >> bit & 1 and not INSTRUCTIONS[unit].used_mask >> bit & 1]
    if reserved:
        return pack(Verdict, kind=KIND["RESERVED"], unit=unit, number=reserved[0])
    return pack(Verdict, kind=KIND["OKAY"], unit=unit)


def good(random, unit):
    return random.getrandbits(512) & INSTRUCTIONS[unit].used_mask & ~0xFF | unit.value




@cocotb.test()
async def any_instructions(dut):
    """Good ones, few and many reserved bits, wrong opcodes; back to back and slowly."""
    env = await CheckEnv.make(dut)
    random = env.random
    for _ in range(120):
        bits = good(random, random.choice(list(INSTRUCTIONS)))
        for _ in range(random.choice((0, 0, 1, 2, 40))):
            bits |= 1 << random.randrange(8, 512)
        if random.random() < 0.2:
            bits = bits & ~0xFF | random.getrandbits(8)
        await env.send(bits, random.choice((1, 1, 0.5)))
    await env.rest()


@cocotb.test()
async def cleared_at_any_time(dut):
    """Neither what was sent before nor in that cycle has a verdict; what comes next has."""
    env = await CheckEnv.make(dut)
    random = env.random
    for gap in [*range(2 * LATENCY)] * 4:
        await env.send(good(random, Unit.LOAD) | random.getrandbits(512) & ~0xFF)
        beats = random.choice((0, min(gap, random.randrange(512 // env.config.bus_width))))
        await env.send(good(random, Unit.STORE), beats=beats)
        for _ in range(gap - beats):
            await env.step()
        last = 512 // env.config.bus_width - 1
        await env.step(*random.choice(((None, None), (random.getrandbits(64), last))), clear=1)
        for _ in range(random.randrange(2)):
            await env.step()
        await env.send(good(random, random.choice(list(INSTRUCTIONS))))
        for _ in range(random.randrange(2) * LATENCY):
            await env.step()
    await env.rest()


@cocotb.test()
async def every_opcode(dut):
    env = await CheckEnv.make(dut)
    for opcode in range(256):
        await env.send(good(env.random, Unit.MATMUL) & ~0xFF | opcode)
    await env.rest()


@cocotb.test()
@cocotb.parametrize(unit=list(INSTRUCTIONS))
async def every_reserved_bit(dut, unit):
    """Each alone, and each with a higher one."""
    env = await CheckEnv.make(dut)
    reserved = [bit for bit in range(512) if not INSTRUCTIONS[unit].used_mask >> bit & 1]
    for bit in reserved:
        above = 1 << env.random.choice(reserved[reserved.index(bit):])
        await env.send(good(env.random, unit) | 1 << bit | above)
    await env.rest()


CONFIG = ChipConfig.preset("tiny")
# The first of the pairs of bits in each byte, where there is no number below to be joined with.
PAIRS = tuple(14 * byte + nth for byte in range(8) for nth in (7, 9, 11, 13))
BENCHES = [mutated_bench("check", lambda: Check(CONFIG), "check.py", module=__name__,
                         params={"config": CONFIG}, invisible=[
    Invisible("nodes = [(left | right, Mux(", "|: second operand alone",
              "a single bit has no number below it", PAIRS),
])]
