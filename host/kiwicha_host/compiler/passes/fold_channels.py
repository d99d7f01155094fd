"""A factor and an addend for each channel, between DequantizeLinear and QuantizeLinear, are an operator on codes.

So BatchNormalization that follows no convolution, and sums and products with a constant for each channel.
"""

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Codes, Work, is_sound, read
from .remove_dead import remove_dead

__all__ = ["CHANNELWISE", "LIMITS", "fold_channels"]

#: The operator. Its inputs are codes, scale and zero point, the result's scale and zero point, and all constants;
#: ``ops`` are what it stands for, ``axis`` is that of the channels.
CHANNELWISE = "kiwicha.Channelwise"
_LINES = ("Add", "BatchNormalization", "Div", "Identity", "Mul", "Neg", "Sub")
#: What may come behind those, with the same limits for all channels.
LIMITS = ("Clip", "Relu")


def fold_channels(graph: Graph) -> Graph:
    """The graph with :data:`CHANNELWISE` in the place of lines through codes, one for each channel."""
    work = Work(graph)
    ops = tuple((_folded(work, op) if op.kind == "QuantizeLinear" else None) or op for op in graph.ops)
    return with_unique_names(remove_dead(graph.with_ops(ops))) if ops != graph.ops else graph


def _folded(work: Work, quantize: Op) -> Op | None:
    made = read(quantize)
    shape = work.shape(made.name) if made is not None else None
    if made is None or shape is None or not _is_sound(work, made):
        return None
    name, row, ops, axes = made.name, list[Op](), [quantize], set[int]()
    while (op := work.maker(name)) is not None and op.kind != "DequantizeLinear":
        operand = _operand(work, op)
        if operand is None or (op.kind in LIMITS and row and row[-1].kind not in LIMITS):
            return None
        makers = [maker for item in op.inputs if item != operand and (maker := work.maker(item)) is not None]
        axes |= _axes(work, op, operand, len(shape))
        name, row, ops = operand, [*row, op], [*ops, op, *makers]
    source = read(op) if op is not None else None
    if op is None or source is None or not _is_sound(work, source) or len(axes) != 1 or work.shape(name) != shape:
        return None
    return _operator(row[-1].name, source, made, (op, *reversed(ops)), axes.pop())


def _is_sound(work: Work, codes: Codes) -> bool:
    return is_sound(work.scalar(codes.scale), work.scalar(codes.zero))


def _operator(name: str, source: Codes, made: Codes, ops: tuple[Op, ...], axis: int) -> Op:
    ends = source.name, source.scale, source.zero, made.scale, made.zero
    inside = {name for op in ops for name in op.outputs}
    others = dict.fromkeys(name for op in ops for name in op.reads if name not in {*ends, *inside})
    return Op(name, CHANNELWISE, (*ends, *others), ops[-1].outputs, {"ops": ops, "axis": axis})


def _operand(work: Work, op: Op) -> str | None:
    """The one that is computed, if the others are constants and `op` makes lines, or limits, of it."""
    computed = [name for name in op.inputs if name and _constant(work, name) is None]
    if op.kind not in (*_LINES, *LIMITS) or len(computed) != 1 or len(op.outputs) != 1:
        return None
    if op.kind not in ("Add", "Mul", "Sub") and op.inputs[0] != computed[0]:
        return None
    return None if op.attributes.get("training_mode", 0) else computed[0]


def _constant(work: Work, name: str) -> tuple[int, ...] | None:
    """The shape of a float32 constant, or of constant codes that stand for one."""
    maker, array = work.maker(name), work.array(name)
    if maker is None or maker.kind != "DequantizeLinear":
        return array.shape if array is not None and array.dtype == "float32" else None
    codes, scale = (work.array(item) for item in maker.inputs[:2])
    known = all(item in work.constants for item in filter(None, maker.inputs))
    return codes.shape if known and codes is not None and scale is not None and scale.dtype == "float32" else None


def _axes(work: Work, op: Op, operand: str, rank: int) -> set[int]:
    """Along which axes of the operand, of so many, constants differ."""
    if op.kind == "BatchNormalization":
        return {1}
    shapes = [_constant(work, name) or () for name in op.inputs if name and name != operand]
    return {rank - len(shape) + axis for shape in shapes for axis, size in enumerate(shape) if size > 1}
