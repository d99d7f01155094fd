"""The control unit: programs, semaphores, errors, the watchdog, abort and counters."""

import itertools

import cocotb

from kiwicha.bus.axi import Resp
from kiwicha.control.probe import UNIT_PROBE
from kiwicha.isa import INSTRUCTIONS, Activity, ErrorCode, Unit, counter_address
from kiwicha.timing import OPEN_INSTRUCTIONS
from tb.control.environment import UNITS, ControlEnv, benches
from tb.harness import cycles, port, unpack
from tb.mutation import Invisible

LOAD, MATMUL, VECTOR, STORE = UNITS


def random_program(random, length):
    """A program that cannot deadlock.

    Each semaphore has one unit that signals it and one that waits for it, and the program runs to its
    end when executed one instruction after the other: then the first unfinished instruction can always go on.
    """
    pairs = [(random.choice(UNITS), random.choice(UNITS)) for _ in range(16)]
    counts = [0] * 16
    program = []
    eager = random.choice((0.2, 0.5, 0.9))
    for _ in range(length):
        unit = random.choice(UNITS)
        wait = signal = 0
        for number, (_, sink) in enumerate(pairs):
            if sink == unit and counts[number] and random.random() < eager:
                wait |= 1 << number
                counts[number] -= 1
        for number, (source, _) in enumerate(pairs):
            if source == unit and counts[number] < 15 and random.random() < eager:
                signal |= 1 << number
                counts[number] += 1
        program.append((unit, wait, signal))
    return program


@cocotb.test()
async def random_programs(dut):
    """Order, semaphores, payloads, counters, over units and memories of many tempers."""
    world = await ControlEnv.make(dut)
    random = world.random
    for _ in range(14):
        length = random.choice((1, 2, 5, 17, 40, 90))
        world.durations = random.choice(((1, 1), (1, 4), (1, 30), (20, 60)))
        world.memory.latency = random.choice(((1, 2), (1, 60), (100, 100)))
        world.memory.p_ready, world.memory.p_beat = random.choice((0.3, 1)), random.choice((0.4, 1))
        for unit in world.units.values():
            unit.capacity = random.randint(1, 4)
        await world.start(random_program(random, length), address=64 * random.randrange(1 << 14))
        await world.check_done(length * (world.durations[1] + 150) + 2000)


@cocotb.test()
async def shared_semaphores(dut):
    """All units signal one semaphore and all wait for it, often in one cycle: nothing is lost or invented."""
    world = await ControlEnv.make(dut)
    world.memory.p_ready = world.memory.p_beat = 1
    for durations in ((1, 1), (12, 12), (1, 30)) * 2:
        # Slow units keep a token long enough for a second grant of it to show.
        world.durations = durations
        program = [(unit, 0, 0x8001) for unit in UNITS for _ in range(3)]
        program += [(world.random.choice(UNITS), 0x8001, 0x8001) for _ in range(40)]
        program += [(world.random.choice(UNITS), 1 << (15 * (i % 2)), 0) for i in range(24)]
        await world.start(program)
        await world.check_done(4000)
        assert world.tokens[0] == world.tokens[15] == 0


@cocotb.test()
async def full_semaphore_waits(dut):
    """A signal beyond the highest value waits, and the units behind it, until someone takes."""
    world = await ControlEnv.make(dut)
    world.durations = (2, 2)
    producers, consumers = [(LOAD, 0, 0b01)] * 20, [(MATMUL, 0b01, 0)] * 20
    gate = [(STORE, 0, 0b10), (MATMUL, 0b10, 0)]
    world.duration = lambda unit, index: 900 if unit == STORE else 2
    await world.start(gate + producers + consumers)
    await cycles(dut, 700)
    loads = sum(unit == LOAD for unit, _, _ in world.offers)
    # Fifteen have signalled, and as many are open as a unit may have.
    assert loads == 15 + OPEN_INSTRUCTIONS, f"{loads} producers have started"
    await world.check_done(4000)


