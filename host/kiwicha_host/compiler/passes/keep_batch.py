"""Where places were made the batch of a product, the batch stays what it is, and places stay places.

Of a product with a bias ONNX Runtime's tools make a Reshape of [B, places, K] to [B * places, K], a Gemm and a
Reshape back, if they know all sizes; some exporters do, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from ..ir.graph import Graph, Op, Type, with_unique_names
from .codes import Work
from .fold_averages import SOFTMAX
from .fold_elementwise import ELEMENTWISE
from .fold_qdq import BIASED
from .remove_dead import remove_dead

__all__ = ["PLACES_GEMM", "keep_batch"]

#: com.microsoft.QGemm of [batch, places, features]; its attribute ``shape`` is that of the result.
PLACES_GEMM = "kiwicha.QGemm"
#: What does the same to each element, where constants are single numbers or rows.
_OF_ELEMENTS = (ELEMENTWISE, "Clip", "Max", "Relu", *(
    f"com.microsoft.QLinear{kind}" for kind in ("Add", "LeakyRelu", "Mul", "Sigmoid")))
_OF_ONE_SCALE = ("DequantizeLinear", "QuantizeLinear")
#: What does the same to each row, the last axis.
_OF_ROWS = ("com.microsoft.QLinearSoftmax", SOFTMAX, "kiwicha.QLinearLayerNormalization",
            "kiwicha.QLinearRMSNormalization")
_GEMM = "com.microsoft.QGemm"


def keep_batch(graph: Graph) -> Graph:
    """The graph with [B, places, ...] in the place of [B * places, ...], for operators that look at rows alone.

    B is the first dimension of all inputs. Types must be known.
    """
    batches = {type_.shape[0] for name in graph.inputs if (type_ := graph.types.get(name)) and type_.shape}
    if len(batches) != 1:
        return graph
    rows = _Rows(graph, *batches)
    ops = tuple(new for op in graph.ops for new in rows.ops(op))
    if not rows.split:
        return graph
    whole = replace(graph, types=rows.types).with_ops(ops, rows.work.constants)
    return with_unique_names(remove_dead(whole))


class _Rows:
    """Tensors [batch * places, ...] of `graph` that are there as [batch, places, ...], too.

    Attributes
    ----------
    split : names of the latter, by the former's
    types : of all tensors
    work : the graph, with further constants
    """

    def __init__(self, graph: Graph, batch: int | str):
        self.work, self.types, self.split = Work(graph), dict(graph.types), dict[str, str]()
        self._graph, self._batch = graph, batch

    def ops(self, op: Op) -> Sequence[Op]:
        """`op`, or what makes the same of tensors that are split, if it takes such; what nothing needs is dead."""
        if op.kind == "Reshape":
            return self._reshape(op)
        if not self._takes_rows(op):
            return [op]
        [result], data = op.outputs, [name for name in op.reads if name in self.split]
        shape = (*self._shape(self.split[data[0]])[:2], *self._shape(result)[1:])
        made = self._new(result, shape)
        new = _making(op.renamed(self.split), result, made)
        if op.kind == _GEMM:
            new = replace(new, kind=PLACES_GEMM, attributes={**op.attributes, "shape": _sizes(shape)})
        return [new, self._reshaped(op, made, self._shape(result), result)]

    def _reshape(self, op: Op) -> Sequence[Op]:
        """A Reshape to [batch * places, ...] also makes the other; one of that takes the other."""
        source, [result] = self.split.get(op.inputs[0], op.inputs[0]), op.outputs
        old, new = self._shape(source), self._shape(result)
        image, row = _elements(old[1:]), _elements(new[1:])
        if old[:1] != (self._batch,) or not new or not image or not row:
            return [op]
        if image == row:
            return [op if source == op.inputs[0] else self._reshaped(op, source, new, result)]
        places, shape = image // row, self.work.array(op.inputs[1])
        known = new[0] == self._batch * places if isinstance(self._batch, int) else (
            shape is not None and shape[0] == -1)
        if not known or image % row:
            return [op]
        made = self._new(result, (self._batch, places, *new[1:]))
        return [op, self._reshaped(op, source, self._shape(made), made)]

    def _takes_rows(self, op: Op) -> bool:
        """Whether it makes each row of its result of the same row of what it takes, all of which is split."""
        data = [name for name in op.reads if name not in self._graph.constants]
        shapes = [self._shape(name) for name in (*data, *op.outputs)]
        if not data or any(name not in self.split for name in data) or len(op.outputs) != 1 or len({
                (shape[:1], len(shape)) for shape in shapes}) != 1 or not _elements(shapes[-1][1:]):
            return False
        if op.kind in (_GEMM, "QLinearMatMul", BIASED):
            weights = self.work.array(op.inputs[3])
            return data == [op.inputs[0]] and weights is not None and weights.ndim == 2 and not op.attributes.get(
                "transA")
        if op.kind in _OF_ROWS:
            return op.attributes.get("axis") == -1
        given = [array for array in map(self.work.array, op.reads) if array is not None]
        if op.kind in _OF_ONE_SCALE:
            return all(array.size == 1 for array in given)
        return op.kind in _OF_ELEMENTS and all(array.size == prod(array.shape[-1:]) for array in given)

    def _shape(self, name: str) -> tuple[int | str, ...]:
        type_ = self.types.get(name)
        return () if type_ is None or type_.shape is None else type_.shape

    def _new(self, name: str, shape: tuple[int | str, ...]) -> str:
        """The name of the tensor `name` as one of `shape`."""
        made = self.split[name] = self.work.fresh(f"{name}:places")
        self.types[made] = Type(self.types[name].element, shape)
        return made

    def _reshaped(self, op: Op, source: str, shape: tuple[int | str, ...], result: str) -> Op:
        """`result`, of that shape, of `source`, at `op`."""
        sizes = self.work.constant(f"{result}:shape", np.array(_sizes(shape), np.int64))
        return Op(op.name, "Reshape", (source, sizes), (result,))


def _making(op: Op, name: str, made: str) -> Op:
    """`op` with the result `made` in the place of `name`, also where it says what it stands for."""
    attributes = dict(op.attributes)
    if "ops" in attributes:
        attributes["ops"] = tuple(_making(item, name, made) for item in attributes["ops"])
    return replace(op, outputs=tuple(made if item == name else item for item in op.outputs), attributes=attributes)


def _sizes(shape: tuple[int | str, ...]) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]


def _elements(shape: tuple[int | str, ...]) -> int:
    """0 if a size is not known."""
    return prod(size if isinstance(size, int) else 0 for size in shape)
