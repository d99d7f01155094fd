"""An operator as the layers see it: its attributes, constants, scales and zero points."""

from collections.abc import Mapping

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx

from ..errors import CompileError
from ..ir.graph import Op
from ..ir.layers import SHIFT

__all__ = ["Node"]


#: ONNX's numbers for the types of codes.
_CODES = {onnx.TensorProto.UINT8: np.uint8, onnx.TensorProto.INT8: np.int8}


class Node:
    """One operator with its constants; every complaint names it.

    Parameters
    ----------
    op : the operator
    constants : the graph's constants by name

    Raises
    ------
    CompileError
        From all methods that read something: it is missing, or not what the chip can do.
    """

    def __init__(self, op: Op, constants: Mapping[str, np.ndarray]):
        self.operator = op
        self.op = op.kind
        self.label = op.label
        self.name = op.name
        self.inputs = list(op.inputs)
        self.outputs = [item for item in op.outputs if item]
        self.attributes = op.attributes
        self.constants = constants

    def error(self, text: str) -> CompileError:
        return CompileError(f"{self.label} {self.name!r}: {text}")

    def only(self, *known: str) -> None:
        """Refuse attributes other than `known`."""
        for name in self.attributes:
            if name not in known:
                raise self.error(f"attribute {name!r} is not supported")

    def one_of(self, name: str, *known: int) -> None:
        """Refuse other values of attribute `name`; the first is its default."""
        value = self.attributes.get(name, known[0])
        if value not in known:
            raise self.error(f"{name} must be {' or '.join(map(str, known))}, not {value}")

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and bool(self.inputs[index])

    def constant(self, index: int, what: str) -> np.ndarray:
        if not self.has(index):
            raise self.error(f"{what} is missing")
        try:
            return self.constants[self.inputs[index]]
        except KeyError:
            raise self.error(f"{what} must be a constant, not the tensor {self.inputs[index]!r}") from None

    def scalar(self, index: int, what: str) -> np.ndarray:
        value = self.constant(index, what)
        if value.size != 1:
            raise self.error(f"{what} must be a single number, not {list(value.shape)}")
        return value.reshape(())

    def code(self, index: int, what: str) -> int:
        """One code, int8 or uint8."""
        value = self.scalar(index, what)
        if value.dtype not in (np.int8, np.uint8):
            raise self.error(f"{what} must be int8 or uint8, not {value.dtype}")
        return int(value)

    def integers(self, index: int, what: str) -> list[int]:
        value = self.constant(index, what)
        if value.dtype.kind != "i":
            raise self.error(f"{what} must be integers, not {value.dtype}")
        return [int(item) for item in value.reshape(-1)]

    def scale(self, index: int, what: str) -> np.float32:
        value = self.scalar(index, what)
        if value.dtype != np.float32 or not (np.isfinite(value) and value > 0):
            raise self.error(f"{what} must be a positive float32, not {value}")
        return np.float32(value)

    def zero_point(self, index: int, what: str, dtype: str = "") -> tuple[int, bool]:
        """The zero point of the codes as int8, and whether the model has them as uint8.

        It may be missing: then it is 0 of the type that the attribute named `dtype` asks for, or of uint8.
        """
        asked = self.attributes.get(dtype, 0)
        self.one_of(dtype, 0, *_CODES)
        value = self.scalar(index, what) if self.has(index) else _CODES.get(asked, np.uint8)(0)
        if asked and value.dtype != _CODES[asked]:
            raise self.error(f"{what} is {value.dtype}, {dtype} {np.dtype(_CODES[asked])}")
        if value.dtype not in (np.int8, np.uint8):
            raise self.error(f"{what} must be int8 or uint8, not {value.dtype}")
        unsigned = value.dtype == np.uint8
        return int(value) - SHIFT * unsigned, unsigned

    def pair(self, name: str, default: tuple[int, ...] = (1, 1)) -> tuple[int, int]:
        """Two positive numbers, for height and width, or one, for the width."""
        value = tuple(self.attributes.get(name, default))
        if len(value) not in (1, 2) or min(value) < 1:
            raise self.error(f"{name} must be two positive numbers, or one without height, not {list(value)}")
        return value if len(value) == 2 else (1, value[0])

    def transposed_window(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[list[int], list[int]]:
        """What is cut off the full result of a transposed convolution at top and left, and what is left of it."""
        strides = self.pair("strides")
        pads, more = list(self.attributes.get("pads", (0, 0, 0, 0))), list(
            self.attributes.get("output_padding", (0, 0)))
        if len(pads) == 2:
            pads = [0, pads[0], 0, pads[1]]
        if len(more) == 1:
            more = [0, *more]
        if len(pads) != 4 or len(more) != 2:
            raise self.error(f"pads {pads} and output_padding {more} must be two numbers, or one without height, "
                             "for each side")
        result = [(size[i] - 1) * strides[i] + kernel[i] + more[i] - pads[i] - pads[i + 2] for i in range(2)]
        if min(pads) < 0 or min(more) < 0 or min(result) < 1:
            raise self.error(f"pads {pads} and output_padding {more} leave nothing, or are negative")
        return pads[:2], result

    def window(self, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int],
               dilations: tuple[int, int], ceil: bool = False) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size of the result, and padding at top and left, of a sliding window."""
        auto = self.attributes.get("auto_pad", "NOTSET")
        pads = list(self.attributes.get("pads", (0, 0, 0, 0)))
        if len(pads) not in (2, 4) or min(pads) < 0:
            raise self.error(f"pads must be four numbers from 0, or two without height, not {pads}")
        if len(pads) == 2:
            pads = [0, pads[0], 0, pads[1]]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        result, first = [], []
        for i in range(2):
            before, after = pads[i], pads[i + 2]
            if auto == "VALID":
                before = after = 0
            elif auto in ("SAME_UPPER", "SAME_LOWER"):
                total = max(0, (-(-size[i] // strides[i]) - 1) * strides[i] + reach[i] - size[i])
                before = total // 2 if auto == "SAME_UPPER" else total - total // 2
                after = total - before
            elif auto != "NOTSET":
                raise self.error(f"auto_pad {auto!r} does not exist")
            span = size[i] + before + after - reach[i]
            if span < 0:
                raise self.error(f"its window of {reach[0]}x{reach[1]} is larger than the padded input")
            count = (-(-span // strides[i]) if ceil else span // strides[i]) + 1
            if ceil and (count - 1) * strides[i] >= size[i] + before:
                count -= 1      # a window that would start in the padding behind
            result.append(count)
            first.append(before)
        return (result[0], result[1]), (first[0], first[1])
