"""The semaphores and their arbiter: nothing lost, nothing invented, in time, and nobody loses for long."""

import itertools

import cocotb

from kiwicha.control.semaphores import Semaphores
from kiwicha.isa import SEMAPHORE_MAX, SEMAPHORES
from kiwicha.lib.arbiter import Arbiter
from kiwicha.timing import SEMAPHORE_PERIOD as PACE
from tb import harness
from tb.harness import Bench, cycles, port
from tb.mutation import mutated_bench

SIZE = 4
ALL = (1 << SEMAPHORES) - 1


async def grants(dut, requests, count):
    """(request, grant) of `count` cycles in which there may be requests; none follow a grant, as promised."""
    await harness.start(dut)
    for _ in range(count):
        request = requests()
        port(dut, "request").value = request
        await cycles(dut, 1)
        yield request, int(port(dut, "grant").value)
        port(dut, "request").value = 0
        await cycles(dut, 1)
        assert port(dut, "grant").value == 0


@cocotb.test()
async def takes_turns(dut):
    """All ask all the time: each is granted every fourth time."""
    order = [grant async for _, grant in grants(dut, lambda: (1 << SIZE) - 1, 10 * SIZE)]
    assert sorted(order[:SIZE]) == [1 << unit for unit in range(SIZE)]
    assert order == order[:SIZE] * 10


@cocotb.test()
@cocotb.parametrize(often=[0.2, 0.5, 0.9])
async def loses_three_times_at_most(dut, often):
    random = harness.rng(often)
    lost = [0] * SIZE

    def requests():
        return sum((random.random() < often) << unit for unit in range(SIZE))

    async for request, grant in grants(dut, requests, 500):
        assert grant & request == grant and grant.bit_count() == bool(request), f"{grant:04b} of {request:04b}"
        for unit in range(SIZE):
            if grant >> unit & 1:
                lost[unit] = 0
            elif request >> unit & 1:
                lost[unit] += 1
        assert max(lost) < SIZE, f"lost {lost} times in a row"


