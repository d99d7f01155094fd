"""RotaryEmbedding of numbers that come from codes, ONNX's and ONNX Runtime's, becomes one of codes."""

from collections.abc import Callable

import numpy as np

from ..ir.graph import Op
from .codes import Codes, Work, is_sound

__all__ = ["ROTARY"]

#: The places of the tables of cosines and sines and of the positions among the inputs.
_INPUTS = {"RotaryEmbedding": (1, 2, 3), "com.microsoft.RotaryEmbedding": (2, 3, 1)}


def _rotary(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """With constant tables, for positions that are constant, if there are any, and alike in all images."""
    source, shape, attributes = work.codes(op, 0), work.shape(op.inputs[0]), op.attributes
    heads = attributes.get("num_heads", 0)
    if source is None or not is_sound(work.scalar(source.scale), work.scalar(source.zero)) or shape is None or (
            work.constants[source.zero].dtype != work.constants[made.zero].dtype) or len(shape) not in (3, 4) or (
            attributes.get("scale", 1) != 1 or attributes.get("is_packed_batching", 0)):
        return None
    tables = _tables(work, op, shape[-2])
    if tables is None:
        return None
    maker = work.maker(op.inputs[0])
    assert maker is not None
    names = [work.constant(f"{result}:{what}", table) for what, table in zip(("cos", "sin"), tables, strict=True)]
    ops = maker, op, Op(f"{op.name}:codes", "QuantizeLinear", (op.outputs[0], made.scale, made.zero), (result,))
    ends = source.name, source.scale, source.zero, made.scale, made.zero
    return Op(op.name, "kiwicha.QLinearRotaryEmbedding", (*ends, *names, *filter(None, op.inputs[1:])), (result,),
              {"heads": heads, "interleaved": attributes.get("interleaved", 0),
               "width": attributes.get("rotary_embedding_dim", 0), "ops": ops})


def _tables(work: Work, op: Op, tokens: int | str) -> list[np.ndarray] | None:
    """Cosines and sines, float32 [tokens, angles]."""
    *places, last = _INPUTS[op.kind]
    tables = [work.array(op.inputs[place]) for place in places]
    positions = np.arange(0) if last >= len(op.inputs) or not op.inputs[last] else work.array(op.inputs[last])
    if not isinstance(tokens, int) or positions is None:
        return None
    if positions.size == 1 and positions.ndim == 1:      # of the first token
        positions = positions.reshape(()) + np.arange(tokens)[None]
    elif positions.size and (positions.ndim != 2 or (positions != positions[:1]).any()):
        return None
    found = []
    for table in tables:
        if table is None or table.dtype != np.float32:
            return None
        if positions.size:
            if table.ndim != 2 or positions.min() < 0 or positions.max() >= len(table):
                return None
            table = table[positions[0]]
        elif table.ndim == 3 and (table == table[:1]).all():
            table = table[0]
        found.append(table)
    return found


#: By kind, what makes the operator on codes.
ROTARY: dict[str, Callable[[Work, Op, Codes, str], Op | None]] = dict.fromkeys(_INPUTS, _rotary)
