"""The MATMUL unit with its array, scratchpad and accumulators: sums, order, pace, errors, against numpy loops."""

import itertools

import cocotb

from kiwicha import ChipConfig
from kiwicha.isa import Activity, Unit
from kiwicha.layouts import unit_layout
from kiwicha.timing import READ_LATENCY
from tb import harness
from tb.harness import Bench, bounded, cycles, port
from tb.matmul.environment import MatmulBench, MatmulEnv
from tb.matmul.programs import bad_instructions, instruction, random_instruction, random_scaled


@cocotb.test()
@cocotb.parametrize(p_deny=[(0, 0), (0.5, 0.1), (0.1, 0.5), (0.7, 0.7)], p_valid=[0.05, 1.0])
async def random_programs(dut, p_deny, p_valid):
    world = await MatmulEnv.begin(dut, f"random {p_deny} {p_valid}")
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
    world = await MatmulEnv.begin(dut, f"scaled {p_deny} {p_valid}")
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
    """`number` instructions of `tiles` tiles: a tile of M vectors every max(M, rows) cycles, from the first on,
    and the next instruction at most one cycle later.
    """
    number, tiles = instructions
    world = await MatmulEnv.begin(dut, "pace")
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
        check_gaps(swaps, tiles, max(m, config.rows))
    assert config.rows < rest or Activity.PORT not in world.activities


@cocotb.test()
async def scaled_tiles_follow_without_a_bubble(dut):
    """A block's last tile loads one line more, and each line of A's scales takes no cycle from another bank."""
    world = await MatmulEnv.begin(dut, "scaled pace")
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
        check_gaps(swaps, tiles, max(m, world.rest))


def check_gaps(swaps, tiles, cycles):
    """From a tile to the next it must be `cycles`, and from an instruction's last to another's first at most one
    more."""
    gaps = [after - now for now, after in itertools.pairwise(swaps)]
    for i, gap in enumerate(gaps, start=1):
        assert gap == cycles or (gap == cycles + 1 and i % tiles == 0), f"{cycles} cycles expected: {gaps}"


@cocotb.test()
async def sums_to_one_line_rest(dut):
    """Vectors to n lines in turn come as fast as the lines rest."""
    world = await MatmulEnv.begin(dut, "rest")
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
    world = await MatmulEnv.begin(dut, "latency")
    before = {name: len(log) for name, log in world.log.items()}
    assert world.send(instruction(world.config))
    while world.driver.accepted < 2:
        await cycles(dut, 1)
    accepted = world.now
    await world.finish()
    rows = [cycle for cycle, _ in world.log["w"][before["w"]:]]
    assert rows == [accepted + 2 + i for i in range(world.config.rows)]
    assert world.log["a"][before["a"]][0] == rows[-1] + 1
    whole = harness.current().params["latency"]
    assert world.log["acc"][before["acc"]] == rows[-1] + 1 + whole
    assert world.log["retire"][before["retire"]] == rows[-1] + 1 + whole + world.settle


@cocotb.test()
async def a_retired_sum_can_be_read_at_once(dut):
    world = await MatmulEnv.begin(dut, "read")
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
        assert seen[READ_LATENCY] == int.from_bytes(world.model.sums[line].astype("<i4").tobytes(), "little")
        await world.finish()


@cocotb.test()
async def activities(dut):
    """What the counters will count: each state in its place, and nothing else."""
    world = await MatmulEnv.begin(dut, "activity")
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


@cocotb.test()
@cocotb.parametrize(p_deny=[0, 0.4])
async def errors_then_abort_then_work(dut, p_deny):
    world = await MatmulEnv.begin(dut, f"errors {p_deny}")
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
        assert [line for _, line in world.log["a"]] == world.model.expected["a"]
        assert len(world.log["retire"]) <= len(world.model.ends)
        await world.abort()
        assert world.send(random_instruction(world.config, world.rng, most=12))
        await world.finish()
        world.forget()


@cocotb.test()
@cocotb.parametrize(p_deny=[0, 0.5])
async def abort_at_any_time(dut, p_deny):
    world = await MatmulEnv.begin(dut, f"abort {p_deny}")
    for _ in range(30):
        world.p_deny = dict.fromkeys(world.ports, p_deny)
        for _ in range(world.rng.randrange(4)):
            world.send(random_instruction(world.config, world.rng))
        await cycles(dut, world.rng.randrange(60))
        await world.abort()
        for _ in range(2):
            assert world.send(random_instruction(world.config, world.rng, most=12))
        await world.finish()
        world.forget()


COMMON = ("random_programs", "tiles_follow_without_a_bubble", "sums_to_one_line_rest", "latency",
          "a_retired_sum_can_be_read_at_once", "activities", "errors_then_abort_then_work", "abort_at_any_time")


def matmul_bench(name, rows, columns, lines=64, **parameters):
    config = ChipConfig(name=name, rows=rows, columns=columns, bus_width=64, vector_lanes=2, bank_lines=64,
                        accumulator_lines=lines, **parameters)
    scaled = config.block_scaled
    return Bench(module=__name__, name=f"matmul_{name}", build=lambda: MatmulBench(config),
                 testcase=(*COMMON, "random_scaled_programs", "scaled_tiles_follow_without_a_bubble") if scaled
                 else COMMON,
                 params={"config": config,
                         "latency": rows + columns + 3 + READ_LATENCY + config.has_float_formats})


BENCHES = [
    matmul_bench("square", 4, 4),
    matmul_bench("eight", 8, 8, scratchpad_banks=2),
    matmul_bench("odd", 3, 5),
    matmul_bench("scaled", 4, 6, formats=("int8", "int4", "e4m3", "e3m2", "e2m3", "e2m1"), lines=256),
    matmul_bench("scaled_narrow", 8, 4, formats=("int8", "e2m1"), lines=256),
    matmul_bench("scaled_int8", 4, 6, lines=256, block_scales=True),
]
