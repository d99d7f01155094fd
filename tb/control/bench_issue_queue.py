"""An issue queue against a model of it, between dispatch, semaphores and a unit that take their time."""

import dataclasses
from collections import deque

import cocotb

from kiwicha.control.issue_queue import IssueQueue, issue_entry
from kiwicha.isa import INDEX_WIDTH, SEMAPHORES, Unit
from kiwicha.layouts import unit_layout
from kiwicha.timing import OPEN_INSTRUCTIONS
from tb import harness
from tb.harness import cycles, pack, port
from tb.mutation import Invisible, mutated_bench

UNIT, DEPTH = Unit.STORE, 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """What dispatch hands over."""
    index: int
    wait: int
    signal: int
    bits: int       # of the unit's instruction, index included

    @classmethod
    def draw(cls, random, p_wait, p_signal):
        def mask(p):
            any_mask = random.choice((1 << random.randrange(SEMAPHORES), random.getrandbits(SEMAPHORES)))
            return any_mask if random.random() < p else 0

        index, fields = random.getrandbits(INDEX_WIDTH), random.getrandbits(unit_layout(UNIT).size - INDEX_WIDTH)
        # `index` is the last field of an instruction.
        bits = index << unit_layout(UNIT).size - INDEX_WIDTH | fields
        return cls(index, mask(p_wait), mask(p_signal), bits)


class IssueQueueModel:
    """The contract as a state: what is queued, at the head, on its way to being open, open."""

    def __init__(self):
        self.queue, self.head, self.offered = deque(), None, False
        self.entering, self.open, self.retired = None, deque(), 0

    @property
    def held(self):
        """All entries, oldest first."""
        whole = [*self.open, self.entering, self.head, *self.queue]
        return [entry for entry in whole if entry is not None]

    @property
    def has_room(self):
        return len(self.open) < OPEN_INSTRUCTIONS

    @property
    def wants(self):
        return self.head is not None and not self.offered and self.has_room and self.head.wait != 0

    @property
    def waiting(self):
        return self.head is not None and not self.offered and (self.head.wait != 0 or not self.has_room)

    def signals(self, retire):
        return bool(self.open) and (self.retired > 0 or retire) and self.open[0].signal != 0

    def step(self, took, accepted, granted, retire, applied):
        """One cycle goes by in which these things happened."""
        closes = applied or (self.retired > 0 and self.open[0].signal == 0)
        if closes:
            self.open.popleft()
        self.retired += retire - closes
        if self.entering is not None:
            self.open.append(self.entering)
        self.entering = self.head if accepted else None
        if accepted:
            self.head, self.offered = None, False
        elif self.head is None:
            self.head = self.queue.popleft() if self.queue else None
        elif granted or (self.had_room and not self.head.wait):
            self.offered = True
        if took is not None:
            self.queue.append(took)

    had_room = True


