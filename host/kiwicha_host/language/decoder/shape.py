"""A decoder's sizes in whole scale blocks: what every chip computes alike."""

from dataclasses import dataclass

from ..model import LlamaConfig

__all__ = ["BLOCK", "DecoderShape"]

#: Elements that share a scale: MXINT8, as OCP MX has it. Arrays are at most as wide, and divide it.
BLOCK = 32
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

    def __post_init__(self) -> None:
        if self.value_head > _MOST_SHARED:
            raise ValueError(f"heads must have at most {_MOST_SHARED} elements, which share one scale of V, "
                             f"not {self.model.head_size}")

    @property
    def width(self) -> int:
        return _whole(self.model.width)

    @property
    def half_head(self) -> int:
        return _whole(self.model.head_size // 2)

    @property
    def head(self) -> int:
        """Elements of a head of Q or K."""
        return 2 * self.half_head

    @property
    def value_head(self) -> int:
        return _whole(self.model.head_size)

    @property
    def ffn(self) -> int:
        return _whole(self.model.ffn)

    @property
    def vocabulary(self) -> int:
        return _whole(self.model.vocabulary)

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


def _whole(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