@cocotb.test()
async def latency(dut):
    """From retire over a semaphore to the next unit: 4 cycles; from start to the first instruction."""
    world = await ControlEnv.make(dut)
    world.memory.latency, world.memory.p_ready, world.memory.p_beat = (1, 1), 1, 1
    world.durations = (60, 60)
    program = [(LOAD, 0, 1), (MATMUL, 1, 2), (VECTOR, 2, 4), (STORE, 4, 0)]
    await world.start(program)
    begin = world.cycle
    await world.check_done(1000)
    hops = [offer[2] - retire[2] for retire, offer in zip(world.retires, world.offers[1:], strict=False)]
    cocotb.log.info("semaphore round trip %s, start to first offer %d", hops, world.offers[0][2] - begin)
    # A retire is told when it is put on the wire, an offer one cycle after it was.
    assert hops == [5, 5, 5], hops
    assert world.offers[0][2] - begin < 40


@cocotb.test()
async def prefetch_hides_latency(dut):
    """One instruction every 16 cycles although the memory takes 100."""
    world = await ControlEnv.make(dut)
    world.memory.latency, world.memory.p_ready, world.memory.p_beat = (100, 100), 1, 1
    world.durations = (1, 1)
    await world.start([(LOAD, 0, 0)] * 200)
    await world.check_done(6000)
    total = await world.read("CYCLES")
    cocotb.log.info("%d cycles for 200 instructions", total)
    assert total < 200 * 16 + 200


@cocotb.test()
async def bounded_grants(dut):
    """Four units compete for one semaphore: none starves."""
    world = await ControlEnv.make(dut)
    world.durations = (12, 12)      # so that nobody returns the token before a wrong grant shows
    rounds = 12
    program = [(LOAD, 0, 1)] + [(unit, 1, 1) for _ in range(rounds) for unit in UNITS]
    await world.start(program)
    await world.check_done(4000)
    order = [unit for unit, index, _ in world.offers if index]
    for unit in UNITS:
        places = [place for place, item in enumerate(order) if item == unit]
        gaps = [after - before for before, after in itertools.pairwise(places)]
        # Dispatch holds a unit back too while a queue is full, hence more than the arbiter's four.
        assert max(gaps) <= 12, f"{unit} waited for {max(gaps)} grants"


@cocotb.test()
async def empty_program(dut):
    world = await ControlEnv.make(dut)
    await world.start([], address=0x7FFF_F001)
    status = await world.finish(20 * 5)
    assert status["done"] and not status["error"]
    assert await world.read("CYCLES") < 10 and not world.memory.bursts


@cocotb.test()
async def unit_errors(dut):
    """Each unit's error ends the program with its own words; the next program is as ever."""
    world = await ControlEnv.make(dut)
    for unit in UNITS:
        for code in (ErrorCode.FIELD, ErrorCode.BUS_WRITE):
            program = random_program(world.random, 30)
            index = next(i for i, item in enumerate(program) if item[0] == unit)
            address = world.random.getrandbits(64)
            world.failures = {index: (code, address)}
            await world.start(program)
            await world.check_error(code, unit, index, address)
            assert not any(item[1] == index for item in world.retires)
            world.failures = {}
            await world.start(random_program(world.random, 10))
            await world.check_done(3000)


@cocotb.test()
async def simultaneous_errors(dut):
    """Of the errors of one cycle the lowest index counts."""
    world = await ControlEnv.make(dut)
    for order in (UNITS, UNITS[::-1], (MATMUL, STORE, LOAD, VECTOR)):
        program = [(unit, 0, 0) for unit in order]
        world.failures = {index: (ErrorCode.FIELD, 100 + index) for index in range(4)}
        world.duration = lambda unit, index: 10_000
        await world.start(program)
        await cycles(dut, 200)
        assert all(unit.open for unit in world.units.values())
        for unit in world.units.values():
            unit.open[0][1] = 5
        await world.check_error(ErrorCode.FIELD, order[0], 0, 100)