class SemaphoreUsers:
    """Four units that wait and signal, and an account of what the counters must be."""

    def __init__(self, dut):
        self.dut = dut
        self.random = harness.rng("semaphores")
        self.counts = [0] * SEMAPHORES
        #: What each unit waits for and signals, as masks; None: it does not.
        self.waits, self.signals = [None] * SIZE, [None] * SIZE
        self.patience = {"wait": [0] * SIZE, "signal": [0] * SIZE}
        self.now = 0
        self.granted, self.applied = [], []     # (cycle, unit)

    @classmethod
    async def make(cls, dut):
        await harness.start(dut)
        return cls(dut)

    def wait(self, unit, mask):
        self.waits[unit] = mask

    def signal(self, unit, mask):
        self.signals[unit] = mask

    def can(self, kind, mask, counts):
        barrier = 0 if kind == "wait" else SEMAPHORE_MAX
        return all(counts[i] != barrier for i in range(SEMAPHORES) if mask >> i & 1)

    async def step(self, count=1):
        """Go on by some cycles and keep the account; a unit that was served asks no more."""
        for _ in range(count):
            for pins, masks, noise in (("want", self.waits, "wait"), ("signal", self.signals, "add")):
                port(self.dut, pins).value = sum((mask is not None) << unit for unit, mask in enumerate(masks))
                # The mask of a unit that does not ask means nothing.
                port(self.dut, noise).value = sum(
                    (self.random.getrandbits(SEMAPHORES) if mask is None else mask) << SEMAPHORES * unit
                    for unit, mask in enumerate(masks))
            await cycles(self.dut, 1)
            self.now += 1
            granted, applied = (int(port(self.dut, name).value) for name in ("granted", "applied"))
            before = list(self.counts)
            self._serve("wait", granted, self.waits, before, -1, self.granted)
            self._serve("signal", applied, self.signals, before, 1, self.applied)

    def _serve(self, kind, served, masks, before, change, log):
        assert served.bit_count() <= 1, f"{kind}: {served:04b} at once"
        for unit in range(SIZE):
            mask = masks[unit]
            if served >> unit & 1:
                assert mask is not None, f"{kind}: unit {unit} did not ask"
                assert self.can(kind, mask, before), f"{kind}: unit {unit}, {mask:#x}, counters are {before}"
                for i in range(SEMAPHORES):
                    self.counts[i] += change * (mask >> i & 1)
                masks[unit] = None
                log.append((self.now, unit))
            able = mask is not None and not served >> unit & 1 and self.can(kind, mask, before)
            # It loses three times at most, and decides by counters of some cycles ago.
            self.patience[kind][unit] = self.patience[kind][unit] + 1 if able else 0
            assert self.patience[kind][unit] <= PACE * SIZE + 3, f"{kind}: unit {unit} is forgotten"

    async def clear(self, count=2):
        port(self.dut, "clear").value = 1
        self.waits, self.signals = [None] * SIZE, [None] * SIZE
        port(self.dut, "want").value = port(self.dut, "signal").value = 0
        await cycles(self.dut, 1)
        self.now += 1
        self.counts = [0] * SEMAPHORES
        for _ in range(count - 1):
            # Requests that nobody may hear.
            port(self.dut, "want").value = port(self.dut, "signal").value = self.random.getrandbits(SIZE)
            port(self.dut, "wait").value = 0
            port(self.dut, "add").value = self.random.getrandbits(SIZE * SEMAPHORES)
            await cycles(self.dut, 1)
            self.now += 1
            assert port(self.dut, "granted").value == 0 and port(self.dut, "applied").value == 0
        port(self.dut, "clear").value = 0
        for name in ("want", "signal"):
            port(self.dut, name).value = 0
        await self.step(PACE)
        assert self.counts == [0] * SEMAPHORES

    async def served(self, limit=PACE * SIZE + 3):
        """Go on until nobody asks any more."""
        for _ in range(limit):
            if not any(mask is not None for mask in (*self.waits, *self.signals)):
                return
            await self.step()
        raise AssertionError(f"still waiting for {self.waits} and signalling {self.signals}")

    async def drain(self):
        """Take all that there is, one by one, and no more."""
        while any(self.counts):
            self.wait(self.random.randrange(SIZE), sum((count > 0) << i for i, count in enumerate(self.counts)))
            await self.served()
        await self.nothing_left()

    async def nothing_left(self):
        """No unit gets any semaphore."""
        for first in range(0, SEMAPHORES, SIZE):
            for unit in range(SIZE):
                self.wait(unit, 1 << first + unit)
            await self.step(PACE + 2)
            assert all(mask is not None for mask in self.waits), "a semaphore is not empty"
            self.waits = [None] * SIZE


@cocotb.test()
async def semaphore_latency(dut):
    """Applied a cycle after it was offered, granted two more later; a grant and a signal every three cycles."""
    users = await SemaphoreUsers.make(dut)
    for unit in range(SIZE):
        mask = 0x8001 << unit & ALL | 1
        users.wait((unit + 1) % SIZE, mask)
        await users.step(5)
        users.signal(unit, mask)
        begin = users.now
        await users.step(6)
        assert users.applied[-1] == (begin + 2, unit) and users.granted[-1] == (begin + 4, (unit + 1) % SIZE)
    for kind, ask, log, number in (("signal", users.signal, users.applied, 5 * SIZE),
                                   ("wait", users.wait, users.granted, 4 * SIZE)):
        log.clear()
        for _ in range(number * PACE):
            for unit in range(SIZE):
                ask(unit, 1 << unit)
            await users.step()
        times, order = zip(*log, strict=True)
        gaps = {after - before for before, after in itertools.pairwise(times)}
        assert gaps == {PACE} and len(times) == number, f"{kind}: {log}"
        assert order[4:] == order[:-4] and len(set(order[:4])) == 4, f"{kind}: {log}"
        if kind == "signal":
            await users.served()
    await users.clear()


