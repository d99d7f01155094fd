"""The supervisor: how programs start and end, which error counts, who is oldest, and when the watchdog strikes."""

import itertools

import cocotb

from kiwicha.control.supervisor import ErrorRecord, Supervisor
from kiwicha.control.unit import ErrorReport
from kiwicha.isa import INDEX_WIDTH, INSTRUCTIONS, ErrorCode, Unit
from tb import harness
from tb.harness import cycles, pack, port, unpack
from tb.mutation import Invisible, mutated_bench

UNITS = list(INSTRUCTIONS)
#: What the errors' inputs are, in their order.
REPORTERS = [*UNITS, "dispatch", "fetch"]
#: Cycles: from an error to `failed`, that `abort` is held at least, that `oldest` is behind.
FAILS, SETTLE, BEHIND = 3, 5, 3


class SupervisorEnv:
    """A supervisor, driven by name; `held` are the oldest index of each issue queue, or None."""

    def __init__(self, dut):
        self.dut, self.random = dut, harness.rng("supervisor")
        self.held = [None] * len(UNITS)
        self.next_index = 0

    @classmethod
    async def make(cls, dut):
        await harness.start(dut)
        return cls(dut)

    def drive(self, **values):
        for name, value in values.items():
            port(self.dut, name).value = int(value)

    def report(self, number, code=ErrorCode.FIELD, index=0, address=0, valid=1):
        """Put an error report on an input, or nonsense that is not valid."""
        port(self.dut, f"errors__{number}").value = pack(ErrorReport, valid=valid, code=code, index=index,
                                                         address=address)

    def reports_nothing(self):
        for number in range(len(REPORTERS)):
            self.report(number, self.random.choice(list(ErrorCode)), self.random.getrandbits(INDEX_WIDTH),
                        self.random.getrandbits(64), valid=0)

    def hold(self, held, next_index):
        self.drive(held=sum((index is not None) << number for number, index in enumerate(held)), held_index=sum(
            (self.random.getrandbits(INDEX_WIDTH) if index is None else index) << INDEX_WIDTH * number
            for number, index in enumerate(held)), next_index=next_index)

    def anything(self):
        """What issue queues may hold."""
        return [self.random.getrandbits(INDEX_WIDTH) if self.random.random() < 0.6 else None for _ in UNITS]

    def led_by(self, oldest):
        """What issue queues may hold while the unit `oldest` has the oldest instruction; nothing if it is None."""
        if oldest is None:
            return [None] * len(UNITS)
        indices = self.random.sample(range(1 << INDEX_WIDTH), len(UNITS))
        indices.remove(lowest := min(indices))
        return [lowest if unit is oldest else self.random.choice((indices.pop(), None)) for unit in UNITS]

    def state(self):
        names = ("starting", "running", "busy", "abort", "succeeded", "failed", "done", "error")
        return {name for name in names if port(self.dut, name).value == 1}

    async def step(self, *want):
        """One cycle; all that is high in it."""
        await cycles(self.dut, 1)
        got = self.state()
        assert got == set(want), f"{sorted(got)}, not {sorted(want)}"

    async def start(self, *before):
        """Start a program; `before` is what the last one left high."""
        self.reports_nothing()
        self.drive(start=1, all_done=0, empty=0, quiet=0, progress=1, host_abort=0)
        await self.step("starting", *before)
        self.drive(start=0)
        await self.step("running", "busy")
        assert int(port(self.dut, "record").value) == 0

    def record(self):
        return unpack(ErrorRecord, int(port(self.dut, "record").value))

    async def stop(self, quiet_after):
        """See abort held until quiet, but for SETTLE cycles at least; `busy` falls then."""
        for cycle in range(max(SETTLE, quiet_after + 1) + 1):
            self.drive(quiet=cycle >= quiet_after, start=self.random.getrandbits(1),
                       host_abort=self.random.getrandbits(1))
            await self.step("busy", "abort", "error", *(["failed"] if cycle == 0 else []))
        self.drive(start=0, quiet=1)
        await self.step("error")
        self.drive(host_abort=1)
        await self.step("error")
        self.drive(host_abort=0)
        self.reports_nothing()
        await self.step("error")