class IssueQueueEnv:
    """Drives all sides of an issue queue and compares each cycle with the model."""

    def __init__(self, dut):
        self.dut, self.random = dut, harness.rng("issue_queue")
        self.model = IssueQueueModel()
        self.oldest = None                          # of a cycle ago
        self.coming, self.signalled = None, False   # offered by dispatch; `signal` was high a cycle ago
        self.p = dict.fromkeys(("offer", "ready", "retire", "grant", "apply", "wait", "signal"), 0.5)

    @classmethod
    async def make(cls, dut):
        await harness.start(dut)
        return cls(dut)

    def draw(self, what):
        return self.random.random() < self.p[what]

    async def step(self):
        model, dut = self.model, self.dut
        if self.coming is None and self.draw("offer"):
            self.coming = Entry.draw(self.random, self.p["wait"], self.p["signal"])
        ready = self.draw("ready")
        granted = model.wants and self.draw("grant")
        retire = len(model.open) > model.retired and self.draw("retire")
        applied = self.signalled and self.draw("apply")
        entry = self.coming
        shape = issue_entry(UNIT)
        port(dut, "i__valid").value = int(entry is not None)
        port(dut, "i__payload").value = self.random.getrandbits(shape.size) if entry is None else pack(
            shape, unit=entry.bits, wait=entry.wait, signal=entry.signal)
        for name, value in (("o__ready", ready), ("granted", granted), ("retire", retire), ("applied", applied)):
            port(dut, name).value = int(value)
        await cycles(dut, 1)
        accepted = model.offered and ready
        signals = model.signals(retire)
        advances = bool(model.queue) and model.head is None
        self.compare(signals, progress=accepted or granted or applied or advances)
        took = entry if entry is not None and port(dut, "i__ready").value == 1 else None
        assert len(model.queue) < DEPTH or took is None, "more than its depth"
        assert len(model.queue) == DEPTH or entry is None or took is not None, "it has room and is not ready"
        self.coming = None if took else entry
        self.oldest = model.held[0].index if model.held else None
        self.signalled = signals and not applied
        model.had_room = model.has_room
        model.step(took, accepted, granted, retire, applied)

    def compare(self, signals, progress):
        model, dut = self.model, self.dut
        want = {"o__valid": model.offered, "want": model.wants, "signal": signals, "waiting": model.waiting,
                "empty": not model.held, "oldest_valid": self.oldest is not None, "progress": progress}
        got = {name: bool(port(dut, name).value) for name in want}
        assert got == want, {name: value for name, value in got.items() if value != want[name]}
        if model.offered:
            assert int(port(dut, "o__payload").value) == model.head.bits
        if model.wants:
            assert int(port(dut, "wait").value) == model.head.wait
        if signals:
            assert int(port(dut, "add").value) == model.open[0].signal
        if self.oldest is not None:
            assert int(port(dut, "oldest_index").value) == self.oldest

    async def clear(self, count):
        """Clear for some cycles, with whatever on the other inputs."""
        port(self.dut, "clear").value = 1
        self.coming = None
        port(self.dut, "i__valid").value = 0
        for number in range(count):
            for name in ("o__ready", "granted", "retire", "applied"):
                port(self.dut, name).value = self.random.getrandbits(1) if number == 0 else 0
            await cycles(self.dut, 1)
            assert port(self.dut, "o__valid").value == 0
        port(self.dut, "clear").value = 0
        self.model, self.oldest, self.signalled = IssueQueueModel(), None, False


@cocotb.test()
async def random_surroundings(dut):
    env = await IssueQueueEnv.make(dut)
    for _ in range(14):
        env.p = {name: env.random.choice((0.1, 0.5, 1)) for name in env.p}
        for _ in range(100):
            await env.step()


@cocotb.test()
@cocotb.parametrize(p_wait=[0, 1], p_signal=[0, 1])
async def slow_retires(dut, p_wait, p_signal):
    """All that may be open is, and the next one does not go on; then everything retires at once."""
    env = await IssueQueueEnv.make(dut)
    for _ in range(3):
        env.p |= {"offer": 1, "ready": 1, "retire": 0, "grant": 1, "apply": 1, "wait": p_wait, "signal": p_signal}
        for _ in range(60):
            await env.step()
        assert len(env.model.open) == OPEN_INSTRUCTIONS and len(env.model.held) == OPEN_INSTRUCTIONS + 1 + DEPTH
        assert not env.model.offered
        env.p |= {"offer": 0, "retire": 1}
        for _ in range(60):
            await env.step()
        assert not env.model.held


@cocotb.test()
async def clear_at_any_time(dut):
    env = await IssueQueueEnv.make(dut)
    for _ in range(60):
        env.p = {name: env.random.choice((0.5, 1)) for name in env.p} | {"retire": env.random.choice((0, 1))}
        for _ in range(env.random.randrange(14)):
            await env.step()
        await env.clear(env.random.randrange(1, 4))
        for _ in range(env.random.choice((0, 4))):
            await env.step()


BENCHES = [mutated_bench("issue_queue", lambda: IssueQueue(UNIT, DEPTH), "issue_queue.py", module=__name__,
                         invisible=[
    Invisible("any_retired = ", "&: first operand alone", "nothing retires unless an instruction is open"),
    Invisible("m.d.sync += [head.eq(queue.o.payload)", "assignment left out",
              "`offered` is 0 already while there is no head", (1,))])]