@cocotb.test()
async def each_semaphore_fills_and_empties(dut):
    users = await SemaphoreUsers.make(dut)
    for count in range(SEMAPHORE_MAX):
        users.signal(count % SIZE, ALL)
        await users.served()
    for index in range(SEMAPHORES):
        unit, mask = index % SIZE, 1 << index
        users.signal(unit, mask)
        await users.step(2 * PACE + 2)
        assert users.signals[unit] is not None, f"semaphore {index} takes a sixteenth"
        users.wait((unit + 1) % SIZE, mask)
        await users.served()
        # Another one that has room does not help a mask of which one is full.
        users.wait(unit, mask)
        await users.served()
        users.signal(unit, ALL)
        await users.step(2 * PACE + 2)
        assert users.signals[unit] == ALL
        users.signal(unit, mask)
        await users.served()
    await users.drain()
    for index in range(SEMAPHORES):
        users.signal(index % SIZE, ALL ^ 1 << index)
        await users.served()
        users.wait((index + 2) % SIZE, ALL)
        await users.step(2 * PACE + 2)
        assert users.waits[(index + 2) % SIZE] is not None, f"semaphore {index} has none"
        users.wait((index + 2) % SIZE, ALL ^ 1 << index)
        await users.served()


@cocotb.test()
async def both_meet_on_a_semaphore(dut):
    """A grant and a signal that reach one counter in one cycle leave it as it is."""
    users = await SemaphoreUsers.make(dut)
    users.signal(0, ALL)
    await users.served()
    for index in range(SEMAPHORES):
        await users.step(PACE)
        users.wait(index % SIZE, 1 << index)
        await users.step()
        users.signal((index + 1) % SIZE, 1 << index)
        await users.served()
        assert users.granted[-1][0] + 1 == users.applied[-1][0]
    await users.step(PACE)
    await users.drain()


@cocotb.test()
@cocotb.parametrize(few=[False, True])
async def random_users(dut, few):
    """All at once, on many semaphores or on two."""
    users = await SemaphoreUsers.make(dut)
    random = users.random

    def mask():
        if few:
            return random.choice((0x0004, 0x4000, 0x4004))
        return random.choice((1 << random.randrange(SEMAPHORES), random.getrandbits(SEMAPHORES)
                              & random.getrandbits(SEMAPHORES) & random.getrandbits(SEMAPHORES)))

    for _ in range(3):
        bias = random.choice((0.3, 0.9))
        for _ in range(150):
            for unit in range(SIZE):
                if users.signals[unit] is None and random.random() < bias:
                    users.signal(unit, mask())
                if users.waits[unit] is None and random.random() < 0.4:
                    users.wait(unit, mask())
            await users.step()
        await users.step(PACE * SIZE + 4)
        await users.clear()


@cocotb.test()
async def clear_at_any_time(dut):
    """Whatever is on its way to the counters then is lost."""
    users = await SemaphoreUsers.make(dut)
    for lag, count in itertools.product(range(6), (1, 2, 3)):
        users.signal(users.random.randrange(SIZE), ALL)
        await users.served()
        for unit in range(SIZE):
            users.wait(unit, ALL if unit == lag % SIZE else users.random.getrandbits(SEMAPHORES))
            users.signal(unit, users.random.getrandbits(SEMAPHORES))
        await users.step(lag)
        await users.clear(count)
        await users.nothing_left()


BENCHES = [Bench(module=__name__, name="semaphores_arbiter", build=lambda: Arbiter(SIZE),
                 testcase=("takes_turns", "loses_three_times_at_most")),
           mutated_bench("semaphores", Semaphores, "semaphores.py", module=__name__, testcase=(
               "semaphore_latency", "each_semaphore_fills_and_empties", "both_meet_on_a_semaphore", "random_users",
               "clear_at_any_time"))]
