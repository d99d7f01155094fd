"""Texts to tokens and back, by a vocabulary from a model's file and the package tokenizers.

Tokens that control a model (<|im_start|>) are known by their text within a prompt, and have no text in an answer.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from .. import arguments
from ..extras import extra
from .vocabulary import LLAMA3, TokenKind, Vocabulary

__all__ = ["TextStream", "Tokenizer", "TokenizerError"]

#: Ways to cut a text into words, by the names that llama.cpp gave them: as GPT-2 does, alone or after each digit
#: has become a word. Llama 3's is given as a pattern.
_GPT2, _DIGITS = ("gpt-2",), ("smollm", "starcoder", "refact", "command-r")
_LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                 r"|\s*[\r\n]+|\s+(?!\S)|\s+")
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_BLANK = "\u2581"


class TokenizerError(ValueError):
    """A vocabulary of a kind that is not supported, or a text that it has no tokens for."""


class Tokenizer:
    """Texts to tokens and back.

    Parameters
    ----------
    vocabulary : Vocabulary

    Raises
    ------
    TokenizerError
        The vocabulary is of a kind that is not supported, or makes no sense.
    MissingExtra
        The package tokenizers is not installed.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = arguments.instance("vocabulary", vocabulary, Vocabulary)
        with extra("llm"):
            import tokenizers
        [(text, count)] = Counter(vocabulary.tokens).most_common(1)
        if count > 1:
            raise TokenizerError(f"the vocabulary has the token {arguments.shown(text)} {count} times")
        for text, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True):
            if kind == TokenKind.BYTE and not _BYTE.fullmatch(text):
                raise TokenizerError(f"the vocabulary is damaged: {arguments.shown(text)} is to be a byte")
        self._byte_level = vocabulary.model == "gpt2"
        self._bytes_of = {character: byte for byte, character in _characters()}
        try:
            self._tokenizer = tokenizers.Tokenizer((_byte_pairs if self._byte_level else _scored)(vocabulary))
        except TokenizerError:
            raise
        except Exception as error:      # the library has no other class for what it does not accept
            raise TokenizerError(f"the vocabulary is damaged: {arguments.shown(str(error))}") from None
        _prepare(self._tokenizer, vocabulary)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, after the one that begins every text if the vocabulary has such a one.

        Raises
        ------
        TokenizerError
            `text` has a character that no token, and no tokens for bytes, stand for.
        """
        arguments.instance("text", text, str)
        vocabulary = self.vocabulary
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"the text has {text[error.start]!r}, which is not valid in UTF-8") from None
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._byte_level:
            lost = b"".join(self._bytes(token, with_control=True) for token in tokens) != raw
        else:
            lost = vocabulary.unknown in tokens
        if lost:
            raise TokenizerError(f"the vocabulary has no tokens for all of {arguments.shown(text)}")
        return [vocabulary.bos, *tokens] if vocabulary.add_bos and vocabulary.bos is not None else tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        stream = TextStream(self)
        return "".join([*map(stream.push, tokens), stream.end()])

    def _bytes(self, token: int, with_control: bool = False) -> bytes:
        """What `token` adds to a text."""
        text, kind = self.vocabulary.tokens[token], self.vocabulary.kinds[token]
        if kind == TokenKind.CONTROL:
            return text.encode() if with_control else b""
        if kind == TokenKind.UNKNOWN:
            return "\ufffd".encode()
        if kind == TokenKind.BYTE:
            return bytes([int(text[3:5], 16)])
        if not self._byte_level:
            return text.replace(_BLANK, " ").encode()
        known = self._bytes_of
        # An added token may have any text; those that were learned have a character for each byte.
        plain = kind == TokenKind.USER_DEFINED or not all(character in known for character in text)
        return text.encode() if plain else bytes(known[character] for character in text)


class TextStream:
    """Text as its tokens come: what is not yet a whole character is held back."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """What can be printed after one more token."""
        token = arguments.integer("token", token, 0, len(self._tokenizer.vocabulary.tokens) - 1)
        return self._decoder.decode(self._tokenizer._bytes(token))

    def end(self) -> str:
        """What is left: U+FFFD if the last character never became whole."""
        return self._decoder.decode(b"", final=True)


def _characters() -> Iterator[tuple[int, str]]:
    """Bytes and the characters that stand for them: those that can be printed for themselves, all others from
    U+0100 on (GPT-2's table).
    """
    others = iter(range(0x100, 0x200))
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)
        yield byte, chr(byte if printable else next(others))


def _byte_pairs(vocabulary: Vocabulary) -> Any:
    """Merges in the order of their list."""
    from tokenizers import models
    if vocabulary.pre not in (*_GPT2, *_DIGITS, *LLAMA3):
        raise TokenizerError(f"the vocabulary cuts words as {arguments.shown(vocabulary.pre)} does; "
                             f"supported are {', '.join((*_GPT2, *_DIGITS, *LLAMA3))}")
    for pair in vocabulary.merges:
        if pair.count(" ") != 1:
            raise TokenizerError(f"the vocabulary is damaged: {arguments.shown(pair)} is no pair of tokens to "
                                 "merge")
    merges = [(pair.partition(" ")[0], pair.partition(" ")[2]) for pair in vocabulary.merges]
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    return models.BPE(ids, merges, ignore_merges=vocabulary.pre in LLAMA3)


def _scored(vocabulary: Vocabulary) -> Any:
    """SentencePiece's way: of all neighbours that together are a token, the best scored are merged first. So each
    way to cut a token into two is a pair to merge.
    """
    from tokenizers import models
    tokens, scores, kinds = vocabulary.tokens, vocabulary.scores, vocabulary.kinds
    if len(scores) != len(tokens):
        raise TokenizerError(f"the vocabulary has {len(tokens)} tokens, and scores for {len(scores)}")
    if vocabulary.unknown is None:
        raise TokenizerError("the vocabulary has no token for what is unknown")
    ids = {token: number for number, token in enumerate(tokens)}
    learned = sorted((number for number, token in enumerate(tokens)
                      if kinds[number] == TokenKind.NORMAL and len(token) > 1), key=lambda number: -scores[number])
    for one, other in pairwise(learned):
        if not scores[one] > scores[other]:
            raise TokenizerError(f"the vocabulary scores {arguments.shown(tokens[one])} as "
                                 f"{arguments.shown(tokens[other])}: which of the two "
                                 "to merge first is not said")
    merges = [(token[:cut], token[cut:]) for token in map(tokens.__getitem__, learned)
              for cut in range(1, len(token)) if token[:cut] in ids and token[cut:] in ids]
    return models.BPE(ids, merges, unk_token=tokens[vocabulary.unknown], byte_fallback=True)


def _prepare(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """What comes before the merges: tokens that are known by their text, and cutting what is between them."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
    for kind, special in ((TokenKind.CONTROL, True), (TokenKind.USER_DEFINED, False)):
        added = [AddedToken(token, special=special, normalized=False)
                 for token, item in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if item == kind]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    if vocabulary.model == "llama":
        blanks = [normalizers.Replace(" ", _BLANK)]
        prefix = [normalizers.Prepend(_BLANK)] if vocabulary.add_space_prefix else []
        tokenizer.normalizer = normalizers.Sequence(prefix + blanks)
        return
    first: list[Any] = []
    if vocabulary.pre in _DIGITS:
        first = [pre_tokenizers.Digits(individual_digits=True)]
    elif vocabulary.pre in LLAMA3:
        first = [pre_tokenizers.Split(Regex(_LLAMA3_WORDS), "isolated")]
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=vocabulary.pre not in LLAMA3)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, bytewise])
