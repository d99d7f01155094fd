"""A DeepSeek decoder's sizes, padded with zeros, which changes no value."""

from dataclasses import dataclass

from kiwicha.isa import TOP_MOST

from ...decoder.heads import Heads
from ...decoder.layers import LOG2_E
from ...decoder.numbers import E4M3, padded
from ..config import DeepSeekConfig

__all__ = ["DeepSeekShape"]


@dataclass(frozen=True)
class DeepSeekShape:
    """See the module. The two halves of what RoPE turns are padded apart.

    Raises
    ------
    ValueError
        Something is no whole block of 128, or there are more choices than a chip makes at once.
    """
    model: DeepSeekConfig

    def __post_init__(self) -> None:
        model = self.model
        for name in ("nope_size", "value_size", "kv_rank"):
            if getattr(model, name) % E4M3.block:
                raise ValueError(f"{name} must be a multiple of {E4M3.block}, not {getattr(model, name)}")
        for name in ("kept_groups", "chosen"):
            if getattr(model, name) > TOP_MOST:
                raise ValueError(f"{name} must be at most {TOP_MOST}, not {getattr(model, name)}")

    @property
    def width(self) -> int:
        return padded(self.model.width)

    @property
    def q_rank(self) -> int:
        return padded(self.model.q_rank)

    @property
    def half(self) -> int:
        """Of what RoPE turns."""
        return padded(self.model.rope_size // 2)

    @property
    def key(self) -> int:
        """Elements that are kept of a position."""
        return self.model.kv_rank + 2 * self.half

    @property
    def latents(self) -> int:
        """The latent queries of a row, and what is kept of it, before their norms."""
        return self.q_rank + self.key

    @property
    def query(self) -> int:
        """A head's query as it comes from its latent vector."""
        return self.model.nope_size + 2 * self.half

    @property
    def values(self) -> int:
        """Of all heads."""
        return self.model.heads * self.model.value_size

    @property
    def vocabulary(self) -> int:
        return padded(self.model.vocabulary)

    @property
    def group_size(self) -> int:
        return self.model.experts // self.model.groups

    @property
    def heads(self) -> Heads:
        """All share the latent vectors, as keys with the rotated part and as values, 128 dimensions a scale."""
        model = self.model
        return Heads(model.heads, self.key, (E4M3.block,) * (model.kv_rank // E4M3.block), E4M3,
                     model.softmax_scale * LOG2_E)
