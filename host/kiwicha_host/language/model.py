"""A language model of the Llama kind: its sizes, and its weights under the field's names.

Each layer adds two things to its input: attention over the normalized input, and a gated network (SwiGLU) over the
normalized sum. Weights are [out, in] everywhere, so that y = x @ w.T.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from .. import arguments

__all__ = ["Layer", "LlamaConfig", "LlamaModel", "PAIRS", "Tensor", "check_tensors", "shapes"]

#: Which dimensions of a head the rotary embedding turns together: 2i and 2i + 1, or i and i + head_size / 2.
PAIRS = ("neighbours", "halves")


@dataclass(frozen=True)
class LlamaConfig:
    """What a model's weights do not say by themselves.

    Parameters
    ----------
    layers, width, heads, kv_heads, head_size, ffn, vocabulary : int
        Sizes; `width` is that of what goes from layer to layer, `ffn` that inside the gated network. Each of the
        `kv_heads` serves heads / kv_heads heads, neighbours of one another.
    context : int
        The most positions that the model was made for.
    rope_base : float
        Pair i of a head turns by rope_base^(-2i / head_size) radians a position, divided by its factor.
    norm_epsilon : float
        Added to the mean square in RMSNorm.
    tied_head : bool
        The head's weights are the embedding's.
    rope_pairs : str
        One of :data:`PAIRS`.
    rope_factors : tuple of float
        head_size / 2 divisors of the pairs' angles, for long contexts; none: all are 1.
    """
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocabulary: int
    context: int
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5
    tied_head: bool = False
    rope_pairs: str = "neighbours"
    rope_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "head_size", "ffn", "vocabulary", "context"):
            arguments.integer(name, getattr(self, name), 1)
        arguments.number("rope_base", self.rope_base, positive=True)
        arguments.number("norm_epsilon", self.norm_epsilon)
        arguments.boolean("tied_head", self.tied_head)
        arguments.choice("rope_pairs", self.rope_pairs, PAIRS)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads, not {self.heads} for {self.kv_heads}")
        if self.head_size % 2:
            raise ValueError(f"head_size must be even, not {self.head_size}")
        if len(self.rope_factors) not in (0, self.head_size // 2):
            raise ValueError(f"rope_factors must be {self.head_size // 2} numbers, not {len(self.rope_factors)}")
        for factor in self.rope_factors:
            arguments.number("rope_factors", factor, positive=True)

    @property
    def position_macs(self) -> int:
        """Multiply-accumulates of a position but for attention and the head."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        return self.layers * self.width * (2 * q + 2 * kv + 3 * self.ffn)

    @property
    def pair_macs(self) -> int:
        """Those of attention, for a position and one that it looks at."""
        return self.layers * 2 * self.heads * self.head_size

    @property
    def rope_frequencies(self) -> np.ndarray:
        """By how many radians each pair of a head turns from one position to the next: float64
        [head_size / 2], factors included.
        """
        exponents = np.arange(0, self.head_size, 2) / self.head_size
        return self.rope_base ** -exponents / np.array(self.rope_factors or 1.0, np.float64)


@dataclass(frozen=True)
class Layer:
    """A layer's weights, float32.

    attn_norm, ffn_norm : [width]; q : [heads * head_size, width]; k, v : [kv_heads * head_size, width];
    o : [width, heads * head_size]; gate, up : [ffn, width]; down : [width, ffn].
    """
    attn_norm: np.ndarray
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray
    ffn_norm: np.ndarray
    gate: np.ndarray
    up: np.ndarray
    down: np.ndarray


def shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model and its shape; those of layer 3 are "layers.3.q" and so on."""
    width, ffn = config.width, config.ffn
    q, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    layer = {"attn_norm": (width,), "q": (q, width), "k": (kv, width), "v": (kv, width), "o": (width, q),
             "ffn_norm": (width,), "gate": (ffn, width), "up": (ffn, width), "down": (width, ffn)}
    return {"embedding": (config.vocabulary, width),
            **{f"layers.{number}.{name}": shape for number in range(config.layers)
               for name, shape in layer.items()},
            "out_norm": (width,),
            **({} if config.tied_head else {"head": (config.vocabulary, width)})}


def check_tensors(tensors: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise :exc:`ValueError` for a tensor that is missing, too much, or of another shape than `expected`."""
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"tensors must {'' if name in expected else 'not '}hold {name!r}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"tensor {name!r} must be {list(shape)}, not {list(tensors[name].shape)}")


class Tensor(Protocol):
    """An array, or what makes float32 of stored rows when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class LlamaModel:
    """A model. Its tensors may lie in a file in a narrow format: float32 comes about anew each time one of the
    attributes is read, and whoever needs it again keeps it.

    Parameters
    ----------
    config : LlamaConfig
    tensors : mapping
        Those of :func:`shapes`, by name.
    """
    config: LlamaConfig
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        arguments.instance("config", self.config, LlamaConfig)
        check_tensors(self.tensors, shapes(self.config))

    @property
    def embedding(self) -> np.ndarray:
        """float32 [vocabulary, width]; all of it, which may be the largest tensor of a small model."""
        return self.read("embedding")

    @property
    def out_norm(self) -> np.ndarray:
        """float32 [width], the factors of the last RMSNorm."""
        return self.read("out_norm")

    @property
    def head(self) -> np.ndarray:
        """float32 [vocabulary, width]; the embedding, if that is tied."""
        return self.read("embedding" if self.config.tied_head else "head")

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in their order, each read when it is taken."""
        return _Layers(self)

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [len(tokens), width]: only these rows of the embedding are read."""
        rows = [arguments.integer("tokens", token, 0, self.config.vocabulary - 1) for token in tokens]
        return self.read("embedding", rows)

    def read(self, name: str, rows: Any = ...) -> np.ndarray:
        """float32: some rows of a tensor, all unless told."""
        return np.asarray(self.tensors[name][rows], np.float32)


class _Layers(Sequence[Layer]):
    def __init__(self, model: LlamaModel):
        self._model = model

    def __len__(self) -> int:
        return self._model.config.layers

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        index = range(len(self))[number]
        return Layer(*(self._model.read(f"layers.{index}.{field.name}") for field in fields(Layer)))
