"""Pairs of QuantizeLinear and DequantizeLinear around what moves numbers, or chooses the largest as MaxPool does.

Some quantizers write none there. ONNX Runtime adds them, and so has integers in the product before or behind; it
does for these operators, which do the same to codes as to numbers.
"""

from dataclasses import replace

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Work

__all__ = ["MOVES", "pair", "pairs_around_moves"]

MOVES = ("MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def pairs_around_moves(graph: Graph) -> Graph:
    """The graph with a pair before what moves numbers to a QuantizeLinear, and behind what moves numbers of codes.
    """
    return _behind(_before(graph))


def _moves(op: Op | None) -> bool:
    return op is not None and op.kind in MOVES and len(op.outputs) == 1


def _before(graph: Graph) -> Graph:
    """Not where the numbers are of codes already, or where something else needs them."""
    work, wanted = Work(graph), dict[str, Op]()     # moves by name: the QuantizeLinear behind them
    for op in reversed(graph.ops):
        quantize = wanted.get(op.name, op)
        move = work.maker(op.inputs[0]) if quantize.kind == "QuantizeLinear" else None
        if move is None or not _moves(move) or work.scalar(quantize.inputs[1]) is None or (
                "output_dtype" in quantize.attributes):     # of codes that a pair without a zero point has not
            continue
        maker = work.maker(move.inputs[0])
        if maker is not None and maker.kind != "DequantizeLinear" and (
                work.reads(move.inputs[0]) == work.reads(move.outputs[0]) == 1):
            wanted[move.name] = quantize
    ops = list[Op]()
    for op in graph.ops:
        if op.name in wanted:
            ops += pair(work, op, op.inputs[0], wanted[op.name])
            op = replace(op, inputs=(*ops[-1].outputs, *op.inputs[1:]))
        ops.append(op)
    return with_unique_names(graph.with_ops(tuple(ops))) if wanted else graph


def _behind(graph: Graph) -> Graph:
    """Not where the numbers become codes again, or where nothing but the user needs them."""
    work, decoded, ops = Work(graph), dict[str, Op](), list[Op]()
    readers: dict[str, set[str]] = {}
    for op in graph.ops:
        for name in op.reads:
            readers.setdefault(name, set()).add(op.kind)
    for op in graph.ops:
        made = [op]
        source = decoded.get(op.inputs[0]) if _moves(op) else None
        if source is not None and not {"QuantizeLinear"} & readers.get(op.outputs[0], {"QuantizeLinear"}):
            moved = replace(op, outputs=(work.fresh(f"{op.outputs[0]}:moved"),))
            quantize, numbers = pair(work, op, moved.outputs[0], source)
            made = [moved, quantize, replace(numbers, outputs=op.outputs)]
        if made[-1].kind == "DequantizeLinear" and work.scalar(made[-1].inputs[1]) is not None:
            decoded[made[-1].outputs[0]] = made[-1]
        ops += made
    return with_unique_names(graph.with_ops(tuple(ops))) if len(ops) > len(graph.ops) else graph


def pair(work: Work, op: Op, source: str, like: Op) -> tuple[Op, Op]:
    """A pair for the numbers `source`, with the scale and zero point of one of its halves."""
    codes, numbers = (work.fresh(f"{source}:{what}") for what in ("codes", "numbers"))
    attributes = {name: value for name, value in like.attributes.items() if name == "axis"}
    ends = like.inputs[1:]
    return (Op(f"{op.name}:codes", "QuantizeLinear", (source, *ends), (codes,), attributes),
            Op(f"{op.name}:numbers", "DequantizeLinear", (codes, *ends), (numbers,), attributes))