@cocotb.test()
async def bad_instructions(dut):
    """Unknown opcodes; each kind's reserved bits, one by one: the lowest is named, earlier ones are run."""
    world = await ControlEnv.make(dut)
    for opcode in (0, 5, 12, 0x81, 255):
        program = [(LOAD, 0, 0), (STORE, 0, 0)]
        bits = world.encode(MATMUL, 0, 0) & ~0xFF | opcode
        await world.start([*program, (MATMUL, 0, 0, bits), *program])
        await world.check_error(ErrorCode.OPCODE, Unit.FETCH, 2, opcode)
        assert all(index < 2 for _, index, _ in world.offers)
    for unit, instruction in INSTRUCTIONS.items():
        reserved = [bit for bit in range(512) if not instruction.used_mask >> bit & 1]
        for bit in [reserved[0], reserved[-1], *world.random.sample(reserved, 5)]:
            bits = world.encode(unit, 0, 0) | 1 << bit
            for other in world.random.sample([b for b in reserved if b > bit] or [bit], 1):
                bits |= 1 << other
            await world.start([(LOAD, 0, 0), (unit, 0, 0, bits)])
            await world.check_error(ErrorCode.RESERVED, unit, 1, bit)
    # A bad instruction before an unreachable one is what counts.
    world.memory.bad = {0x1_0000 + 64 * 9}
    await world.start([(LOAD, 0, 0), (LOAD, 0, 0, 0), *[(LOAD, 0, 0)] * 20])
    await world.check_error(ErrorCode.OPCODE, Unit.FETCH, 1, 0)


@cocotb.test()
async def fetch_errors(dut):
    """A misaligned program, one outside the window, one at its edges, and a memory that refuses."""
    world = await ControlEnv.make(dut)
    top = 1 << world.config.address_width
    for address in (0x1_0001, 0x1_0020):
        await world.start([(LOAD, 0, 0)], address=address)
        await world.check_error(ErrorCode.FIELD, Unit.FETCH, 0, address)
    if top < 1 << 64:
        await world.start_at(top + 0x1_0000, 3)
        await world.check_error(ErrorCode.WINDOW, Unit.FETCH, 0, top + 0x1_0000)
    await world.write("WINDOW_FIRST_LOW", 0x1_0000)
    await world.write("WINDOW_LAST_LOW", 0x1_1FFF)
    await world.write("WINDOW_LAST_HIGH", 0)
    world.memory.window = (0x1_0000, 0x1_1FFF)
    eight = [(LOAD, 0, 0)] * 8
    await world.start(eight, address=0x1_1FFF + 1 - 64 * 8)
    await world.check_done(1000)
    await world.start(eight, address=0x1_0000)
    await world.check_done(1000)
    for cut in (1, 2, 5, 7):
        await world.start(eight, address=0x1_2000 - 64 * cut)
        await world.check_error(ErrorCode.WINDOW, Unit.FETCH, cut, 0x1_2000)
        assert len(world.offers) <= cut
    await world.start(eight, address=0x0_FFC0)
    await world.check_error(ErrorCode.WINDOW, Unit.FETCH, 0, 0x0_FFC0)
    # Over the top of the address space: no wrap.
    await world.write("WINDOW_FIRST_LOW", 0)
    await world.write("WINDOW_LAST_LOW", 0xFFFF_FFFF)
    if top > 1 << 32:
        await world.write("WINDOW_LAST_HIGH", (top >> 32) - 1)
    world.memory.window = (0, top - 1)
    await world.start(eight, address=top - 128)
    await world.check_error(ErrorCode.WINDOW, Unit.FETCH, 2, top % (1 << 64))
    for index, beat in ((0, 0), (3, 1), (6, 3), (21, 0)):
        address = 0x2_0080
        bad = address + 64 * index + world.config.bus_bytes * beat
        world.memory.bad = {bad}
        await world.start([(LOAD, 0, 0)] * 30, address=address)
        await world.check_error(ErrorCode.BUS_READ, Unit.FETCH, index, max(address, bad & ~0xFF))
        assert len(world.offers) <= index
    world.memory.bad = set()
    await world.start(eight)
    await world.check_done(1000)


