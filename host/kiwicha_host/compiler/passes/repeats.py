"""Constants that are there once for each of the batch, such as a vision transformer's class token."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op, Type
from .codes import Codes, Work
from .sizes import Sizes

__all__ = ["REPEAT", "on_codes", "repeats", "type_of_repeated"]

#: Its inputs are one that has the batch, the constant, [1, ...], and what ONNX's operators inside need.
REPEAT = "kiwicha.Repeat"


def type_of_repeated(op: Op, graph: Graph, sizes: Sizes) -> Type | None:
    """The type of what Expand and Tile make, which ONNX's inference does not know if the batch has no size."""
    source = graph.type_of(op.inputs[0]) if op.kind in ("Expand", "Tile") else None
    if source is None or source.shape is None or op.inputs[1] not in sizes.arrays:
        return None
    wanted = [dim if number == 1 and dim else "?" if dim else number for number, dim in sizes.items(op.inputs[1])]
    shape: tuple[int | str, ...] = (*[1] * (len(wanted) - len(source.shape)), *source.shape)
    if len(shape) != len(wanted):
        return None
    return Type(source.element, tuple(
        old if new == 1 else new if old == 1 else old if old == new and op.kind == "Expand" else "?"
        for old, new in zip(shape, wanted, strict=True)))


def repeats(graph: Graph, sizes: Sizes) -> Graph:
    """The graph with an operator of its own for each constant that Expand or Tile has once for each of a batch."""
    work, ops = Work(graph), list[Op]()
    for op in graph.ops:
        type_, numbers = type_of_repeated(op, graph, sizes), work.array(op.inputs[0]) if op.inputs else None
        batch, *rest = (type_.shape if type_ is not None else None) or ("?",)
        source = next((name for name in graph.inputs if isinstance(batch, str)
                       and (work.shape(name) or ())[:1] == (batch,)), None)
        known = all(isinstance(size, int) for size in rest)
        if source is None or numbers is None or not known or work.opset < 8:    # before that there is no Expand
            ops.append(op)
            continue
        shape = (1, *(size for size in rest if isinstance(size, int)))
        once, first, others = (work.constant(f"{op.outputs[0]}:{what}", value) for what, value in (
            ("once", np.broadcast_to(numbers, shape)), ("first", np.array([0], np.int64)),
            ("rest", np.array(shape[1:], np.int64))))
        ops.append(Op(op.name, REPEAT, (source, once, first, others), op.outputs,
                      {"ops": _inside(source, once, first, others, op.outputs)}))
    return graph.with_ops(tuple(ops), work.constants)


def _inside(source: str, once: str, first: str, rest: str, outputs: tuple[str, ...]) -> tuple[Op, ...]:
    return (Op("shape", "Shape", (source,), ("shape",)), Op("batch", "Gather", ("shape", first), ("batch",)),
            Op("wanted", "Concat", ("batch", rest), ("wanted",), {"axis": 0}),
            Op("repeat", "Expand", (once, "wanted"), outputs))


def on_codes(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """The same of the codes of the constant."""
    source, once, first, rest = op.inputs
    numbers, scale, zero = work.array(once), work.constants[made.scale], work.constants[made.zero]
    if numbers is None or numbers.dtype != np.float32 or np.isnan(numbers).any():
        return None
    bounds = np.iinfo(zero.dtype)
    with np.errstate(over="ignore"):
        codes = np.rint(numbers / scale.reshape(())) + np.float32(zero.reshape(()))
    name = work.constant(f"{once}:codes", np.clip(codes, bounds.min, bounds.max).astype(zero.dtype))
    return replace(op, inputs=(source, name, first, rest), outputs=(result,),
                   attributes={"ops": _inside(source, name, first, rest, (result,))})
