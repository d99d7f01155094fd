"""A vocabulary as a model's file holds it."""

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["LLAMA3", "TokenKind", "Vocabulary"]

#: The names of Llama 3's way to cut a text into words.
LLAMA3 = ("llama3", "llama-v3", "llama-bpe")


class TokenKind(IntEnum):
    """What a token is, by the numbers that GGUF uses."""
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens, and how a text becomes tokens.

    Parameters
    ----------
    model : str
        "gpt2": pairs of neighbours in a text's bytes are merged in the order of `merges`; "llama": pairs of
        characters, the best of `scores` first, and single bytes for characters that are no tokens.
    pre : str
        How a text is cut into words before that ("gpt2" only): a name that llama.cpp gave.
    tokens : tuple of str
        By their number. Those of "gpt2" have a printable character for each byte, those of "llama" U+2581 for a
        blank and <0x0A> for a byte.
    kinds : tuple of TokenKind
    merges : tuple of str
        "gpt2": two tokens with a blank between them.
    scores : tuple of float
        "llama": one for each token.
    bos : int or None
        The token that begins a text, if `add_bos`.
    ends : frozenset of int
        The tokens that end what is generated.
    unknown : int or None
        "llama": what stands for a character that is no token if there are no bytes.
    add_space_prefix : bool
        "llama": a blank is put before the text.
    """
    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    bos: int | None = None
    ends: frozenset[int] = frozenset()
    unknown: int | None = None
    add_bos: bool = False
    add_space_prefix: bool = False
