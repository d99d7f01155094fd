"""A Llama model in other coordinates, in which fewer numbers stand out, so that blocks of one scale lose less.

Hadamard matrices of order 4^i, over 2^i, are orthogonal. What goes from layer to layer is multiplied by one where
it is added to, and weights that read it by the same one: the products are the old ones. RMSNorm divides by a
length, which stays; its factors move into the weights behind it. Values of attention are turned likewise, between
their matrix and the output's. Nothing of this is left for the chip to compute, and norms need no factors any more
(QuaRot: Ashkboos et al., arXiv:2404.00456, section 4; what needs products on the way is left out).

All of it is additions in a fixed order, and products with powers of two and the norms' factors, each rounded to
float32: the same bits on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .model import LlamaModel, Tensor, shapes

__all__ = ["hadamard", "rotated"]


@dataclass(frozen=True)
class _Made:
    """A tensor of `shape` whose rows `make` makes when they are asked for."""
    shape: tuple[int, ...]
    make: Callable[[Any], np.ndarray]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.make(rows)


def rotated(model: LlamaModel) -> LlamaModel:
    """The same model but for float32's rounding, with norms whose factors are all 1 and a head of its own."""
    config = replace(model.config, tied_head=False)
    made = shapes(config)
    layers = [_layer(model, number) for number in range(config.layers)]
    tensors: dict[str, Tensor] = {f"layers.{number}.{name}": _Made(made[f"layers.{number}.{name}"], make)
                                  for number, layer in enumerate(layers) for name, make in layer.items()}
    head = "embedding" if model.config.tied_head else "head"
    rest = {"embedding": _columns(model, "embedding"), "head": _columns(model, head, "out_norm"),
            "out_norm": _ones(config.width)}
    return LlamaModel(config, {**tensors, **{name: _Made(made[name], make) for name, make in rest.items()}})


def hadamard(x: np.ndarray, group: int) -> np.ndarray:
    """float32 [rows, columns]: a Hadamard matrix times x, for as many rows at a time as the greatest power of four
    that divides `group`. Done twice, it gives x.
    """
    order = 1
    while group % (4 * order) == 0:
        order *= 4
    y = x.astype(np.float32)
    half = 1
    with np.errstate(invalid="ignore", over="ignore"):      # of infinities there may be NaN
        while half < order:
            first, second = np.moveaxis(y.reshape(-1, 2, half, x.shape[1]), 1, 0)
            total = first + second
            np.subtract(first, second, out=second)
            first[...] = total
            half *= 2
    y *= np.float32(order ** -0.5)
    return y


def _layer(model: LlamaModel, number: int) -> dict[str, Callable[[Any], np.ndarray]]:
    width, head_size, prefix = model.config.width, model.config.head_size, f"layers.{number}."
    made = {name: _columns(model, prefix + name, prefix + norm)
            for norm, names in (("attn_norm", ("q", "k")), ("ffn_norm", ("gate", "up"))) for name in names}
    values = _columns(model, prefix + "v", prefix + "attn_norm")

    def output(rows: Any) -> np.ndarray:
        weights = hadamard(model.read(prefix + "o").T, head_size).T
        return hadamard(weights, width)[rows]

    return {**made, "v": lambda rows: hadamard(values(...), head_size)[rows], "o": output,
            "down": lambda rows: hadamard(model.read(prefix + "down"), width)[rows],
            "attn_norm": _ones(width), "ffn_norm": _ones(width)}


def _columns(model: LlamaModel, name: str, norm: str | None = None) -> Callable[[Any], np.ndarray]:
    """What makes rows of a tensor that reads what was normalized, or of the embedding."""
    def make(rows: Any) -> np.ndarray:
        weights = model.read(name, rows)
        if norm is not None:
            weights = weights * model.read(norm)
        return np.ascontiguousarray(hadamard(weights.T, model.config.width).T)
    return make


def _ones(size: int) -> Callable[[Any], np.ndarray]:
    return lambda rows: np.ones(size, np.float32)[rows]
