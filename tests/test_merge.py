"""Two halves' instructions in one order: none before what it needs, and each hides what the other waits for."""

import random

import pytest

from kiwicha import ChipConfig
from kiwicha.isa import Unit
from kiwicha_host.compiler import CompileError
from kiwicha_host.language.decoder.emitter import Emitter, Instruction
from kiwicha_host.language.decoder.layers import Layers, Shared
from kiwicha_host.language.decoder.merge import merge
from kiwicha_host.language.decoder.script import Script

UNITS = (Unit.LOAD, Unit.MATMUL, Unit.VECTOR, Unit.STORE)


def instruction(unit, reads=(), writes=(), cycles=1000, name=""):
    return Instruction(unit, {}, list(reads), list(writes), cycles, part=name)


def random_half(rng, shared):
    """Buffers of its own, and some that both halves use."""
    own = [(id(rng), len(shared), number) for number in range(8)]
    items = [instruction(rng.choice(UNITS), rng.sample(own + shared, rng.randint(0, 3)),
                         rng.sample(own + shared, rng.randint(0, 2)), rng.randint(0, 2000))
             for _ in range(rng.randint(1, 40))]
    return [instruction(Unit.MATMUL), *items]


def conflict(a, b):
    return set(a.writes) & {*b.reads, *b.writes} or set(a.reads) & set(b.writes)


@pytest.mark.parametrize("seed", range(40))
def test_as_right_as_one_half_after_the_other(seed):
    rng = random.Random(seed)
    shared = [("shared", number) for number in range(rng.randint(0, 4))]
    first, second = random_half(rng, shared), random_half(rng, [*shared, "more"])
    lead = rng.randrange(len(first))
    merged = merge(first, second, lead)
    at = {id(item): place for place, item in enumerate(merged)}
    assert len(merged) == len(at) == len(first) + len(second)
    before = [*first, *second]
    for later, item in enumerate(before):
        for earlier in before[:later]:
            if conflict(earlier, item):
                assert at[id(earlier)] < at[id(item)]
    for half in (first, second):
        for unit in UNITS:
            places = [at[id(item)] for item in half if item.unit == unit]
            assert places == sorted(places)
    assert at[id(first[lead])] < at[id(next(item for item in second if item.unit == Unit.MATMUL))]


def half(name, rounds):
    """Products and passes, each of the result of the one before."""
    items = []
    for number in range(rounds):
        items += [instruction(Unit.MATMUL, [(name, number - 1)], [(name, "sums")], name=f"{name}{number}m"),
                  instruction(Unit.VECTOR, [(name, "sums")], [(name, number)], name=f"{name}{number}v")]
    return items


def test_each_hides_what_the_other_waits_for():
    """Where a half has a pass, the other has a product."""
    names = [item.part for item in merge(half("a", 4), half("b", 4), 0)]
    assert names[:3] == ["a0m", "a0v", "b0m"]
    for number in range(3):
        assert names.index(f"b{number}m") < names.index(f"a{number + 1}m") < names.index(f"b{number + 1}m")


def test_what_is_ready_does_not_stand_behind_what_is_not():
    """A product that waits for a long pass is not fetched before those of the other half that can run."""
    first = [instruction(Unit.MATMUL, name="first"), instruction(Unit.VECTOR, (), ["long"], 50000, "pass"),
             instruction(Unit.LOAD, (), ["short"], 100, "load"),
             instruction(Unit.MATMUL, ["long", "short"], (), 1000, "waits")]
    second = [instruction(Unit.MATMUL, (), [("sums", number)], 1000, f"b{number}") for number in range(20)]
    names = [item.part for item in merge(first, second, 0)]
    assert names == ["first", "pass", "load", *(f"b{number}" for number in range(20)), "waits"]


def test_lines_for_sums():
    """A step alone has the start of each half of the accumulators in turn, a part of one a ring in each half."""
    config = ChipConfig.preset("wide")
    half = config.accumulator_lines // 2
    alone, second = (Layers(config, Shared(0, 0, 0, 64, 0), Emitter(config, 0), Script(), share)
                     for share in ((0, 1), (1, 2)))
    assert [alone.accumulators(9) for _ in range(4)] == [half, 0, half, 0]
    size = second.most_accumulators
    assert size == half // 2
    assert [second.accumulators(9) for _ in range(4)] == [half + size, size, half + size + 16, size + 16]
    assert [second.accumulators(size) for _ in range(2)] == [half + size, size]
    with pytest.raises(CompileError, match=f"need {size + 1} accumulator lines at once; there are {size}"):
        second.accumulators(size + 1)
