"""Every cocotb bench of ``tb/``, as one test each."""

import importlib
from pathlib import Path

import pytest

from tb import harness

TB = Path(__file__).resolve().parents[1] / "tb"
MODULES = [importlib.import_module(path.stem) for path in sorted(TB.glob("bench_*.py"))]
BENCHES = [bench for module in MODULES for bench in module.BENCHES]


def test_names_are_unique():
    names = [bench.name for bench in BENCHES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.name)
def test_bench(bench):
    harness.run(bench)
