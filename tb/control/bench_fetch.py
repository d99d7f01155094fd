"""Fetch between a memory and a dispatch that take their time: bursts, what it hands on, errors, abort."""

import cocotb

from kiwicha.bus.axi import AxiRead
from kiwicha.config import ChipConfig
from kiwicha.control.check import Verdict
from kiwicha.control.fetch import Fetch, Fetched
from kiwicha.control.unit import ErrorReport, Window
from kiwicha.isa import INSTRUCTIONS, ErrorCode
from kiwicha.timing import FETCH_BUFFER, FETCH_BURST
from tb import harness
from tb.control.bench_check import good, verdict
from tb.control.environment import Memory
from tb.harness import cycles, pack, port, unpack
from tb.mutation import Invisible, mutated_bench

UNITS = list(INSTRUCTIONS)
CONFIG = ChipConfig.preset("tiny")
SIZE = 64
TOP = 1 << CONFIG.address_width
#: Cycles from `start` to the first address, and from an instruction's last beat to its offer.
ASKS, OFFERS = 3, 9


class FetchEnv:
    """Runs programs through fetch and checks the bus, `quiet`, `progress` and what is offered in every cycle."""

    def __init__(self, dut):
        self.dut, self.random = dut, harness.rng("fetch")
        self.memory = Memory(dut, CONFIG, self.random)
        self.ar = AxiRead(CONFIG).members["ar"].signature.members["payload"].shape
        self.p_take = 0.7
        self.now = self.owed = 0
        self.offered = None
        self.aborting = False
        self.program, self.expected, self.taken = [], [], []
        self.asked_at, self.offers_at, self.beats_at = [], [], []

    @classmethod
    async def make(cls, dut, first=0, last=TOP - 1):
        await harness.start(dut)
        env = cls(dut)
        env.window(first, last)
        return env

    def window(self, first, last):
        self.memory.window = first, last
        port(self.dut, "window").value = pack(Window(CONFIG), first=first >> 12, last=last >> 12)

    async def step(self):
        ready = self.random.random() < self.p_take
        port(self.dut, "o__ready").value = int(ready)
        bus_ready, beat = self.memory.ready, self.memory.beat
        await cycles(self.dut, 1)
        self.now += 1
        asks = port(self.dut, "bus__ar__valid").value == 1
        assert port(self.dut, "quiet").value == (self.owed == 0 and not asks)
        assert port(self.dut, "progress").value == ((asks and bus_ready) or beat is not None)
        if asks and bus_ready:
            burst = unpack(self.ar, int(port(self.dut, "bus__ar__payload").value))
            self.owed += burst["length"] + 1
        if asks:
            self.asked_at.append(self.now)
        if beat is not None:
            self.owed -= 1
            self.beats_at.append(self.now)
        self.memory.step(self.now)
        self.look(ready)

    def look(self, ready):
        """What fetch offers, which stays until it is taken."""
        index = int(port(self.dut, "index").value)
        assert self.aborting or index == len(self.taken)
        if port(self.dut, "o__valid").value == 0:
            assert self.offered is None or self.aborting, "withdrawn"
            self.offered = None
            return
        payload = int(port(self.dut, "o__payload").value)
        if self.offered is None:
            self.offers_at.append(self.now)
        assert self.offered in (None, payload), "changed while it was offered"
        self.offered = None if ready else payload
        if self.aborting:
            return
        assert payload == self.expected[index], f"instruction {index}"
        if ready:
            self.taken.append(index)

    def error(self):
        report = int(port(self.dut, "error").value)
        return unpack(ErrorReport, report) if report & 1 else None

    async def start(self, program, address):
        self.program, self.taken, self.offered = program, [], None
        self.expected = [fetched(bits) for bits in program]
        self.memory.bytes.clear()
        self.memory.bursts.clear()
        for log in (self.asked_at, self.offers_at, self.beats_at):
            log.clear()
        for number, bits in enumerate(program):
            self.memory.write(address + SIZE * number, bits.to_bytes(SIZE, "little"))
        port(self.dut, "program").value, port(self.dut, "count").value = address, len(program)
        # The host has written them long before it starts.
        self.aborting = True
        for _ in range(2):
            await self.step()
        port(self.dut, "start").value = 1
        await self.step()
        port(self.dut, "start").value = 0
        self.aborting = False

    async def finish(self, error=None, limit=40):
        """All is handed on, or all before the error (code, index, address); `limit` cycles for each."""
        count = len(self.program) if error is None else error[1]
        for _ in range(limit * (len(self.program) + 25)):
            await self.step()
            assert self.error() is None or len(self.taken) == count, "an error before its turn"
            if len(self.taken) == count and (self.error() or error is None) and self.owed == 0:
                break
        else:
            raise AssertionError(f"{len(self.taken)} of {count}, error {self.error()}")
        for _ in range(12):
            await self.step()
        assert len(self.taken) == count
        if error is None:
            assert self.error() is None
            return
        assert self.error() == {"valid": 1, "code": error[0], "index": count, "address": error[2]}
        await self.abort()
        assert self.error() is None

    async def abort(self):
        """Hold `abort` until fetch is quiet, for five cycles at least."""
        self.aborting = True
        port(self.dut, "abort").value = 1
        await self.step()
        asks = self.asked_at[-1:] == [self.now]
        asked = len(self.memory.bursts) + (asks and self.memory.held is not None)
        for count in range(500):
            await self.step()
            assert port(self.dut, "o__valid").value == 0 and self.error() is None
            assert asks or self.asked_at[-1:] != [self.now], "a burst after the abort"
            assert len(self.memory.bursts) <= asked
            if count >= 2 and port(self.dut, "quiet").value == 1:
                break
        else:
            raise AssertionError("never quiet")
        for _ in range(2):
            await self.step()
        port(self.dut, "abort").value = 0
        for _ in range(3):
            await self.step()
            assert self.error() is None

    def draw(self, count):
        """A program, most of it good."""
        def one():
            bits, noise = good(self.random, self.random.choice(UNITS)), self.random.getrandbits(512)
            # Wrong in the opcode, or in reserved bits only.
            return self.random.choice((bits, bits, bits, bits | noise, bits | noise & ~0xFF))

        return [one() for _ in range(count)]

    def temper(self):
        self.memory.latency = self.random.choice(((1, 2), (1, 40), (60, 60)))
        self.memory.p_ready, self.memory.p_beat, self.p_take = (self.random.choice((0.3, 1)) for _ in range(3))


