"""What moves numbers that come from codes, moves the codes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..ir.graph import Op
from .codes import Codes, Work, is_sound, read
from .repeats import REPEAT
from .repeats import on_codes as _repeat

__all__ = ["MOVES", "chooses", "moves_before", "on_codes"]

#: The same on codes as on the numbers that they stand for, which only change places.
_REORDERS = ("DepthToSpace", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
             "Transpose", "Unsqueeze")
#: The same, as codes are in the order of their numbers; and from which version on ONNX has it for codes.
_MAXIMA = {"MaxPool": 0, "ReduceMax": 12, "GlobalMaxPool": 12}


def on_codes(work: Work, op: Op) -> Op | None:
    """What does to codes as `op` does to numbers, which it moves or chooses; None if that is something else.

    ONNX has no GlobalMaxPool of codes, but a MaxPool.
    """
    if work.opset < _MAXIMA.get(op.kind, 0):
        return None
    if op.kind == "Gather" and work.array(op.inputs[1]) is None:
        return None
    if op.kind == "GlobalMaxPool":
        shape = work.shape(op.inputs[0]) or ()
        sizes = [size for size in shape[2:] if isinstance(size, int)]
        known = sizes and len(sizes) == len(shape) - 2
        return replace(op, kind="MaxPool", attributes={"kernel_shape": sizes}) if known else None
    return op if op.kind in (*_REORDERS, *_MAXIMA) and len(op.outputs) == 1 else None


def moves_before(work: Work, quantize: Op) -> tuple[str, str, list[Op]]:
    """What only moves or chooses the numbers of `quantize` before they are codes, done to codes, in order; what
    numbers and codes are called before that comes first."""
    numbers, moves = quantize.inputs[0], list[Op]()
    while (op := work.maker(numbers)) is not None and (move := on_codes(work, op)) is not None:
        numbers, moves = move.inputs[0], [move, *moves]
    names = [work.fresh(f"{name}_codes") for name in (numbers, *(move.outputs[0] for move in moves[:-1])) if moves]
    names += quantize.outputs
    return numbers, names[0], [replace(move, inputs=(source, *move.inputs[1:]), outputs=(result,))
                               for move, source, result in zip(moves, names, names[1:], strict=False)]


def _move(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    source = read(op) if op.kind == "DequantizeLinear" else work.codes(op, 0)
    if source is None or not (work.equal(source.scale, made.scale) and work.equal(source.zero, made.zero)):
        return None
    if op.kind == "DequantizeLinear":
        return Op(op.name, "Identity", (source.name,), (result,))
    moved = on_codes(work, op)
    return replace(moved, inputs=(source.name, *op.inputs[1:]), outputs=(result,)) if moved else None


def chooses(op: Op) -> bool:
    """Whether it is a Resize whose results are some of its numbers."""
    return op.kind == "Resize" and op.attributes.get("mode", "nearest") == "nearest" and op.attributes.get(
        "coordinate_transformation_mode") != "tf_crop_and_resize"


def _resize(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    source = work.codes(op, 0)
    if not chooses(op) or source is None or not (
            work.equal(source.scale, made.scale) and work.equal(source.zero, made.zero)):
        return None
    return replace(op, inputs=(source.name, *op.inputs[1:]), outputs=(result,))


def _concat(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """Concat of codes of any scales."""
    sources = [work.codes(op, index) for index in range(len(op.inputs))]
    inputs = [made.scale, made.zero]
    for source in sources:
        if source is None or not is_sound(work.scalar(source.scale), work.scalar(source.zero)):
            return None
        if work.constants[source.zero].dtype != work.constants[made.zero].dtype:
            return None
        inputs += [source.name, source.scale, source.zero]
    return Op(op.name, "com.microsoft.QLinearConcat", tuple(inputs), (result,), op.attributes)


def _part(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """One output of a Split, whose sizes are known, as a Slice."""
    source, axis = work.codes(op, 0), op.attributes.get("axis", 0)
    sizes = work.array(op.inputs[1]) if len(op.inputs) > 1 and op.inputs[1] else op.attributes.get("split")
    if sizes is None:
        sizes = [work.size(name, axis) for name in op.outputs]
    if any(size is None for size in sizes) or source is None or not (
            work.equal(source.scale, made.scale) and work.equal(source.zero, made.zero)):
        return None
    ends = np.cumsum(np.asarray(sizes, np.int64))
    number = op.outputs.index(made.name)
    names = [work.constant(f"{made.name}_{what}", np.array([value], np.int64)) for what, value in (
        ("start", ends[number - 1] if number else 0), ("end", ends[number]), ("axis", axis))]
    return Op(f"{op.name}:{number}", "Slice", (source.name, *names), (result,))


def _pad(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """Pad with a constant, whose code is known."""
    source = work.codes(op, 0)
    if op.attributes.get("mode", "constant") != "constant" or len(op.inputs) < 2 or source is None or not (
            work.equal(source.scale, made.scale) and work.equal(source.zero, made.zero)):
        return None
    given = op.inputs[2] if len(op.inputs) > 2 else ""
    number = work.number(given) if given else np.float32(0)
    if number is None or number.dtype != np.float32 or not np.isfinite(number):
        return None
    scale, zero = work.constants[made.scale].reshape(()), work.constants[made.zero].reshape(())
    bounds = np.iinfo(zero.dtype)
    code = np.clip(np.rint(number / scale) + np.float32(zero), bounds.min, bounds.max).astype(zero.dtype)
    inputs = source.name, op.inputs[1], work.constant(f"{made.name}_code", code), *op.inputs[3:]
    return replace(op, inputs=inputs, outputs=(result,))


#: By the operator's kind: the operator on codes that makes the codes `result`, if there is one.
MOVES: dict[str, Callable[[Work, Op, Codes, str], Op | None]] = {
    "Concat": _concat, "Pad": _pad, "Split": _part, REPEAT: _repeat,
    # They choose among numbers.
    "Resize": _resize,
    **dict.fromkeys((*_REORDERS, *_MAXIMA, "DequantizeLinear"), _move)}
