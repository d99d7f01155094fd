"""Every cocotb bench of ``tb/``, as one test each, and a sample of the planted bugs that they must see."""

import pytest

from tb import harness, mutation

BENCHES = harness.benches()
MUTATED = [bench for bench in BENCHES if "mutated" in bench.params]
#: Planted bugs per component and run, unless its bench says how many; ``make mutants`` takes them all.
SAMPLE = 20


def test_names_are_unique():
    names = [bench.name for bench in BENCHES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.name)
def test_bench(bench):
    harness.run(bench)


@pytest.mark.parametrize("bench", MUTATED, ids=lambda bench: bench.name)
def test_planted_bugs_are_seen(bench):
    count = bench.params.get("sample", SAMPLE)
    chosen = mutation.sample(bench, count)
    assert len(chosen) == count
    survivors = mutation.survivors(bench, chosen)
    assert not survivors, "\n".join(map(str, survivors))
