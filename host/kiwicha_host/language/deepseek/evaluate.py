"""How well the stored model guesses the text that it was not trained on, and what it writes.

Run as ``python -m kiwicha_host.language.deepseek.evaluate [--tokens N]``; needs the extra `llm`. Half a minute
of one core.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from ..tokenizer import Tokenizer
from ..vocabulary import TokenKind, Vocabulary
from .exact import ExactDecoder
from .reference import Decoder
from .stored import load, vocabulary

__all__ = ["PROMPTS", "WINDOW", "WORDS", "bytes_of", "greedy", "loss", "main", "windows"]

#: How many tokens are guessed one after the other before all are forgotten.
WINDOW = 256
#: How many tokens are written after each of the prompts.
WORDS = 28
PROMPTS = ('The "while" statement\n*********************\n\nThe "while" statement is used',
           "Methods\n*******\n\nThe following methods are", 'Methods\n*******\n\n"str.find(sub)"\n\n   Return')


class _Decoder(Protocol):
    def prefill(self, tokens: np.ndarray) -> np.ndarray: ...

    def step(self, token: int) -> np.ndarray: ...

    def logits(self, tokens: np.ndarray) -> np.ndarray: ...


def windows(tokens: np.ndarray, size: int = WINDOW) -> Iterator[np.ndarray]:
    """Up to size + 1 of `tokens`, of which all but the first are to be guessed; the next begin with the last."""
    for start in range(0, len(tokens) - 1, size):
        yield tokens[start:start + size + 1]


def loss(decoder: Callable[[], _Decoder], tokens: np.ndarray) -> float:
    """The mean of -log(probability) of each token but the first, in nats; each window gets a new decoder."""
    nats = 0.0
    for window in windows(tokens):
        logits = decoder().logits(window[:-1]).astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        right = np.take_along_axis(logits, window[1:, None], axis=-1)[:, 0]
        nats += float(np.sum(np.log(np.exp(logits).sum(axis=-1)) - right))
    return nats / (len(tokens) - 1)


def bytes_of(tokens: np.ndarray, words: Vocabulary) -> int:
    """The length of a text, as UTF-8: a token has a character for each byte."""
    return sum(len(words.tokens[token]) for token in tokens if words.kinds[token] == TokenKind.NORMAL)


def greedy(decoder: _Decoder, prompt: Sequence[int], count: int) -> list[int]:
    """The `count` tokens after `prompt`, each the most likely one; of equal ones the lowest."""
    logits, tokens = decoder.prefill(np.array(prompt)), []
    for _ in range(count):
        tokens.append(int(logits.argmax()))
        if len(tokens) < count:
            logits = decoder.step(tokens[-1])
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, help="how many of the tokens held out (default: all)")
    parser.add_argument("--words", type=int, default=WORDS, help=f"tokens to write after each prompt ({WORDS})")
    options = parser.parse_args()
    if options.tokens is not None and options.tokens < 2:
        parser.error(f"--tokens must be at least 2, not {options.tokens}")
    if options.words < 1:
        parser.error(f"--words must be at least 1, not {options.words}")
    trained, words = load(), vocabulary()
    tokens = trained.held_out[:options.tokens]
    per_byte = (len(tokens) - 1) / bytes_of(tokens[1:], words) / math.log(2)
    decoders: dict[str, Callable[[], _Decoder]] = {
        "stored weights, float32": lambda: Decoder(trained.model),
        "stored weights, the chip's arithmetic": lambda: ExactDecoder(trained.model)}

    print(f"{len(tokens)} tokens, {bytes_of(tokens, words)} bytes\n")
    print("| | nats per token | bits per byte |\n|---|---|---|")
    losses = dict(trained.notes["losses"]) if len(tokens) == len(trained.held_out) else {}
    for name, nats in losses.items():
        print(f"| {name} | {nats:.4f} | {nats * per_byte:.4f} |")
    for name, decoder in decoders.items():
        nats = loss(decoder, tokens)
        print(f"| {name} | {nats:.4f} | {nats * per_byte:.4f} |", flush=True)
    tokenizer = Tokenizer(words)
    for prompt in PROMPTS:
        for name, decoder in decoders.items():
            text = tokenizer.decode(greedy(decoder(), tokenizer.encode(prompt), options.words))
            print(f"\n{name}:\n```\n{prompt}[{text}]\n```", flush=True)


if __name__ == "__main__":
    main()
