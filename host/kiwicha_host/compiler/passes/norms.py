"""Layer and root mean square normalization as exporters write them, in single operators."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..ir.graph import Op
from .codes import Work, read

__all__ = ["Norm", "norm_of"]


@dataclass(frozen=True)
class Norm:
    """The numbers `source`, less their mean if it `is_centered`, over the root of the mean of their squares plus
    `epsilon`, along `axis`, the last; times and plus the constants `gain` and `bias`, if these have names. `ops`
    compute it, in order.
    """
    source: str
    epsilon: float
    axis: int
    ops: tuple[Op, ...] = ()
    gain: str = ""
    bias: str = ""
    is_centered: bool = False


def norm_of(work: Work, name: str) -> Norm | None:
    """What makes the tensor `name`, if it is such a normalization; without a mean there is no bias."""
    norm = _without_bias(work, name)
    for bias, inner in _operands(work, name, "Add"):
        scaled = _without_bias(work, inner) if _is_constant(work, bias) else None
        if scaled is not None and scaled.is_centered:
            norm = replace(scaled, bias=bias)
    return None if norm is None else replace(norm, ops=tuple(_between(work, norm.source, name, {}).values()))


def _without_bias(work: Work, name: str) -> Norm | None:
    for gain, inner in _operands(work, name, "Mul"):
        norm = _without_gain(work, inner) if _is_constant(work, gain) else None
        if norm is not None:
            return replace(norm, gain=gain)
    return _without_gain(work, name)


def _without_gain(work: Work, name: str) -> Norm | None:
    """As :func:`_of_squares` has it, of numbers less their mean, or else of numbers."""
    norm = _of_squares(work, name)
    for source, mean in _operands(work, norm.source, "Sub") if norm is not None else ():
        average = work.maker(mean)
        if norm is not None and average is not None and _last_axis(work, average) == norm.axis and _same(
                work, average.inputs[0], source):
            return replace(norm, source=source, is_centered=True)
    return norm


def _of_squares(work: Work, name: str) -> Norm | None:
    """``x / root`` or ``x * (1 / root)``."""
    for source, root in _operands(work, name, "Div"):
        return _of_root(work, source, root)
    for source, inverse in _operands(work, name, "Mul"):
        op = work.maker(inverse)
        if op is not None and (op.kind == "Reciprocal" or (op.kind == "Div" and work.number(op.inputs[0]) == 1)):
            return _of_root(work, source, op.inputs[-1])
    return None


def _of_root(work: Work, source: str, name: str) -> Norm | None:
    """That of `source`, if `name` is the root of the mean of its squares plus a number."""
    root = work.maker(name)
    if root is None or not (root.kind == "Sqrt" or (root.kind == "Pow" and work.number(root.inputs[1]) == 0.5)):
        return None
    for given, mean in _operands(work, root.inputs[0], "Add"):
        average, epsilon = work.maker(mean), work.number(given)
        axis = None if average is None else _last_axis(work, average)
        square = None if average is None else work.maker(average.inputs[0])
        if epsilon is not None and axis is not None and square is not None and _squares(work, square) and _same(
                work, square.inputs[0], source):
            return Norm(source, float(epsilon), axis)
    return None


def _between(work: Work, source: str, name: str, found: dict[str, Op]) -> dict[str, Op]:
    """What makes `name` of the numbers `source` and constants, in order, by names."""
    op = work.maker(name)
    if op is not None and name != source and op.kind != "DequantizeLinear" and op.name not in found:
        for item in op.reads:
            _between(work, source, item, found)
        found[op.name] = op
    return found


def _operands(work: Work, name: str, kind: str) -> Iterator[tuple[str, str]]:
    """The operands of what makes `name`, if it is of that kind; in both orders, if that is one."""
    op = work.maker(name)
    if op is not None and op.kind == kind:
        first, second = op.inputs
        yield first, second
        if kind in ("Add", "Mul"):
            yield second, first


def _last_axis(work: Work, op: Op) -> int | None:
    """How an average along the last axis, which stays, calls that; None of all else."""
    axes = op.attributes.get("axes")
    if len(op.inputs) > 1 and op.inputs[1]:
        axes = work.array(op.inputs[1])
    shape = work.shape(op.inputs[0])
    last = (-1,) if shape is None else (-1, len(shape) - 1)
    if op.kind != "ReduceMean" or axes is None or len(axes) != 1 or not op.attributes.get("keepdims", 1):
        return None
    return int(axes[0]) if int(axes[0]) in last else None


def _squares(work: Work, op: Op) -> bool:
    return (op.kind == "Pow" and work.number(op.inputs[1]) == 2) or (op.kind == "Mul" and _same(work, *op.inputs))


def _same(work: Work, first: str, second: str) -> bool:
    """Whether both are the same numbers: of the same codes, or less the same means, of which each may be there
    twice."""
    one, other = work.maker(first), work.maker(second)
    if first == second or one is None or other is None or one.kind != other.kind:
        return first == second
    if one.kind == "DequantizeLinear":
        return read(one) is not None and read(one) == read(other)
    if one.kind == "ReduceMean":
        axes = _last_axis(work, one), _last_axis(work, other)
        return axes[0] is not None and axes[0] == axes[1] and _same(work, one.inputs[0], other.inputs[0])
    return one.kind == "Sub" and all(_same(work, *pair) for pair in zip(one.inputs, other.inputs, strict=True))


def _is_constant(work: Work, name: str) -> bool:
    maker = work.maker(name)
    if maker is not None and maker.kind == "DequantizeLinear":
        name = maker.inputs[0]
    return work.array(name) is not None
