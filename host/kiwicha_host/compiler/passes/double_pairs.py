"""Two pairs of QuantizeLinear and DequantizeLinear in a row become one pair.

ONNX Runtime does so before it does anything else: numbers that are quantized in one way and then in another are
quantized once, to codes that reach as far as both. They round to other numbers than with two pairs; so whoever
wants its results has to do the same. Nor does it quantize the same numbers twice by the same constants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import copysign, floor

import numpy as np

from ..ir.graph import Graph, Op
from .codes import Work, is_sound, read

__all__ = ["double_pairs"]

#: Scales that differ by less are equal, as ONNX Runtime has it.
_EQUAL = 1e-20
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def double_pairs(graph: Graph) -> Graph:
    """The graph with one pair for each two in a row of one type, if nothing else needs what is between them.

    Of several equal QuantizeLinear one is left; what only passes on, Identity, does not stand between pairs.
    """
    return _without_copies(_reduced(graph))


@dataclass(frozen=True)
class _Steps:
    """Scale, zero point and type of codes."""
    scale: np.float32
    zero: int
    dtype: np.dtype

    def ends(self) -> tuple[np.float32, np.float32]:
        """The lowest and the highest number that has a code."""
        bounds = np.iinfo(self.dtype)
        low, high = (np.float32(code - self.zero) * self.scale for code in (bounds.min, bounds.max))
        return low, high

    def common(self, other: "_Steps") -> "_Steps | None":
        """Of codes for the numbers that both reach, in float32; None for two types, or if that is zero alone."""
        if self.dtype != other.dtype:
            return None
        if self.zero == other.zero and abs(self.scale - other.scale) < _EQUAL:
            return self
        (low, high), bounds = zip(self.ends(), other.ends(), strict=True), np.iinfo(self.dtype)
        least, most = max(low), min(high)
        scale = (most - least) / np.float32(bounds.max - bounds.min)
        if not scale > 0:
            return None
        place = float(np.float32(bounds.min) - least / scale)
        return _Steps(scale, int(copysign(floor(abs(place) + 0.5), place)), self.dtype)


def _reduced(graph: Graph) -> Graph:
    """The graph with one pair in the place of each two, from the first on."""
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.reads:
            readers.setdefault(name, []).append(op)
    work, changed, gone = Work(graph), dict[str, Op](), set[str]()
    for op in graph.ops:
        row = [] if op.name in gone else _row(op, graph, readers)
        common = _common([_steps(item, graph.constants) for item in row])
        if common is None:
            continue
        names = [work.constant(f"{op.name}:{what}", np.array(value)) for what, value in (
            ("scale", common.scale), ("zero point", common.dtype.type(common.zero)))]
        gone |= {item.name for item in row[1:3]}
        changed[op.name] = replace(op, inputs=(op.inputs[0], *names))
        changed |= {item.name: replace(item, inputs=(op.outputs[0], *names)) for item in row[3:]}
    ops = tuple(changed.get(op.name, op) for op in graph.ops if op.name not in gone)
    return graph.with_ops(ops, work.constants) if changed else graph


def _row(first: Op, graph: Graph, readers: Mapping[str, list[Op]]) -> list[Op]:
    """Two pairs, the last DequantizeLinear as often as it is there; [] if something else needs what is between."""
    row = [first]
    for number, kind in enumerate((*_PAIR, "QuantizeLinear")):
        op = row[-1]
        following = readers.get(op.outputs[0], [])
        most = 1 if number < 2 else len(following)
        if op.kind != kind or op.outputs[0] in graph.outputs or not 1 <= len(following) <= most:
            return []
        row += following
    return row if {op.kind for op in row[3:]} == {"DequantizeLinear"} else []


def _common(steps: Sequence[_Steps | None]) -> _Steps | None:
    """Of the one pair that stands for two; `steps` are those of their operators."""
    if not steps or None in steps or steps[0] != steps[1] or {*steps[2:]} != {steps[2]}:
        return None
    first, second = steps[0], steps[2]
    assert first is not None and second is not None
    return first.common(second)


def _steps(op: Op, known: Mapping[str, np.ndarray]) -> _Steps | None:
    """Of half of a pair; None if it is none, or not for all elements alike, or a zero point is missing."""
    codes = read(op) if op.kind in _PAIR else None
    scale, zero = (known.get(name) for name in (codes.scale, codes.zero)) if codes else (None, None)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    sound = is_sound(scale.reshape(()), zero.reshape(()))
    return _Steps(np.float32(scale.item()), int(zero.item()), zero.dtype) if sound else None


def _without_copies(graph: Graph) -> Graph:
    """The graph without Identity, and without QuantizeLinear that are there already."""
    fixed = graph.fixed
    same, made, ops = dict[str, str](), dict[tuple, str](), list[Op]()
    for op in graph.ops:
        op = op.renamed(same)
        original = op.outputs[0]
        if op.kind == "Identity":
            original = op.inputs[0]
        elif op.kind == "QuantizeLinear":
            original = made.setdefault((op.inputs, repr(sorted(op.attributes.items()))), original)
        if original != op.outputs[0] and op.outputs[0] not in fixed:
            same[op.outputs[0]] = original
        else:
            ops.append(op)
    return graph.with_ops(tuple(ops)) if same else graph
