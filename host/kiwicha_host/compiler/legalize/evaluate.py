"""What an operator makes of all codes: found by running it, as the host would."""

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

__all__ = ["CODES", "all_results"]

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
    [output] = op.outputs
    ops, arrays = tuple(unfold(op)), _operands(rank, unsigned, one_for_all)
    read = {name for item in ops for name in item.reads} - {*names}
    part = Graph(names, (output,), ops, {name: array for name, array in graph.constants.items() if name in read},
                 {name: Type.of(array) for name, array in zip(names, arrays, strict=True)},
                 {domain: version for domain, version in graph.opsets.items() if domain != "kiwicha"})
    result = _computed(to_model(part).SerializeToString(), names, output, rank, unsigned, one_for_all)
    if result.shape != arrays[0].shape or result.dtype not in (np.int8, np.uint8):
        raise Node(op, graph.constants).error(f"its result would be {Type.of(result)} for {Type.of(arrays[0])}")
    return result.reshape([256] * len(names)).T if one_for_all else result.reshape([256] * len(names))


@lru_cache(maxsize=512)
def _computed(model: bytes, names: tuple[str, ...], output: str, rank: int, unsigned: tuple[bool, ...],
              one_for_all: bool) -> np.ndarray:
    """Operators are tried several times while it turns out which can be layers."""
    values = dict(zip(names, _operands(rank, unsigned, one_for_all), strict=True))
    return HostPart(onnx.ModelProto.FromString(model)).run(values)[output]


def _operands(rank: int, unsigned: tuple[bool, ...], one_for_all: bool) -> list[np.ndarray]:
    codes = [CODES.view(np.uint8) ^ np.uint8(SHIFT) if item else CODES for item in unsigned]
    if len(codes) == 1:
        return [codes[0].reshape(*[1] * (rank - 1), 256)]
    if one_for_all:
        return [np.tile(codes[0], 256).reshape(256, *[1] * (rank - 2), 256),
                codes[1].reshape(256, *[1] * (rank - 1))]
    return [item.reshape(*[1] * (rank - 1), -1) for item in (np.repeat(codes[0], 256), np.tile(codes[1], 256))]
