"""Codes in a model with pairs of QuantizeLinear and DequantizeLinear: what they are and who makes them."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..ir.graph import Graph, Op

__all__ = ["Codes", "Work", "is_sound", "read"]


@dataclass(frozen=True)
class Codes:
    """Codes, their scale and their zero point, by name, and the axis along which there are several scales."""
    name: str
    scale: str
    zero: str
    axis: int


class Work:
    """A graph to look things up in; its constants may grow."""

    def __init__(self, graph: Graph):
        self.constants = dict(graph.constants)
        self.opset = graph.opsets.get("", 0)
        self._ops, self._types = graph.ops, graph.types
        self._maker = {name: op for op in graph.ops for name in op.outputs if name}
        self._used = {*graph.inputs, *self.constants, *self._maker}
        self._numbers = {*graph.outputs, *(name for op in graph.ops if op.kind != "QuantizeLinear"
                                           for name in op.reads)}
        self._reads = Counter([*graph.outputs, *(name for op in graph.ops for name in op.reads)])

    def maker(self, name: str) -> Op | None:
        return self._maker.get(name)

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        """That of a tensor, if it is known."""
        type_ = self._types.get(name)
        return type_.shape if type_ is not None else None

    def size(self, name: str, axis: int) -> int | None:
        """A dimension of a tensor, if it is known."""
        shape = self.shape(name)
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        return size if isinstance(size, int) else None

    def reads(self, name: str) -> int:
        """How often something needs a tensor."""
        return self._reads[name]

    def shared(self, op: Op) -> bool:
        """Whether more than one operator needs the result of `op`."""
        return self._reads[op.outputs[0]] > 1

    def readers(self, name: str) -> list[Op]:
        """What takes a tensor."""
        return self._readers.get(name, [])

    @cached_property
    def _readers(self) -> dict[str, list[Op]]:
        """What takes a tensor, by name."""
        readers: dict[str, list[Op]] = {}
        for op in self._ops:
            for name in dict.fromkeys(op.reads):
                readers.setdefault(name, []).append(op)
        return readers

    def is_pair(self, name: str) -> bool:
        """Whether a QuantizeLinear makes the codes `name` for one DequantizeLinear, and one operator needs its
        numbers.

        ONNX Runtime makes such codes unsigned on x86, if they are signed.
        """
        maker, readers = self.maker(name), self.readers(name)
        return (maker is not None and maker.kind == "QuantizeLinear" and self._reads[name] == 1
                and [op.kind for op in readers] == ["DequantizeLinear"] and not self.shared(readers[0]))

    def is_for_codes(self, op: Op) -> bool:
        """Whether nothing needs the result of `op` but QuantizeLinear, perhaps several."""
        return op.outputs[0] not in self._numbers

    def is_quantized(self, op: Op) -> bool:
        """The same, if need be after a Relu or Clip, which is all that needs it then."""
        return self.is_for_codes(op) or (not self.shared(op) and any(
            item.kind in ("Relu", "Clip") and self.is_for_codes(item)
            for item in self.readers(op.outputs[0])))

    def fresh(self, name: str) -> str:
        """`name`, or one like it that is not in use."""
        while name in self._used:
            name += "_"
        self._used.add(name)
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """The name of a new constant, `name` or one like it."""
        name = self.fresh(name)
        self.constants[name] = value
        return name

    def array(self, name: str) -> np.ndarray | None:
        return self.constants.get(name)

    def scalar(self, name: str) -> np.ndarray | None:
        value = self.constants.get(name)
        return value.reshape(()) if value is not None and value.size == 1 else None

    def number(self, name: str) -> np.ndarray | None:
        """A single constant, or what a DequantizeLinear makes of one."""
        maker = self.maker(name)
        source = read(maker) if maker is not None and maker.kind == "DequantizeLinear" else None
        if source is None:
            return self.scalar(name)
        code, scale, zero = (self.scalar(item) for item in (source.name, source.scale, source.zero))
        if code is None or scale is None or zero is None or not is_sound(scale, zero):
            return None
        return np.float32(int(code) - int(zero)) * scale

    def numbers(self, name: str) -> np.ndarray | None:
        """Constants, or what a DequantizeLinear makes of some; its zero point may be missing."""
        maker = self.maker(name)
        if maker is None or maker.kind != "DequantizeLinear":
            return self.array(name)
        codes, scale, *zeros = (self.array(item) for item in filter(None, maker.inputs))
        source = read(replace(maker, inputs=(*maker.inputs[:2], "zero")))
        zero = zeros[0] if zeros else np.zeros((), np.int32)
        if source is None or codes is None or scale is None or zero is None or scale.ndim > 1:
            return None
        shape = [1] * codes.ndim
        if scale.size > 1:
            if not -codes.ndim <= source.axis < codes.ndim or codes.shape[source.axis] != scale.size:
                return None
            shape[source.axis] = -1
        steps = codes.astype(np.int64) - zero.astype(np.int64).reshape(shape if zero.size > 1 else ())
        return steps.astype(np.float32) * scale.reshape(shape)

    def equal(self, first: str, second: str) -> bool:
        """Whether both are the same number, and of one type."""
        a, b = self.scalar(first), self.scalar(second)
        return a is not None and b is not None and a.dtype == b.dtype and bool(a == b)

    def codes(self, op: Op, index: int) -> Codes | None:
        """The codes whose numbers `op` takes as input `index`."""
        maker = self.maker(op.inputs[index]) if index < len(op.inputs) else None
        return read(maker) if maker is not None and maker.kind == "DequantizeLinear" else None


def read(op: Op) -> Codes | None:
    """What a QuantizeLinear or DequantizeLinear is given; None for one with blocks or a type of its own."""
    defaults = (("block_size", (0,)), ("precision", (0, 1)),
                ("output_dtype", (0, 1) if op.kind == "DequantizeLinear" else (0,)))
    if any(op.attributes.get(name, 0) not in known for name, known in defaults):
        return None
    name, scale, *zero = op.inputs
    return Codes(name, scale, zero[0], op.attributes.get("axis", 1)) if zero and zero[0] else None


def is_sound(scale: np.ndarray | None, zero: np.ndarray | None) -> bool:
    """Whether they are numbers of the kinds that codes have."""
    return (scale is not None and scale.dtype == np.float32 and bool(np.isfinite(scale) and scale > 0)
            and zero is not None and zero.dtype in (np.int8, np.uint8))
