"""Numbers become codes before they are moved, or the largest of them chosen, rather than after that.

Quantizers that write a QuantizeLinear nowhere but before products leave numbers between a product and, say,
MaxPool, Flatten or Concat. The same codes come out, and a product with a QuantizeLinear behind makes them itself.
"""

from collections.abc import Mapping
from dataclasses import replace

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Work, is_sound, read
from .fold_moves import chooses, on_codes
from .integer_products import BETWEEN, IN_PLACE, PRODUCTS
from .pairs_around_moves import pair

__all__ = ["codes_before_moves"]


def codes_before_moves(graph: Graph) -> Graph:
    """The graph with a pair of QuantizeLinear and DequantizeLinear before what moves numbers to a QuantizeLinear,
    if nothing else needs them, moved or not."""
    work, wanted = Work(graph), dict[str, Op]()     # moves by name: the QuantizeLinear behind them
    of_codes = _of_codes(work, graph)
    for op in reversed(graph.ops):
        quantize = wanted.get(op.name, op)
        made = read(quantize) if quantize.kind == "QuantizeLinear" else None
        if made is None or not is_sound(work.scalar(made.scale), work.scalar(made.zero)):
            continue
        for name in _moved(op) if op is not quantize else op.inputs[:1]:
            move = work.maker(name)
            if move is None or not _is_move(work, move) or work.reads(move.outputs[0]) != 1:
                continue
            sources = _moved(move)
            if any(_is_left(work, source) for source in sources) and {*sources} <= of_codes:
                wanted[move.name] = quantize
    return _with_pairs(graph, work, wanted) if wanted else graph


def _with_pairs(graph: Graph, work: Work, wanted: Mapping[str, Op]) -> Graph:
    """The graph with pairs before moves, by name, like the QuantizeLinear behind each."""
    ops, types = list[Op](), dict(graph.types)
    for op in graph.ops:
        inputs, count = list(op.inputs), len(_moved(op)) if op.name in wanted else 0
        for index, name in enumerate(op.inputs[:count]):
            if _is_left(work, name):
                ops += pair(work, op, name, wanted[op.name])
                inputs[index] = ops[-1].outputs[0]
                if name in types:
                    types[inputs[index]] = types[name]
        ops.append(replace(op, inputs=tuple(inputs)))
    return with_unique_names(replace(graph, types=types).with_ops(tuple(ops)))


def _is_move(work: Work, op: Op) -> bool:
    return op.kind == "Concat" or chooses(op) or on_codes(work, op) is not None


def _moved(op: Op) -> tuple[str, ...]:
    """What of its inputs an operator moves."""
    return op.inputs if op.kind == "Concat" else op.inputs[:1]


def _is_left(work: Work, name: str) -> bool:
    """Whether nothing else needs these numbers, and no DequantizeLinear makes them."""
    maker = work.maker(name)
    return maker is not None and maker.kind != "DequantizeLinear" and work.reads(name) == 1


def _of_codes(work: Work, graph: Graph) -> set[str]:
    """The numbers that the chip may have: all that they are computed of are codes."""
    found = {*graph.constants}
    for op in graph.ops:
        product = op.kind in PRODUCTS and work.codes(op, 0) is not None and work.codes(op, 1) is not None
        between = op.kind in (*BETWEEN, *IN_PLACE) and {*op.reads} <= found
        if product or between or op.kind == "DequantizeLinear":
            found.update(op.outputs)
    return found
