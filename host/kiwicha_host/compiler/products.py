"""Products of tensors of which none needs to be constant, nor of a size that is known before: a GEMM each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..golden.numerics import requantize_scale
from ..job import Result
from ..metrics import Work, request_work
from ..request import GemmRequest
from .errors import CompileError
from .ir.graph import Graph, Op
from .ir.layers import SHIFT
from .legalize.node import Node
from .passes.integer_products import TRANSPOSED
from .program.packing import int8_parts
from .transposed_product import transposed_convolution

if TYPE_CHECKING:
    from ..devices import Device

__all__ = ["PRODUCTS", "ProductPart", "check_product"]

#: Which inputs of an operator are the first operand and its zero point, and the second's.
PRODUCTS = {"QLinearMatMul": (0, 2, 3, 5), "MatMulInteger": (0, 2, 1, 3), "ConvInteger": (0, 2, 1, 3),
            TRANSPOSED: (0, 2, 1, 3)}


def check_product(op: Op, graph: Graph) -> None:
    """Raise :exc:`CompileError` if the chip cannot do it."""
    node = Node(op, graph.constants)
    types = [graph.type_of(op.inputs[index]) if node.has(index) else None for index in PRODUCTS[op.kind]]
    x, w = types[0], types[2]
    if x is None or w is None or {x.element, w.element} - {"int8", "uint8"}:
        raise node.error("its operands must be known to be int8 or uint8")
    if op.kind in ("ConvInteger", TRANSPOSED):
        if x.shape is None or w.shape is None or len(x.shape) not in (3, 4) or len(w.shape) != len(x.shape):
            raise node.error("takes [N, channels, height, width] or [N, channels, width]")
        if op.kind == "ConvInteger":
            node.only("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
        return
    node.only()
    for index in (1, 4, 6, 7) if op.kind == "QLinearMatMul" else ():
        type_ = graph.type_of(op.inputs[index])
        if type_ is None or type_.shape is None or (index != 4 and type_.shape not in ((), (1,))):
            raise node.error("its scales and its output's zero point must be single numbers; the second operand's "
                             "scale may have one for each column")
    scales = [graph.constants.get(op.inputs[index]) for index in (1, 4, 6) if op.kind == "QLinearMatMul"]
    if scales and all(item is not None for item in scales):
        _scale(*scales)


@dataclass(frozen=True)
class ProductPart:
    """One operator, of :data:`PRODUCTS`, with what of its inputs is constant."""
    op: Op
    constants: Mapping[str, np.ndarray]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.op.inputs if name and name not in self.constants)

    @property
    def output(self) -> str:
        return self.op.outputs[0]

    def run(self, device: "Device", values: Mapping[str, Any]) -> tuple[np.ndarray, Result, Work]:
        """The result, how the GEMMs ran, and what they were asked to do.

        Raises
        ------
        CompileError
            The operands do not fit each other, or a scale is none.
        DeviceError
            A program ended in an error.
        """
        given = [self.constants[name] if name in self.constants else np.asarray(values[name]) if name else None
                 for name in self.op.inputs]
        given += [None] * (8 - len(given))
        x, x_zero, w, w_zero = (given[index] for index in PRODUCTS[self.op.kind])
        assert x is not None and w is not None
        try:
            runner = _Runner(device, given if self.op.kind == "QLinearMatMul" else None)
            if self.op.kind == "ConvInteger":
                result = _convolution(Node(self.op, {}), runner, x, x_zero, w, w_zero)
            elif self.op.kind == TRANSPOSED:
                result = transposed_convolution(Node(self.op, {}), runner.grouped, x, x_zero, w, w_zero)
            else:
                result = _matmul(runner, x, x_zero, w, w_zero)
        except (ValueError, TypeError) as error:
            raise CompileError(f"{self.op.kind} {self.op.name!r}: {error}") from None
        return result, runner.total, Work(runner.macs, runner.bytes)


class _Runner:
    """GEMMs of codes less their zero points; the sums of all that ran.

    `given` are a QLinearMatMul's inputs; without them, results are int32.
    """

    def __init__(self, device: "Device", given: list[np.ndarray | None] | None):
        self._device = device
        self.total, self.macs, self.bytes = Result(0), 0, 0
        self._scale: np.ndarray | None = None
        self._zero, self.dtype = 0, np.dtype(np.int32)
        if given is not None:
            self._scale = _scale(given[1], given[4], given[6])
            zero = np.asarray(given[7]).reshape(-1)
            self.dtype = zero.dtype
            self._zero = int(zero[0]) - SHIFT * (self.dtype == np.uint8)

    def grouped(self, a: np.ndarray, a_zero: np.ndarray | None, b: np.ndarray) -> np.ndarray:
        """int32 [M, G, N] of [M, G, K], less its zero point, and [G, K, N].

        Groups that fill the array's columns together are one GEMM, with zeros beside each other's blocks.
        """
        groups, k, n = b.shape
        side, result = max(1, self._device.config.columns // max(1, n)), np.empty((len(a), groups, n), np.int32)
        for first in range(0, groups, side):
            blocks = b[first:first + side]
            count, here = len(blocks), slice(first, first + len(blocks))
            dense = np.zeros((count, k, count, n), b.dtype)
            dense[range(count), :, range(count)] = blocks
            part = self(a[:, here].reshape(len(a), -1), a_zero, dense.reshape(count * k, count * n), None, count)
            result[:, here] = part.reshape(len(a), count, n)
        return result

    def __call__(self, a: np.ndarray, a_zero: np.ndarray | None, b: np.ndarray, b_zero: np.ndarray | None,
                 groups: int = 1) -> np.ndarray:
        """[M, K] times [K, N], each less its zero point: a number, or one for each row or column.

        Of b, all but one of `groups` blocks in a row are zeros, which do not count as work.
        """
        (m, k), n = a.shape, b.shape[1]
        if not m * k * n:
            raise ValueError(f"the chip does not multiply {list(a.shape)} and {list(b.shape)}")
        right = b.astype(np.int16) - (0 if b_zero is None else b_zero.astype(np.int16))
        bias = None
        if a_zero is None or a_zero.size == 1:
            unsigned = a.dtype == np.uint8
            zero = (0 if a_zero is None else int(a_zero.reshape(-1)[0])) - SHIFT * unsigned
            lefts = [(a ^ np.uint8(SHIFT)).view(np.int8) if unsigned else a]
            if zero:
                bias = (-zero * right.sum(0, dtype=np.int64)).astype(np.int32)
        else:
            lefts = int8_parts(a.astype(np.int16) - a_zero.astype(np.int16).reshape(-1, 1))
        rights = int8_parts(right)
        pairs = [(left, part) for left in lefts for part in rights]
        options: dict[str, Any] = {"bias": bias, "out": "int32"}
        if self._scale is not None:
            options |= {"out": "int8", "out_zero_point": self._zero,
                        "out_scale": np.ascontiguousarray(np.broadcast_to(self._scale, n))}
        done = self._device.compute(GemmRequest(np.concatenate([left for left, _ in pairs], axis=1),
                                                np.concatenate([part for _, part in pairs]), **options))
        self.total = self.total + done.run if self.macs else done.run
        self.macs += m * k * n // groups
        self.bytes += request_work(GemmRequest(lefts[0], rights[0], **options)).compulsory_bytes
        codes = np.asarray(done.codes)
        return codes.view(np.uint8) ^ np.uint8(SHIFT) if self.dtype == np.uint8 else codes


def _scale(x_scale: Any, w_scale: Any, y_scale: Any) -> np.ndarray:
    """From sums to the result's steps; :exc:`CompileError` if that is no positive number."""
    x_scale, w_scale, y_scale = (np.asarray(item).reshape(-1) for item in (x_scale, w_scale, y_scale))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scale = requantize_scale(x_scale[0], w_scale, y_scale[0])
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise CompileError("its scales must be positive and finite")
    return scale