def fetched(bits):
    """What dispatch must be given for an instruction."""
    said = unpack(Verdict, verdict(bits))
    to = 1 << UNITS.index(said["unit"]) if said["kind"] == Verdict.Kind.OKAY else 0
    return pack(Fetched, bits=bits, verdict=verdict(bits), to=to)


def bursts(address, count):
    """(address, beats) of what fetch must ask for: up to FETCH_BURST instructions, never over their multiple."""
    out, end = [], address + SIZE * count
    while address < end:
        size = min(end, (address // (FETCH_BURST * SIZE) + 1) * FETCH_BURST * SIZE) - address
        out.append((address, size // CONFIG.bus_bytes))
        address += size
    return out


@cocotb.test()
async def programs(dut):
    env = await FetchEnv.make(dut)
    for count in (1, 2, 3, 9, 21, 0, 40):
        env.temper()
        address = SIZE * env.random.randrange(1 << 20)
        await env.start(env.draw(count), address)
        await env.finish()
        assert env.memory.bursts == bursts(address, count)


@cocotb.test()
async def pace(dut):
    """From start to address to offer; as fast as a fast memory, and every 10 cycles from a slow one."""
    env = await FetchEnv.make(dut)
    env.memory.p_ready = env.memory.p_beat = env.p_take = 1
    beats = SIZE // CONFIG.bus_bytes
    for latency, gap in ((1, beats), (100, 10)):
        env.memory.latency = latency, latency
        await env.start(env.draw(40), 0x1_0000)
        began = env.now
        await env.finish()
        assert env.asked_at[0] - began == ASKS
        assert env.offers_at[0] - env.beats_at[beats - 1] == OFFERS
        took = env.offers_at[-1] - env.offers_at[0]
        assert took <= 39 * gap + 100, f"{took} cycles at latency {latency}"


@cocotb.test()
async def asks_for_no_more_than_it_can_hold(dut):
    env = await FetchEnv.make(dut)
    env.memory.p_ready = env.memory.p_beat = 1
    for skew in range(FETCH_BURST):
        env.p_take = 0
        await env.start(env.draw(30), 0x4000 + SIZE * skew)
        for taken in range(12):
            for _ in range(60):
                await env.step()
            instructions = sum(count for _, count in env.memory.bursts) * CONFIG.bus_bytes // SIZE
            held = instructions - taken
            assert FETCH_BUFFER - FETCH_BURST < held <= FETCH_BUFFER, f"{held} held"
            env.p_take = 1
            while len(env.taken) == taken:
                await env.step()
            env.p_take = 0
        env.p_take = 1
        await env.finish()


@cocotb.test()
async def no_such_program(dut):
    """Every bit that must be 0, alone: below 64 bytes, and above the address width."""
    env = await FetchEnv.make(dut)
    for bit in [*range(6), *range(CONFIG.address_width, 64)]:
        # So that no other error's record is right for this one.
        env.memory.bad = {0x8000 + 2 * SIZE}
        await env.start(env.draw(3), 0x8000)
        await env.finish((ErrorCode.BUS_READ, 2, 0x8000))
        env.memory.bursts.clear()
        address = 0x3000 | 1 << bit
        await env.start(env.draw(3), address)
        code = ErrorCode.FIELD if bit < 6 else ErrorCode.WINDOW
        await env.finish((code, 0, address))
        assert not env.memory.bursts
    await env.start([], 0x3001)
    await env.finish()


@cocotb.test()
async def windows(dut):
    """The first byte outside is named, below, above and over the top of the address space."""
    first, last = 0x1234_5000, 0x1234_6FFF
    env = await FetchEnv.make(dut, first, last)
    for address, count, error in (
            (first, 128, None), (first - SIZE, 3, 0), (first - 0x1000, 1, 0), (last + 1, 1, 0),
            (last + 1 - 8 * SIZE, 8, None), (last + 1 - 6 * SIZE, 8, 6), (last + 1 - SIZE, 3, 1),
            (first ^ 1 << 31, 2, 0), (first ^ 1 << 14, 2, 0), (last + 1 + (1 << 20), 2, 0)):
        env.temper()
        await env.start(env.draw(count), address)
        await env.finish(error if error is None else (ErrorCode.WINDOW, error, address + SIZE * error))
    env.window(0, TOP - 1)
    await env.start(env.draw(9), TOP - 5 * SIZE)
    await env.finish((ErrorCode.WINDOW, 5, TOP))
    for page in (first, 0, TOP - 0x1000):
        env.window(page, page + 0xFFF)
        await env.start(env.draw(20), page)
        await env.finish()


@cocotb.test()
async def bus_errors(dut):
    """Named by the first byte of the burst; what comes before it is handed on, and nothing after it."""
    env = await FetchEnv.make(dut)
    for _ in range(16):
        env.temper()
        count = env.random.choice((1, 5, 30))
        address = SIZE * env.random.randrange(1 << 20)
        index = env.random.randrange(count)
        bad = address + SIZE * index + CONFIG.bus_bytes * env.random.randrange(SIZE // CONFIG.bus_bytes)
        # Others behind it do not matter.
        env.memory.bad = {bad, *(bad + 8 * env.random.randrange(200) for _ in range(env.random.choice((0, 5))))}
        await env.start(env.draw(count), address)
        await env.finish((ErrorCode.BUS_READ, index, max(start for start, _ in bursts(address, count)
                                                         if start <= bad)))
        env.memory.bad = set()
        await env.start(env.draw(3), address)
        await env.finish()


@cocotb.test()
async def a_bus_error_while_a_later_burst_is_verified(dut):
    """The error of the lower index counts, whenever it comes."""
    first, last = 0x1234_5000, 0x1234_5FFF
    env = await FetchEnv.make(dut, first, last)
    env.memory.p_ready = env.memory.p_beat = env.p_take = 1
    for inside in (1, 2, 3):
        address = last + 1 - inside * FETCH_BURST * SIZE
        env.memory.bad = {address}
        for latency in range(1, 12):
            env.memory.latency = latency, latency
            await env.start(env.draw((inside + 1) * FETCH_BURST), address)
            await env.finish((ErrorCode.BUS_READ, 0, address))


@cocotb.test()
async def abort_at_any_time(dut):
    env = await FetchEnv.make(dut)
    for _ in range(25):
        env.temper()
        await env.start(env.draw(20), SIZE * env.random.randrange(1 << 20))
        for _ in range(env.random.choice((0, 1, 2, 3, 8, env.random.randrange(200)))):
            await env.step()
        await env.abort()
        await env.start(env.draw(env.random.choice((1, 6))), SIZE * env.random.randrange(1 << 20))
        await env.finish()


WRITE = "write.en.eq(beat_valid & (beat_place == number))"
FIRST, SECOND, LOWEST = "&: first operand alone", "&: second operand alone", "==: lowest bit alone"
INVISIBLE = [
    Invisible("self.progress.eq(", FIRST, "r is ready in every cycle", (1,)),
    Invisible("taken.eq(r.valid & (owed != 0))", FIRST, "a memory sends nothing that was not asked for"),
    Invisible("self.quiet.eq((owed == 0)", FIRST, "what is on the bus is owed"),
    Invisible("check.clear.eq(self.abort)", "stuck at zeros",
              "an abort lasts longer than the check, which gets no beats while it does"),
    Invisible("beat_valid.eq(taken & ~self.abort)", FIRST, "the check drops them, and is shorter than an abort"),
    Invisible(WRITE, SECOND, "the beat itself comes later, to the same place", tuple(range(1, 8))),
    Invisible(WRITE, LOWEST, "of the beats written there the right one is the last", (6, 7)),
    Invisible(WRITE, "& -> |", "the same", (7,)),
    Invisible(WRITE, FIRST, "the same", (7,)),
    Invisible("with m.If(self.start | self.abort):", "|: second operand alone",
              "what has failed is aborted before the next start", (0,)),
    Invisible("gone.eq(popped & ~self.start & ~self.abort)", FIRST,
              "nothing is offered at a start, which sets all counts; an abort lasts longer than this register"),
    Invisible("length.eq(Mux(next_.left < to_boundary", "< -> <=", "the two are the same then"),
    Invisible("with m.If(self.abort | failed | (next_.left == 0)):", "|: first operand alone",
              "the next state looks at it too", (0,)),
    Invisible("m.d.sync += [place.eq(0), slot.eq(0)", "assignment left out",
              "bursts are of whole instructions and come to their end in an abort: it is 0", (0,)),
    Invisible("ends = taken & (place", SECOND, "it is looked at where a beat is taken"),
    Invisible("with m.Elif(taken & bad & ~stopped):", FIRST, "then it is set already", (1,)),
    Invisible("m.d.sync += [head.eq(0), tail.eq(0)", "assignment left out",
              "`there` follows `available`, and an abort outlasts it", (3,)),
    Invisible("due.eq(failed & (self.error.index == self.index)", FIRST, "nothing has failed at a start", (1,)),
]
BENCHES = [mutated_bench("fetch", lambda: Fetch(CONFIG), "fetch.py", module=__name__, invisible=INVISIBLE)]
