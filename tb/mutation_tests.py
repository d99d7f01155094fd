"""Inside the simulator: the tests of a component's bench again, for each planted bug of a list.

:func:`mutation.survivors` calls it; a bug is seen if one of the tests fails, or takes twice as long as without it.
"""

import importlib
import json
import os
from pathlib import Path

import cocotb
from cocotb._decorators import Test, TestGenerator
from cocotb.utils import get_sim_time

from tb.drivers import MUTANT, PERIOD_NS, bounded, current, port

_MODULE = importlib.import_module(os.environ["KIWICHA_MUTATED"])
BENCHES = _MODULE.BENCHES
#: Per mutant, how many of the tests it has passed.
_passed = {}
#: Cycles that each of the tests takes without a bug.
_cycles = []


def _again(test, number, mutant):
    """`test`, the one with this number, on a mutant that has passed all tests before it."""
    async def run(dut):
        if _passed.get(mutant, 0) == number:
            port(dut, MUTANT).value = mutant
            begin = get_sim_time("ns")
            once = test.func(dut, **test.kwargs)
            await (bounded(once, 2 * _cycles[number] + 100) if mutant else once)
            _cycles.append(int(get_sim_time("ns") - begin) // PERIOD_NS)
            _passed[mutant] = number + 1

    return Test(func=run, args=(), kwargs={}, name=f"{test.name} with {mutant}", module=__name__, doc=None,
                timeout=None, expect_fail=False, expect_error=(), skip=False, stage=0)


def _tests():
    chosen = current().testcase
    return [test for item in vars(_MODULE).values() if isinstance(item, TestGenerator)
            and (not chosen or item.name in chosen) for test in item.generate_tests()]


@cocotb.test(stage=1)
async def report(dut):
    """Write down who has passed all of them."""
    alive = [mutant for mutant, passed in _passed.items() if passed == len(TESTS)]
    Path(os.environ["KIWICHA_ALIVE"]).write_text(json.dumps(alive), encoding="utf-8")


TESTS = _tests()
for _mutant in (0, *map(int, filter(None, os.environ["KIWICHA_MUTANTS"].split(",")))):
    for _number, _test in enumerate(TESTS):
        globals()[f"test_{_mutant}_{_number}"] = _again(_test, _number, _mutant)