def _matmul(runner: _Runner, a: np.ndarray, a_zero: np.ndarray | None, b: np.ndarray, b_zero: np.ndarray | None
            ) -> np.ndarray:
    """As :func:`numpy.matmul`: stacks of matrices, and vectors."""
    vectors = [axis for axis, item in ((-2, a), (-1, b)) if item.ndim == 1]
    a, b = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{list(a.shape)} and {list(b.shape)} do not fit each other")
    m, n = a.shape[-2], b.shape[-1]
    if b.ndim == 2 and (a_zero is None or a_zero.size == 1):
        result = runner(a.reshape(-1, a.shape[-1]), a_zero, b, b_zero).reshape(*a.shape[:-1], n)
    else:
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        lefts = np.broadcast_to(a, (*stack, *a.shape[-2:])).reshape(prod(stack), m, -1)
        rights = np.broadcast_to(b, (*stack, *b.shape[-2:])).reshape(prod(stack), -1, n)
        result = np.stack([runner(left, a_zero, right, b_zero) for left, right in zip(lefts, rights, strict=True)]
                          ).reshape(*stack, m, n)
    for axis in vectors:
        result = np.squeeze(result, axis)
    return result


def _convolution(node: Node, runner: _Runner, x: np.ndarray, x_zero: np.ndarray | None, w: np.ndarray,
                 w_zero: np.ndarray | None) -> np.ndarray:
    """Windows of the padded input, as rows, times the kernels, as columns."""
    flat = x.ndim == 3
    if flat:
        x, w = x[:, :, None], w[:, :, None]
    group, outputs, kernel = node.attributes.get("group", 1), len(w), (w.shape[2], w.shape[3])
    if w.shape[1] * group != x.shape[1] or outputs % group or (node.pair("kernel_shape", kernel) != kernel):
        raise ValueError(f"kernels {list(w.shape)} in {group} groups do not fit {list(x.shape)}")
    size, pads = node.window((x.shape[2], x.shape[3]), kernel, node.pair("strides"), node.pair("dilations"))
    rows = list(_windows(x, x_zero, kernel, size, pads, (node.pair("strides"), node.pair("dilations"))))
    taps = np.concatenate(rows)
    centred = w.astype(np.int16) - (0 if w_zero is None else w_zero.astype(np.int16).reshape(-1, 1, 1, 1))
    made = runner.grouped(taps.reshape(len(taps), group, -1), x_zero,
                          centred.reshape(group, outputs // group, -1).swapaxes(1, 2))
    result = made.reshape(len(x), *size, outputs).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(result[:, :, 0] if flat else result)


def _windows(x: np.ndarray, zero: np.ndarray | None, kernel: tuple[int, int], size: tuple[int, int],
             pads: tuple[int, int], steps: tuple[tuple[int, int], tuple[int, int]]) -> Iterator[np.ndarray]:
    """For each image, [places, channels, kernel]; what is beside it is the zero point."""
    (strides, dilations), (top, left) = steps, pads
    places = [np.arange(size[i])[:, None] * strides[i] + np.arange(kernel[i]) * dilations[i] for i in range(2)]
    height, width = (max(pads[i] + x.shape[2 + i], int(places[i].max()) + 1) for i in range(2))
    for image in x:
        padded = np.full((len(image), height, width), 0 if zero is None else zero.reshape(-1)[0], x.dtype)
        padded[:, top:top + x.shape[2], left:left + x.shape[3]] = image
        taps = padded[:, places[0][:, None, :, None], places[1][None, :, None, :]]  # [C, h, w, ky, kx]
        yield taps.transpose(1, 2, 0, 3, 4).reshape(size[0] * size[1], len(image), -1)