@cocotb.test()
async def good_end(dut):
    """All dispatched, issue queues empty, all quiet: one missing is not the end."""
    env = await SupervisorEnv.make(dut)
    before = []
    for number in range(12):
        await env.start(*before)
        for _ in range(10):
            signs = [env.random.getrandbits(1) for _ in range(3)]
            signs[env.random.randrange(3)] = 0
            env.drive(**dict(zip(("all_done", "empty", "quiet"), signs, strict=True)),
                      start=env.random.getrandbits(1))
            await env.step("running", "busy")
        env.drive(start=0)
        env.drive(all_done=1, empty=1, quiet=1)
        await env.step("running", "busy")
        env.drive(quiet=number % 2)     # a cycle is enough
        await env.step("running", "busy")
        env.drive(host_abort=1)         # nothing runs any more
        await env.step("done", "succeeded")
        env.drive(host_abort=0)
        for _ in range(number):
            await env.step("done")
        before = ["done"]
    # What was true before the start is no end.
    env.drive(all_done=1, empty=1, quiet=1)
    await env.step("done")
    await env.step("done")
    env.drive(start=1)
    await env.step("starting", "done")
    env.drive(start=0, all_done=0)
    for _ in range(3):
        await env.step("running", "busy")


@cocotb.test()
async def errors_of_one_cycle(dut):
    """The lowest index counts, and at the same index the first of the sources; each in its own words."""
    env = await SupervisorEnv.make(dut)
    before = []
    everyone = [*REPORTERS, "watchdog", "host"]
    pairs = [list(pair) for pair in itertools.combinations(everyone, 2)]
    groups = [env.random.sample(everyone, env.random.randrange(3, len(everyone) + 1)) for _ in range(20)]
    for chosen in [*([name] for name in everyone), *pairs, *groups]:
        await env.start(*before)
        dispatch_unit = env.random.choice(list(Unit))
        # The index of an abort by the host or the watchdog.
        oldest = env.random.choice((3, env.random.getrandbits(INDEX_WIDTH)))
        env.hold([None] * len(UNITS), oldest)
        # With a limit of 2 the watchdog strikes in the cycle of the other errors.
        env.drive(dispatch_unit=dispatch_unit.value, progress=0, limit=2 if "watchdog" in chosen else 0)
        for _ in range(BEHIND + 1):
            await env.step("running", "busy")
        found = []
        for place, name in enumerate(everyone):
            if name not in chosen:
                continue
            if name == "host":
                env.drive(host_abort=1)
                found.append((oldest, place, ErrorCode.ABORTED, Unit.FETCH, 0))
                continue
            if name == "watchdog":
                found.append((oldest, place, ErrorCode.WATCHDOG, Unit.FETCH, 0))
                continue
            index = env.random.choice((3, 4, env.random.getrandbits(INDEX_WIDTH)))
            code, address = env.random.choice(list(ErrorCode)), env.random.getrandbits(64)
            unit = {"dispatch": dispatch_unit, "fetch": Unit.FETCH}.get(name, name)
            env.report(place, code, index, address)
            found.append((index, place, code, unit, address))
        # An error comes before an end in the same cycle.
        env.drive(all_done=1, empty=1, quiet=1)
        await env.step("running", "busy")
        env.drive(host_abort=0, all_done=0, quiet=0)
        for _ in range(FAILS - 1 + len(found) - 1):
            await env.step("busy")
        await env.stop(env.random.choice((0, 3, SETTLE, SETTLE + 1, 12)))
        index, _, code, unit, address = min(found)
        assert env.record() == {"code": code, "unit": unit, "index": index, "address": address}, found
        before = ["error"]


