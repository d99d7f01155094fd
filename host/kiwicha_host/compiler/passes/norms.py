"""Root mean square normalization as exporters write it, in single operators."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..ir.graph import Op
from .codes import Work, read

__all__ = ["RmsNorm", "rms_norm_of"]


@dataclass(frozen=True)
class RmsNorm:
    """The numbers `source` over the root of the mean of their squares plus `epsilon`, along `axis`, the last;
    times the constant `gain`, if that has a name. `ops` compute it, in order.
    """
    source: str
    epsilon: float
    axis: int
    ops: tuple[Op, ...]
    gain: str = ""


def rms_norm_of(work: Work, name: str) -> RmsNorm | None:
    """What makes the tensor `name`, if it is such a normalization."""
    for top, gain, inner in _operands(work, name, "Mul"):
        norm = _without_gain(work, inner) if _is_constant(work, gain) else None
        if norm is not None:
            return replace(norm, ops=(*norm.ops, top), gain=gain)
    return _without_gain(work, name)


def _without_gain(work: Work, name: str) -> RmsNorm | None:
    """``x / root`` or ``x * (1 / root)``."""
    for top, source, root in _operands(work, name, "Div"):
        return _of_root(work, source, root, (top,))
    for top, source, inverse in _operands(work, name, "Mul"):
        op = work.maker(inverse)
        if op is not None and (op.kind == "Reciprocal" or (op.kind == "Div" and work.number(op.inputs[0]) == 1)):
            norm = _of_root(work, source, op.inputs[-1], (op, top))
            if norm is not None:
                return norm
    return None


def _of_root(work: Work, source: str, name: str, behind: tuple[Op, ...]) -> RmsNorm | None:
    """That of `source`, if `name` is the root of the mean of its squares plus a number."""
    root = work.maker(name)
    if root is None or not (root.kind == "Sqrt" or (root.kind == "Pow" and work.number(root.inputs[1]) == 0.5)):
        return None
    for add, given, mean in _operands(work, root.inputs[0], "Add"):
        average, epsilon = work.maker(mean), work.number(given)
        axis = None if average is None else _last_axis(work, average)
        if epsilon is None or average is None or axis is None:
            continue
        square = work.maker(average.inputs[0])
        if square is not None and _squares(work, square) and _same(work, square.inputs[0], source):
            return RmsNorm(source, float(epsilon), axis, (square, average, add, root, *behind))
    return None


def _operands(work: Work, name: str, kind: str) -> Iterator[tuple[Op, str, str]]:
    """The operator that makes `name`, if it is of that kind, and its operands; in both orders, if that is one."""
    op = work.maker(name)
    if op is not None and op.kind == kind:
        first, second = op.inputs
        yield op, first, second
        if kind != "Div":
            yield op, second, first


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
    """Whether both are the same numbers, or numbers of the same codes."""
    makers = [work.maker(name) for name in (first, second)]
    codes = [read(op) if op is not None and op.kind == "DequantizeLinear" else None for op in makers]
    return first == second or (codes[0] is not None and codes[0] == codes[1])


def _is_constant(work: Work, name: str) -> bool:
    maker = work.maker(name)
    if maker is not None and maker.kind == "DequantizeLinear":
        name = maker.inputs[0]
    return work.array(name) is not None