@cocotb.test()
async def watchdog(dut):
    """A semaphore that never comes, a unit that hangs, a signal that cannot be given, a silent memory."""
    world = await ControlEnv.make(dut)
    await world.write("WATCHDOG", 200)
    await world.start([(LOAD, 0, 1), (STORE, 0, 0), (MATMUL, 2, 0), (VECTOR, 4, 0)])
    await world.check_error(ErrorCode.WATCHDOG, MATMUL, 2, 0)
    total = await world.read("CYCLES")
    last = max(cycle for _, _, cycle in world.retires) - world.offers[0][2]
    assert 200 <= total - last < 300, total
    world.duration = lambda unit, index: 3000 if index == 1 else 3
    world.frozen = True
    await world.start([(LOAD, 0, 0), (VECTOR, 0, 0), (STORE, 0, 0)])
    await world.check_error(ErrorCode.WATCHDOG, VECTOR, 1, 0)
    world.frozen = False
    await world.start([(LOAD, 0, 0), (VECTOR, 0, 0), (STORE, 0, 0)])
    await world.check_done(5000)    # a unit that moves is never the watchdog's business
    del world.duration
    await world.start([(LOAD, 0, 1)] * 16)
    await world.check_error(ErrorCode.WATCHDOG, LOAD, 15, 0)
    await world.start([(LOAD, 0, 1)] * 15)
    await world.check_done(2000)


@cocotb.test()
async def silent_memory(dut):
    """The error is there at once; busy falls when the memory has answered; the next program runs."""
    world = await ControlEnv.make(dut)
    await world.write("WATCHDOG", 150)
    await world.write("IRQ_ENABLE", 2)
    for p_ready in (0, 1):
        world.memory.latency = (50, 50)
        world.memory.p_ready = p_ready
        await world.start([(LOAD, 0, 0)] * 30)
        await cycles(dut, 20)
        world.memory.silent = True
        await cycles(dut, 250)
        status = await world.status()
        assert status["busy"] and status["error"] and not status["done"]
        assert (await world.error())["code"] == ErrorCode.WATCHDOG.value
        assert (await world.error())["unit"] == Unit.FETCH.value
        assert port(dut, "irq").value == 1
        await world.write("IRQ_PENDING", 2)
        assert port(dut, "irq").value == 0
        await world.write("CONTROL", 1)
        await cycles(dut, 500)
        assert (await world.status())["busy"] and port(dut, "irq").value == 0
        assert len(world.offers) == 0
        world.memory.silent, world.memory.p_ready = False, 1
        await world.check_error(ErrorCode.WATCHDOG, Unit.FETCH, 0, 0)
        await world.start(random_program(world.random, 20))
        await world.check_done(4000)


@cocotb.test()
async def abort_anywhere(dut):
    """CONTROL.abort at random cycles; the next program is as ever."""
    world = await ControlEnv.make(dut)
    for _ in range(24):
        program = random_program(world.random, 25)
        world.memory.latency = world.random.choice(((1, 3), (60, 60)))
        await world.start(program)
        await cycles(dut, world.random.randrange(300))
        # An instruction is finished when its signals are applied, which may take some cycles more.
        finished = {index for _, index, cycle in world.retires if cycle < world.cycle - 20}
        await world.write("CONTROL", 2)
        status = await world.stopped()
        if not status["done"]:
            got = await world.check_error(ErrorCode.ABORTED, Unit.FETCH, None, 0)
            retired = {index for _, index, _ in world.retires}
            oldest = [min(set(range(26)) - done) for done in (finished, retired)]
            assert oldest[0] <= got["index"] <= oldest[1], f"{got}, oldest {oldest}"
        world.memory.p_beat = world.random.choice((0.3, 1))
        await world.start(random_program(world.random, 8))
        await world.check_done(2000)
    # One that has not ended by itself.
    world.durations = 2000, 2000
    await world.start([(LOAD, 0, 0)])
    await cycles(dut, 300)
    await world.write("CONTROL", 2)
    await world.check_error(ErrorCode.ABORTED, Unit.FETCH, 0, 0)


