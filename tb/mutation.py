"""Planted bugs: one build of a component that holds hundreds of them, any one chosen while it runs.

:class:`Mutated` is a component with one more input, ``mutant``: 0 leaves it as it is, and any other number plants
one bug. The bugs are those that a typing error makes: another operator or operand, a condition that is inverted
or always or never true, branches swapped, a signal stuck at zeros or ones, an assignment forgotten, a number off
by one, a wide value looked at in its lowest bit only.

:func:`survivors` runs a component's own bench on such bugs and returns those that no test saw. ``make mutants``
(``python -m tb.mutation``) does so for every bug of every component and fails if one survives that the bench does
not list as invisible, with the reason why nothing can see it; ``make test`` takes a sample.
"""

import dataclasses
import json
import linecache
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

from amaranth.hdl import Cat, Const, Fragment, Signal
from amaranth.hdl._ast import Assign, Concat, Operator, Part, Switch, SwitchValue
from amaranth.hdl._xfrm import FragmentTransformer, StatementTransformer, ValueTransformer
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from tb import harness
from tb.drivers import MUTANT
from tb.harness import Bench

__all__ = ["Invisible", "Mutant", "Mutated", "mutants", "mutated_bench", "sample", "survivors"]

_WIDTH = 16
_OTHER = {"&": "|", "|": "&", "^": "|", "+": "-", "-": "+", "<": "<=", "<=": "<", ">": ">=", ">=": ">",
          "==": "!=", "!=": "==", "r|": "r&", "r&": "r|", "<<": ">>", ">>": "<<"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Attributes
    ----------
    number : what to put on ``mutant``
    file, line : where the source is that it changes
    source : that line
    change : what is wrong
    nth : which of several of the same source and change, from 0
    """
    number: int
    file: str
    line: int
    source: str
    change: str
    nth: int

    def __str__(self):
        return f"{self.number}: {self.file}:{self.line}: {self.change} ({self.nth}), in: {self.source}"


@dataclasses.dataclass(frozen=True)
class Invisible:
    """Bugs that change nothing that a bench could see, and why.

    Attributes
    ----------
    source : the line, or a part of it
    change : of the bug
    reason : in a sentence
    nth : which of those with this source and change; all of them if empty
    """
    source: str
    change: str
    reason: str
    nth: tuple[int, ...] = ()

    def covers(self, item):
        return self.source in item.source and self.change == item.change and \
            (not self.nth or item.nth in self.nth)


class _Mutator(FragmentTransformer, ValueTransformer, StatementTransformer):
    """Rewrites a fragment; what the source file named *file* made gets its bugs."""

    def __init__(self, file, select, within):
        self._file, self._select, self._within = file, select, within
        self._seen = Counter()
        self._done = {}
        self._domain = None
        self._wires = []
        self.mutants = []

    # What is the same object in the source is mutated once, wherever it is used.
    def on_value(self, value):
        if id(value) not in self._done:
            self._done[id(value)] = super().on_value(value), value
        return self._done[id(value)][0]

    def map_statements(self, fragment, new_fragment):
        for self._domain, statements in fragment.statements.items():
            new_fragment.add_statements(self._domain, map(self.on_statement, statements))
        new_fragment.add_statements("comb", self._wires)
        self._wires = []

    def _is_mine(self, item):
        path, line = item.src_loc
        return Path(path).name == self._file and (self._within is None or line in self._within)

    def _plant(self, item, change):
        """Note a bug; the number that plants it."""
        path, line = item.src_loc
        source = linecache.getline(path, line).strip()
        number = len(self.mutants) + 1
        nth = self._seen[source, change]
        self._seen[source, change] += 1
        self.mutants.append(Mutant(number, Path(path).name, line, source, change, nth))
        return number

    def _choose(self, item, right, wrongs):
        """`right`, or one of `wrongs` (change, value) if it is selected."""
        if not self._is_mine(item):
            return right
        cases = [(self._plant(item, change), value) for change, value in wrongs]
        if not cases:
            return right
        # A wire for each choice: written out in full, choices within choices would grow without end.
        chosen = Signal(right.shape(), name=f"with_{cases[0][0]}")
        self._wires.append(Switch(self._select, [
            *((number, [chosen.eq(value)], None) for number, value in cases), (None, [chosen.eq(right)], None)]))
        return chosen

    def on_Operator(self, value):
        right = super().on_Operator(value)
        name, operands, wrongs = right.operator, right.operands, []
        if name in _OTHER and (name != "-" or len(operands) == 2):
            wrongs.append((f"{name} -> {_OTHER[name]}", Operator(_OTHER[name], operands)))
        if name in ("~", "-") and len(operands) == 1:
            wrongs.append((f"{name} left out", operands[0]))
        if name in ("&", "|", "^", "+", "-") and len(operands) == 2:
            wrongs += [(f"{name}: {side} operand alone", operand)
                       for side, operand in zip(("first", "second"), operands, strict=False)]
        if name in ("r|", "b", "==", "!=") and len(operands[0]) > 1:
            wrongs.append((f"{name}: lowest bit alone", Operator(name, [item[:1] for item in operands])))
        if name in ("+", "-", "<", "<=", ">", ">=", "==", "!=") and len(operands) == 2:
            left, number = operands
            if isinstance(number, Const):
                wrongs.append((f"{name} {number.value} -> {number.value ^ 1}",
                               Operator(name, [left, Const(number.value ^ 1, max(1, len(number)))])))
        return self._choose(value, right, wrongs)

    def on_SwitchValue(self, value):
        right = super().on_SwitchValue(value)
        wrongs = []
        if len(right.cases) == 2 and len(right.test) == 1:
            (_, first), (_, second) = right.cases
            wrongs = [("Mux swapped", SwitchValue(~right.test, right.cases)),
                      ("Mux: first alone", first), ("Mux: second alone", second)]
        elif len(right.cases) > 2:
            wrongs = [("choice of the neighbour", SwitchValue(right.test ^ 1, right.cases))]
        return self._choose(value, right, wrongs)

    def on_Part(self, value):
        right = super().on_Part(value)
        return self._choose(value, right, [("part: the neighbour",
                                            Part(right.value, right.offset ^ 1, right.width, right.stride))])

    def on_Switch(self, stmt):
        test = self.on_value(stmt.test)
        if isinstance(test, Concat):        # m.If, with one bit for each condition
            test = Cat(self._choose(stmt, bit, [(f"condition {number} inverted", ~bit),
                                                (f"condition {number} never", Const(0, 1)),
                                                (f"condition {number} always", Const(1, 1))])
                       for number, bit in enumerate(test.parts))
        elif len(test):
            test = self._choose(stmt, test, [("the neighbouring case", test ^ 1)])
        return Switch(test, [(patterns, self.on_statement(body), where) for patterns, body, where in stmt.cases])

    def on_Assign(self, stmt):
        right = self.on_value(stmt.rhs)
        size = len(stmt.lhs)
        wrongs = [(text, value) for text, value in (("stuck at zeros", Const(0, size)),
                                                    ("stuck at ones", Const((1 << size) - 1, size)))
                  if size and not (isinstance(right, Const) and (right.value - value.value) % (1 << size) == 0)]
        if wrongs and self._is_mine(stmt):
            wide = Signal(stmt.lhs.shape())
            self._wires.append(wide.eq(right))
            right = self._choose(stmt, wide, wrongs)
        assign = Assign(stmt.lhs, right)
        if self._domain == "comb" or not self._is_mine(stmt):
            return assign
        return Switch(self._select, [(self._plant(stmt, "assignment left out"), [], None), (None, [assign], None)])


class Mutated(wiring.Component):
    """`component` with an input ``mutant`` that plants a bug of the source file *file*.

    Parameters
    ----------
    component : wiring.Component
    file : str
        Name of the source file whose logic gets the bugs, in `component` and whatever is in it.
    within : range, optional
        Only these lines of it.
    """

    def __init__(self, component, file, within=None):
        self._component, self._file, self._within = component, file, within
        super().__init__({**component.signature.members, MUTANT: In(_WIDTH)})
        for name in component.signature.members:
            setattr(self, name, getattr(component, name))

    def elaborate(self, platform):
        mutator = _Mutator(self._file, getattr(self, MUTANT), self._within)
        fragment = mutator(Fragment.get(self._component, platform))
        self.mutants = mutator.mutants
        if not 20 <= len(self.mutants) < 1 << _WIDTH:
            raise ValueError(f"{len(self.mutants)} mutants of {self._file}: must be 20 to {(1 << _WIDTH) - 1}")
        return fragment


def mutated_bench(name, build, file, *, module, testcase=(), within=None, invisible=(), params=None):
    """The bench of one component, which its bugs are in as well; its tests see it without any.

    `build`, `file` and `within` are as for :class:`Mutated`. `invisible` are :class:`Invisible` bugs.
    """
    return Bench(name=name, module=module, testcase=testcase, build=lambda: Mutated(build(), file, within),
                 params={**(params or {}), "mutated": file, "invisible": tuple(invisible)})


def mutants(bench):
    """All bugs that the design of `bench` holds, but for the invisible ones."""
    design = bench.build()
    Fragment.get(design, None)
    listed = bench.params["invisible"]
    for entry in listed:
        if not any(map(entry.covers, design.mutants)):
            raise ValueError(f"{bench.name}: listed as invisible, but there is no such bug: {entry}")
    return [item for item in design.mutants if not any(entry.covers(item) for entry in listed)]


def sample(bench, count):
    """`count` of the bugs of `bench`, always the same ones."""
    everything = mutants(bench)
    return random.Random(bench.name).sample(everything, min(count, len(everything)))


def survivors(bench, chosen, seed=1):
    """Those of the mutants `chosen` that no test of `bench` fails on.

    Raises
    ------
    harness.BenchError
        If the tests fail without any bug, or do not come to their end.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "alive.json"
        wanted = {"KIWICHA_MUTATED": bench.module, "KIWICHA_ALIVE": str(report),
                  "KIWICHA_MUTANTS": ",".join(str(item.number) for item in chosen)}
        again = dataclasses.replace(bench, module="tb.mutation_tests", testcase=(), timeout_s=3600)
        failure = None
        with mock.patch.dict(os.environ, wanted):
            try:
                harness.run(again, seed)
            except harness.BenchError as error:     # as it should be: bugs make tests fail
                failure = error
        if not report.exists():
            raise failure or harness.BenchError(f"{bench.name}: no report of the mutants")
        alive = set(json.loads(report.read_text(encoding="utf-8")))
    if 0 not in alive:
        raise harness.BenchError(f"{bench.name}, seed {seed}: fails without any planted bug")
    return [item for item in chosen if item.number in alive]


def main(names):
    """Run the whole campaign on the components `names`, or on all; 1 if a bug survives."""
    components = {bench.name: bench for bench in harness.benches() if "mutated" in bench.params}
    if unknown := set(names) - set(components):
        print(f"no such component: {', '.join(sorted(unknown))}; there are {', '.join(components)}",
              file=sys.stderr)
        return 2
    left = 0
    for name in names or components:
        chosen = mutants(components[name])
        alive = survivors(components[name], chosen)
        left += len(alive)
        print(f"{name:12} {len(chosen):5} bugs, {len(chosen) - len(alive):5} seen, {len(alive):3} not; "
              f"{len(components[name].params['invisible'])} kinds listed as invisible", flush=True)
        for item in alive:
            print(f"  {item}", flush=True)
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
