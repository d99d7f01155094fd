"""What an operator makes of all codes: found by running it, as the host would."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx

from ..host import HostPart
from ..ir.graph import Graph, Op, Type
from ..ir.layers import SHIFT
from ..ir.onnx_op import to_model
from ..passes.unfold import unfold
from .node import Node

__all__ = ["CODES", "all_results", "results_by_channel", "signed"]

#: The codes on the chip, in the order of a table's words.
CODES = np.arange(256).astype(np.uint8).view(np.int8)


def all_results(graph: Graph, op: Op, names: tuple[str, ...], rank: int, unsigned: tuple[bool, ...],
                one_for_all: bool = False) -> np.ndarray:
    """What `op` makes of all of :data:`CODES`, or of all pairs of them.

    Parameters
    ----------
    names : of its one or two operands
    rank : dimensions of the first
    unsigned : whether the model has them as uint8
    one_for_all : an element of the second goes with a row of the first, which may change the order in which ONNX
        Runtime adds them up

    Returns
    -------
    int8 or uint8 [256], as the model has them; or [256, 256], the first operand's code before the second's

    Raises
    ------
    CompileError
        The result is of another shape or type, or ONNX Runtime refuses.
    """
    arrays = _operands(rank, unsigned, one_for_all)
    types = {name: Type.of(array) for name, array in zip(names, arrays, strict=True)}
    model = _model(graph, op, types, op.outputs)
    [result] = _computed(model, names, rank, unsigned, one_for_all)
    if result.shape != arrays[0].shape or result.dtype not in (np.int8, np.uint8):
        raise Node(op, graph.constants).error(f"its result would be {Type.of(result)} for {Type.of(arrays[0])}")
    return result.reshape([256] * len(names)).T if one_for_all else result.reshape([256] * len(names))


def results_by_channel(graph: Graph, op: Op, inner: str, rank: int, axis: int, channels: int, unsigned: bool
                       ) -> tuple[np.ndarray, np.ndarray]:
    """What `op`, whose constants go along `axis`, makes of all of :data:`CODES` in each channel.

    Parameters
    ----------
    inner : which numbers of `op` are wanted beside its result
    rank : dimensions of its operand
    unsigned : whether the model has that as uint8

    Returns
    -------
    float32 [256, channels], the numbers; int8 or uint8 [256, channels], as the model has them

    Raises
    ------
    CompileError
        The results are of another shape, or ONNX Runtime refuses.
    """
    [codes] = _operands(1, (unsigned,), False)
    shape = [channels if item == axis else 1 for item in range(rank)]
    every = np.broadcast_to(codes.reshape(256, *[1] * rank), (256, *shape)).reshape(256 * shape[0], *shape[1:])
    name = op.inputs[0]
    inside = next(item.outputs[0] for item, part in zip(unfold(op), op.attributes["ops"], strict=True)
                  if inner in part.outputs)
    model = _model(graph, op, {name: Type.of(every)}, (inside, *op.outputs))
    results = HostPart(onnx.ModelProto.FromString(model)).run({name: np.ascontiguousarray(every)})
    found = [results[item] for item in (inside, *op.outputs)]
    if any(item.shape != every.shape for item in found):
        raise Node(op, graph.constants).error(f"its result would be {Type.of(found[1])} for {Type.of(every)}")
    return found[0].reshape(256, channels), found[1].reshape(256, channels)


def _model(graph: Graph, op: Op, types: Mapping[str, Type], outputs: tuple[str, ...]) -> bytes:
    """What `op` stands for as a model that takes tensors of these types."""
    ops = tuple(unfold(op))
    read = {name for item in ops for name in item.reads} - types.keys()
    constants = {name: array for name, array in graph.constants.items() if name in read}
    part = Graph(tuple(types), outputs, ops, constants, types,
                 {domain: version for domain, version in graph.opsets.items() if domain != "kiwicha"})
    return to_model(part).SerializeToString()


def signed(codes: np.ndarray) -> tuple[np.ndarray, bool]:
    """The codes as the chip has them, int8, and whether the model has them as uint8."""
    unsigned = codes.dtype == np.uint8
    return (codes ^ np.uint8(SHIFT)).view(np.int8) if unsigned else codes, unsigned


@lru_cache(maxsize=512)
def _computed(model: bytes, names: tuple[str, ...], rank: int, unsigned: tuple[bool, ...], one_for_all: bool
              ) -> tuple[np.ndarray, ...]:
    """Operators are tried several times while it turns out which can be layers."""
    values = dict(zip(names, _operands(rank, unsigned, one_for_all), strict=True))
    return tuple(HostPart(onnx.ModelProto.FromString(model)).run(values).values())


def _operands(rank: int, unsigned: tuple[bool, ...], one_for_all: bool) -> list[np.ndarray]:
    codes = [CODES.view(np.uint8) ^ np.uint8(SHIFT) if item else CODES for item in unsigned]
    if len(codes) == 1:
        return [codes[0].reshape(*[1] * (rank - 1), 256)]
    if one_for_all:
        return [np.tile(codes[0], 256).reshape(256, *[1] * (rank - 2), 256),
                codes[1].reshape(256, *[1] * (rank - 1))]
    return [item.reshape(*[1] * (rank - 1), -1) for item in (np.repeat(codes[0], 256), np.tile(codes[1], 256))]