@cocotb.test()
async def counters_tell(dut):
    """Waiting for a semaphore, for memory and for a full queue are told apart."""
    world = await ControlEnv.make(dut)
    world.duration = lambda unit, index: 400 if unit == LOAD else 5
    depth = world.config.queue_depth
    await world.start([(LOAD, 0, 1), (MATMUL, 1, 0), *[(LOAD, 0, 0)] * (depth + 4)])
    await world.check_done(9000)

    async def count(unit, activity):
        return await world.read(counter_address(unit, activity))

    assert 350 < await count(MATMUL, Activity.SEMAPHORE) < 450
    for unit in (LOAD, VECTOR, STORE):
        assert await count(unit, Activity.SEMAPHORE) == 0
    assert await count(STORE, Activity.IDLE) == await world.read("CYCLES")
    assert await count(Unit.FETCH, Activity.QUEUE) > 300
    assert 5 < await count(Unit.FETCH, Activity.MEMORY) < 200
    for signals, waits in zip(UNITS, (*UNITS[1:], UNITS[0]), strict=True):
        world.duration = lambda _, index: 5 if index else 400
        await world.start([(signals, 0, 1), (waits, 1, 0)])
        await world.check_done(9000)
        assert 350 < await count(waits, Activity.SEMAPHORE) < 450
    world.duration = lambda _, index: 400
    # The second read of a running program is no smaller than the first, and the sum is kept.
    await world.start([(LOAD, 0, 0)] * 3)
    seen = [await world.read("CYCLES") for _ in range(20)]
    assert seen == sorted(seen) and len(set(seen)) == 20
    await world.check_done(9000)


@cocotb.test()
async def the_host_is_answered(dut):
    """Two writes that are under way at once both count; one that is refused is told so."""
    world = await ControlEnv.make(dut)
    for _ in range(10):
        values = {name: world.random.getrandbits(32) for name in ("PROGRAM_LOW", "PROGRAM_HIGH", "WATCHDOG")}
        for task in [cocotb.start_soon(world.write(*item)) for item in values.items()]:
            await task
        assert {name: await world.read(name) for name in values} == values
    await world.write("WINDOW_LOCK", 1)
    await world.write("WINDOW_FIRST_LOW", 0, expect=Resp.SLVERR)


@cocotb.test()
async def probe_tells_what_is_counted(dut):
    """Activities in the counted cycles are the counters'; what units take and end is what they saw."""
    world = await ControlEnv.make(dut)
    seen = []

    async def watch():
        said = None
        while True:
            await cycles(dut, 1)
            before, said = said, {unit: Activity(int(port(dut, f"{unit.name.lower()}__activity").value))
                                  for unit in UNITS}
            if port(dut, "probe__counted").value == 1:
                units = (port(dut, f"probe__units__{unit.value}").value for unit in Unit)
                seen.append([unpack(UNIT_PROBE, int(value)) for value in units])
                for unit in UNITS:
                    told = seen[-1][unit.value]["activity"]
                    assert told == before[unit] or (told, before[unit]) == (Activity.SEMAPHORE, Activity.IDLE)

    cocotb.start_soon(watch())
    for length in (1, 30, 60):
        seen.clear()
        await world.start(random_program(world.random, length))
        await world.check_done(length * 180 + 2000)
        assert len(seen) == await world.read("CYCLES")
        for unit in Unit:
            view = [cycle[unit.value] for cycle in seen]
            for activity in Activity:
                counted = await world.read(counter_address(unit, activity))
                assert sum(item["activity"] == activity for item in view) == counted, f"{unit} {activity}"
            accepted = [item["index"] for item in view if item["accept"]]
            if unit == Unit.FETCH:
                assert accepted == list(range(length)) and all(item["accept"] == item["retire"] for item in view)
                waits = [item["index"] for item in view if item["activity"] == Activity.MEMORY]
                assert waits == sorted(waits)
            else:
                assert accepted == [index for who, index, _ in world.offers if who == unit]
                assert sum(item["retire"] for item in view) == len(accepted)


INVISIBLE = (
    Invisible("wiring.connect(m, fetch.bus", "stuck at ones", "fetch is ready in every cycle", (4,)),
)
BENCHES = benches(__name__, "control", mutated="controller.py", invisible=INVISIBLE, sample=5)
