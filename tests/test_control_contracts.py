"""What control units and instruction units promise each other by declarations alone, against a table in literals.

Their modules hold no logic, so that no simulation is theirs; the planted bugs are other numbers and directions.
"""

import ast
import inspect
import types

import pytest
from amaranth.hdl import Shape
from amaranth.lib.wiring import In, Out

from kiwicha.config import ChipConfig
from kiwicha.control import probe, unit
from kiwicha.isa import Unit


def members(signature):
    """Direction, width or stream, and dimensions of each member."""
    def size(member):
        if member.is_signature:
            return "stream", Shape.cast(member.signature.members["payload"].shape).width
        return Shape.cast(member.shape).width

    return {name: (member.flow, size(member), member.dimensions) for name, member in signature.members.items()}


def fields(layout):
    return {name: (field.offset, field.width) for name, field in layout}


def check_unit(module):
    """The port of an instruction unit, its error, the memory window, and how long an abort takes."""
    assert module.SETTLE == 5
    assert fields(module.ErrorReport.as_shape()) == {"valid": (0, 1), "code": (1, 4), "index": (5, 24),
                                                     "address": (29, 64)}
    config = ChipConfig.preset("tiny")
    assert fields(module.Window(config)) == {"first": (0, 20), "last": (20, 20)}
    assert members(module.UnitPort(Unit.STORE)) == {
        "i": (In, ("stream", STORE_BITS), ()), "retire": (Out, 1, ()), "error": (Out, 93, ()),
        "abort": (In, 1, ()), "quiet": (Out, 1, ()), "activity": (Out, 3, ()), "progress": (Out, 1, ())}


def check_probe(module):
    """What a trace's reader finds where (kiwicha_host.trace)."""
    assert fields(module.UNIT_PROBE) == {"index": (0, 24), "activity": (24, 3), "accept": (27, 1),
                                         "retire": (28, 1)}
    assert module.UNIT_PROBE.size == 32
    assert members(module.Probe()) == {"counted": (Out, 1, ()), "units": (Out, 32, (5,))}


#: The fields of STORE but the common ones, and the index.
STORE_BITS = 8 + 64 + 24 + 2 * 16 + 2 * 32 + 4 * 16 + (1 + 16 + 8 + 2 * 32) + 24


class _Mutant(ast.NodeTransformer):
    """Makes the change number `chosen`, and counts what there is to change."""

    def __init__(self, chosen):
        self.chosen, self.seen = chosen, 0

    def _next(self):
        self.seen += 1
        return self.seen - 1 == self.chosen

    def visit_Constant(self, node):
        if isinstance(node.value, int):
            for changed in (node.value + 1, node.value - 1, 2 * node.value + 3):
                if changed >= 0 and self._next():
                    return ast.copy_location(ast.Constant(changed), node)
        return node

    def visit_Name(self, node):
        other = {"In": "Out", "Out": "In"}.get(node.id)
        if other and self._next():
            return ast.copy_location(ast.Name(other, node.ctx), node)
        return node


def changed(module, number):
    """The module with change `number` made, and how many changes there are."""
    tree = ast.parse(inspect.getsource(module))
    change = _Mutant(number)
    tree = change.visit(tree)
    copy = types.ModuleType(module.__name__)
    copy.__dict__.update(__package__=module.__package__, In=In, Out=Out)
    exec(compile(tree, module.__file__, "exec"), copy.__dict__)
    return copy, change.seen


def is_seen(module, check, number):
    try:
        check(changed(module, number)[0])
    except (AssertionError, TypeError, ValueError):     # a layout that does not fit is refused by its constructor
        return True
    return False


@pytest.mark.parametrize(("module", "check"), [(unit, check_unit), (probe, check_probe)])
def test_declarations(module, check):
    """The table holds, and with any of at least twenty changes it does not."""
    copy, count = changed(module, None)
    check(copy)
    assert count >= 20
    assert [number for number in range(count) if not is_seen(module, check, number)] == []
