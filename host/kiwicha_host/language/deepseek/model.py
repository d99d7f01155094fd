"""The weights of a language model of the DeepSeek-V3 kind, under the names of DeepSeek's inference code.

Weights are [out, in] everywhere, so that y = x @ w.T.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ... import arguments
from ...golden.block import decode, decode_scales, spread
from ..model import check_tensors
from .config import DeepSeekConfig

__all__ = ["Attention", "DeepSeekModel", "FeedForward", "Layer", "Mixture", "Quantized", "shapes"]


@dataclass(frozen=True)
class Quantized:
    """A matrix, or several of one shape, in a narrow format.

    Parameters
    ----------
    elements : [..., out, in] in the format's numpy type
    scales : uint8, E8M0 codes: for each row and each `block` of a row, [..., out, ceil(in / block)], or for each
        square of `block` rows and as many columns, [..., ceil(out / block), ceil(in / block)]
    block : int
    """
    elements: np.ndarray
    scales: np.ndarray
    block: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.elements.shape

    @property
    def values(self) -> np.ndarray:
        """float32, of the shape of `elements`."""
        scales = spread(decode_scales(self.scales), self.shape, self.block)
        return (decode(self.elements) * scales).astype(np.float32)

    def __getitem__(self, index: Any) -> "Quantized":
        """One of several matrices."""
        return Quantized(self.elements[index], self.scales[index], self.block)


#: A float32 array, or one in a narrow format.
Weights = Any


@dataclass(frozen=True)
class Attention:
    """wq_a [q_rank, width]; q_norm [q_rank]; wq_b [heads * (nope_size + rope_size), q_rank]; wkv_a [kv_rank +
    rope_size, width]; kv_norm [kv_rank]; wkv_b [heads * (nope_size + value_size), kv_rank]; wo [width, heads *
    value_size].
    """
    wq_a: Weights
    q_norm: np.ndarray
    wq_b: Weights
    wkv_a: Weights
    kv_norm: np.ndarray
    wkv_b: Weights
    wo: Weights


@dataclass(frozen=True)
class FeedForward:
    """A gated network, w2(silu(w1 x) * w3 x), or several: w1, w3 [..., ffn, width]; w2 [..., width, ffn]."""
    w1: Weights
    w2: Weights
    w3: Weights

    def __getitem__(self, number: int) -> "FeedForward":
        """One of several."""
        return FeedForward(self.w1[number], self.w2[number], self.w3[number])


@dataclass(frozen=True)
class Mixture:
    """gate float32 [experts, width]; bias float32 [experts], which counts for the choice only."""
    gate: np.ndarray
    bias: np.ndarray
    experts: FeedForward
    shared: FeedForward


@dataclass(frozen=True)
class Layer:
    """attn_norm, ffn_norm : float32 [width]."""
    attn_norm: np.ndarray
    attention: Attention
    ffn_norm: np.ndarray
    ffn: FeedForward | Mixture


def shapes(config: DeepSeekConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model and its shape; those of layer 3 are "layers.3.wq_a" and so on."""
    c = config
    attention = {"attn_norm": (c.width,), "wq_a": (c.q_rank, c.width), "q_norm": (c.q_rank,),
                 "wq_b": (c.heads * (c.nope_size + c.rope_size), c.q_rank),
                 "wkv_a": (c.kv_rank + c.rope_size, c.width), "kv_norm": (c.kv_rank,),
                 "wkv_b": (c.heads * (c.nope_size + c.value_size), c.kv_rank),
                 "wo": (c.width, c.heads * c.value_size), "ffn_norm": (c.width,)}
    dense = _ffn_shapes("", (), c.ffn, c.width)
    mixture = {"gate": (c.experts, c.width), "bias": (c.experts,),
               **_ffn_shapes("experts.", (c.experts,), c.expert_ffn, c.width),
               **_ffn_shapes("shared.", (), c.shared_ffn, c.width)}
    layers = {f"layers.{number}.{name}": shape for number in range(c.layers)
              for name, shape in (attention | (dense if number < c.dense_layers else mixture)).items()}
    return {"embed": (c.vocabulary, c.width), **layers, "norm": (c.width,), "head": (c.vocabulary, c.width)}


def _ffn_shapes(prefix: str, count: tuple[int, ...], ffn: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}w1": (*count, ffn, width), f"{prefix}w2": (*count, width, ffn),
            f"{prefix}w3": (*count, ffn, width)}


@dataclass(frozen=True)
class DeepSeekModel:
    """A model.

    Parameters
    ----------
    config : DeepSeekConfig
    tensors : mapping
        Those of :func:`shapes`, by name: float32 arrays or :class:`Quantized`.
    """
    config: DeepSeekConfig
    tensors: Mapping[str, Weights]

    def __post_init__(self) -> None:
        arguments.instance("config", self.config, DeepSeekConfig)
        check_tensors(self.tensors, shapes(self.config))

    @property
    def layers(self) -> list[Layer]:
        """The layers in their order."""
        return [self._layer(number) for number in range(self.config.layers)]

    @property
    def dequantized(self) -> "DeepSeekModel":
        """The same model with all tensors in float32."""
        return DeepSeekModel(self.config, {
            name: tensor.values if isinstance(tensor, Quantized) else tensor
            for name, tensor in self.tensors.items()})

    def embed(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [..., width] of tokens [...]."""
        tokens = np.asarray(tokens)
        for token in (tokens.min(), tokens.max()):
            arguments.integer("tokens", token.item(), 0, self.config.vocabulary - 1)
        return self.tensors["embed"][tokens]

    def _layer(self, number: int) -> Layer:
        at = f"layers.{number}."
        ffn: FeedForward | Mixture
        if number < self.config.dense_layers:
            ffn = self._part(FeedForward, at)
        else:
            ffn = Mixture(self.tensors[at + "gate"], self.tensors[at + "bias"],
                          self._part(FeedForward, at + "experts."), self._part(FeedForward, at + "shared."))
        return Layer(self.tensors[at + "attn_norm"], self._part(Attention, at), self.tensors[at + "ffn_norm"], ffn)

    def _part(self, kind: Any, at: str) -> Any:
        return kind(*(self.tensors[at + field.name] for field in fields(kind)))