@cocotb.test()
async def oldest_instruction(dut):
    """An abort names the oldest instruction that an issue queue holds, or else the next to come."""
    env = await SupervisorEnv.make(dut)
    before = []
    for _ in range(60):
        await env.start(*before)
        held, next_index = env.anything(), env.random.getrandbits(INDEX_WIDTH)
        # What an issue queue tells is a cycle old already.
        env.hold(env.anything(), next_index)
        await env.step("running", "busy")
        env.hold(held, env.random.getrandbits(INDEX_WIDTH))
        await env.step("running", "busy")
        env.hold(env.anything(), env.random.getrandbits(INDEX_WIDTH))
        env.drive(host_abort=1)
        await env.step("running", "busy")
        env.drive(host_abort=0)
        for _ in range(FAILS - 1):
            await env.step("busy")
        await env.stop(0)
        known = [index for index in held if index is not None]
        assert env.record() == {"code": ErrorCode.ABORTED, "unit": Unit.FETCH, "address": 0,
                                "index": min(known) if known else next_index}, (held, next_index)
        before = ["error"]


@cocotb.test()
@cocotb.parametrize(limit=[1, 2, 7, 40])
async def watchdog_strikes(dut, limit):
    """`limit` + 3 cycles after the last progress, naming the oldest instruction; never with a limit of 0."""
    env = await SupervisorEnv.make(dut)
    before = []
    for number, oldest in enumerate((*UNITS, None, None)):
        never = number > len(UNITS)
        env.drive(limit=0 if never else limit)
        held = env.led_by(oldest)
        next_index = env.random.getrandbits(INDEX_WIDTH)
        env.hold(held, next_index)
        await env.start(*before)
        for _ in range(3):
            for cycle in range(limit + 1):
                env.drive(progress=cycle == 0)
                await env.step("running", "busy")
        env.drive(progress=1)
        await env.step("running", "busy")
        env.drive(progress=0)
        for cycle in range(limit + 3):
            # Progress at the very end comes too late.
            env.drive(progress=cycle == limit + 2 and number & 1)
            await env.step("running", "busy")
        if never:
            for _ in range(2 * limit + 10):
                await env.step("running", "busy")
            return
        for _ in range(FAILS - 1):
            await env.step("busy")
        await env.stop(2)
        index, unit = (next_index, Unit.FETCH) if oldest is None else (held[UNITS.index(oldest)], oldest)
        assert env.record() == {"code": ErrorCode.WATCHDOG, "unit": unit, "index": index, "address": 0}
        before = ["error"]


@cocotb.test()
async def watchdog_counts_from_the_start(dut):
    """However long nothing moved before."""
    env = await SupervisorEnv.make(dut)
    env.drive(limit=8, progress=0)
    for _ in range(20):
        await env.step()
    env.reports_nothing()
    env.drive(start=1)
    await env.step("starting")
    env.drive(start=0)
    for _ in range(8 + 3):
        await env.step("running", "busy")
    await env.step("busy")


PENDING = "errors pend only while one of them is being chosen"
UNIQUE = "no two issue queues hold instructions of the same index"
BENCHES = [mutated_bench("supervisor", Supervisor, "supervisor.py", module=__name__, invisible=[
    Invisible("self.expired.eq((self.limit", "&: first operand alone", "an error counts only in a run"),
    Invisible("use_left =", "< -> <=", UNIQUE),
    Invisible("with m.If(pending[number])", "condition 0 always", "no candidate is used if none pends", (0,)),
    *(Invisible("m.d.sync += [valid.eq(pending.any()", change, PENDING)
      for change in ("& -> |", "&: first operand alone", "&: second operand alone")),
    Invisible("m.d.sync += chosen.eq(", "&: first operand alone", PENDING, (1, 2)),
    Invisible("m.d.sync += chosen.eq(", "&: second operand alone", "after the choice nobody looks", (0,)),
    Invisible("bits[:number].any() if number", "r| -> r&", "of one bit both are the same", (0, 7)),
])]
