"""Semaphores from reads and writes: no order that the chip may take breaks a dependency or locks up."""

import random

import pytest
from schedules import UNITS, legal_order

from kiwicha.isa import INSTRUCTION_BYTES, Unit
from kiwicha_host.assembler import decode
from kiwicha_host.compiler.errors import CompileError
from kiwicha_host.compiler.program.builder import ProgramBuilder, semaphore

#: They read for an instruction before the one before it has written.
PREFETCHING = (Unit.VECTOR, Unit.LOAD)
Steps = list[tuple[Unit, list[int], list[int]]]


def random_steps(rng: random.Random) -> Steps:
    """Units with what each reads and writes; runs of one unit, so that producers get far ahead."""
    keys, steps = rng.randint(1, 12), []
    while len(steps) < rng.randint(1, 250):
        unit, run = rng.choice(UNITS), rng.choice((1, 1, 2, 5, 40))
        for _ in range(run):
            reads, writes = ([rng.randrange(keys) for _ in range(rng.choice((0, 1, 1, 2)))] for _ in range(2))
            steps.append((unit, reads, list(dict.fromkeys(writes))))
    return steps


def chains(count: int) -> Steps:
    """`count` buffers all filled first and used afterwards, in turn: as many credits as there can be."""
    return ([(Unit.LOAD, [], [i]) for i in range(count)]
            + [(Unit.MATMUL, [i], [count + i]) for i in range(count)]
            + [(Unit.VECTOR, [count + i], [i]) for i in range(count)]
            + [(Unit.STORE, [i], []) for i in range(count)])


def build(steps: Steps) -> bytes:
    builder = ProgramBuilder()
    for unit, reads, writes in steps:
        builder.add(unit, reads=reads, writes=writes)
    return builder.assemble()


def dependencies(steps: Steps) -> set[tuple[int, int]]:
    """Pairs (earlier, later) that touch the same key, at least one of them writing: from the definition."""
    return {(i, j) for j, (_, reads, writes) in enumerate(steps) for i in range(j)
            if set(steps[i][2]) & {*reads, *writes} or set(steps[i][1]) & set(writes)}


def fields_of(program: bytes) -> list[dict]:
    return [decode(program[i:i + INSTRUCTION_BYTES])[1] for i in range(0, len(program), INSTRUCTION_BYTES)]


def check_prefetches(steps: Steps, program: bytes, own: Unit) -> None:
    """Unit `own` reads what it has itself written only after the end of the instruction that wrote it."""
    bit, signallers, waits = 1 << semaphore(own, own), [], 0
    writers: dict[int, int] = {}
    for index, ((unit, reads, writes), fields) in enumerate(zip(steps, fields_of(program), strict=True)):
        if fields["wait"] & bit:
            # Both sides are in order, so the nth wait takes the nth signal, which must come from before.
            waits += 1
            assert waits <= len(signallers)
        if unit is own:
            after = signallers[waits - 1] if waits else -1
            broken = [key for key in reads if writers.get(key, -1) > after]
            assert not broken, f"instruction {index} fetches {broken[0]} before {writers[broken[0]]} has ended"
        writers |= dict.fromkeys(writes, index if unit is own else -1)
        if fields["signal"] & bit:
            signallers.append(index)


def check(steps: Steps, rng: random.Random) -> None:
    program, needed = build(steps), dependencies(steps)
    for unit in PREFETCHING:
        check_prefetches(steps, program, unit)
    for favourite in (None, *UNITS):
        order = legal_order(program, rng, rng.choice((1, 2, 4, 1000)), favourite)
        when = {index: time for time, index in enumerate(order)}
        broken = [(i, j) for i, j in needed if when[i] > when[j]]
        assert not broken, f"instruction {broken[0][1]} ran before {broken[0][0]}"


@pytest.mark.parametrize("seed", range(40))
def test_random_dependencies(seed):
    rng = random.Random(seed)
    check(random_steps(rng), rng)


@pytest.mark.parametrize("count", [1, 14, 15, 16, 17, 31, 100])
def test_far_ahead(count):
    check(chains(count), random.Random(count))


def test_units_far_apart():
    """Each unit's instructions in one block, every one needing its partner in the first."""
    steps: Steps = [(Unit.STORE, [], [i]) for i in range(60)]
    steps += [(unit, [i], [(unit, i)]) for unit in UNITS for i in range(60)]     # type: ignore[list-item]
    check(steps, random.Random(1))


def test_only_what_is_needed():
    """Independent instructions do not wait, and one wait serves all that came before."""
    fields = fields_of(build([(Unit.LOAD, [], [0]), (Unit.LOAD, [], [1]), (Unit.MATMUL, [1], []),
                              (Unit.MATMUL, [0], []), (Unit.STORE, [], [9])]))
    bit = 1 << semaphore(Unit.LOAD, Unit.MATMUL)
    assert [(item["wait"], item["signal"]) for item in fields] == [(0, 0), (0, bit), (bit, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize("own", PREFETCHING)
def test_a_unit_waits_for_itself_before_it_reads_what_it_wrote(own):
    """Not before it writes what it has read or written, and only once."""
    fields = fields_of(build([(own, [], [0]), (own, [], [0, 1]), (own, [2], [1]), (own, [1, 0], [3]),
                              (own, [0], [0])]))
    bit = 1 << semaphore(own, own)
    assert [(item["wait"], item["signal"]) for item in fields] == [(0, 0), (0, 0), (0, bit), (bit, 0), (0, 0)]


def test_other_units_need_not_wait_for_themselves():
    for unit in (Unit.MATMUL, Unit.STORE):
        assert all(not item["wait"] for item in fields_of(build([(unit, [0], [0]), (unit, [0], [0])])))


@pytest.mark.parametrize("own", PREFETCHING)
@pytest.mark.parametrize("count", [1, 15, 16, 40])
def test_far_ahead_of_itself(count, own):
    """As many results as there can be, read in turn afterwards."""
    check([(own, [], [i]) for i in range(count)] + [(own, [i], [-1 - i]) for i in range(count)],
          random.Random(count))


def test_semaphores_are_distinct():
    pairs = [(a, b) for a in UNITS for b in UNITS if a != b or a in PREFETCHING]
    numbers = {semaphore(*pair) for pair in pairs}
    assert len(numbers) == len(pairs) == 14 and max(numbers) < 16


def test_too_long(monkeypatch):
    monkeypatch.setattr("kiwicha_host.compiler.program.builder.INDEX_WIDTH", 3)
    with pytest.raises(CompileError, match="more than 7 instructions; split the job"):
        build([(Unit.LOAD, [], [])] * 8)
