"""A decoder's sizes in whole scale blocks: what every chip computes alike."""

from dataclasses import dataclass

from ..model import LlamaConfig
from .numbers import MXINT8, Numbers, padded

__all__ = ["KEPT", "DecoderShape"]

#: Queries, keys and values, and what values are weighted with.
KEPT = MXINT8
#: Elements that one dynamic scale can be for.
_MOST_SHARED = 128


@dataclass(frozen=True)
class DecoderShape:
    """Sizes that are padded with zeros to whole blocks, which changes no value.

    The two halves of a head that RoPE turns into each other are padded apart, so that they are in the same place
    of two groups of lines; a value head is one block of V's own scale.

    Raises
    ------
    ValueError
        A head is too wide for one scale.
    """
    model: LlamaConfig
    numbers: Numbers = MXINT8

    def __post_init__(self) -> None:
        if self.value_head > _MOST_SHARED:
            raise ValueError(f"heads must have at most {_MOST_SHARED} elements, which share one scale of V, "
                             f"not {self.model.head_size}")

    @property
    def width(self) -> int:
        return padded(self.model.width)

    @property
    def half_head(self) -> int:
        return padded(self.model.head_size // 2)

    @property
    def head(self) -> int:
        """Elements of a head of Q or K."""
        return 2 * self.half_head

    @property
    def value_head(self) -> int:
        return padded(self.model.head_size)

    @property
    def ffn(self) -> int:
        return padded(self.model.ffn)

    @property
    def vocabulary(self) -> int:
        return padded(self.model.vocabulary)

    @property
    def q(self) -> int:
        """Columns of all heads of Q."""
        return self.model.heads * self.head

    @property
    def k(self) -> int:
        return self.model.kv_heads * self.head

    @property
    def v(self) -> int:
        return self.model.kv_heads * self.value_head

    @property
    def group(self) -> int:
        """Heads of Q that share one of K and V."""
        return self.model.heads // self.model.kv_heads
