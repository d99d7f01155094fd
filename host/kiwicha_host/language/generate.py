"""Text from a language model: the most likely token, again and again, on whatever decoder there is."""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from kiwicha import ChipConfig

from .. import arguments
from ..metrics import Work
from .model import LlamaConfig
from .tokenizer import TextStream, Tokenizer

__all__ = ["Completion", "Decoder", "Generated", "GenerationError", "complete", "figures", "generate", "macs"]


class GenerationError(RuntimeError):
    """A decoder's logits do not say which token comes next."""


class Decoder(Protocol):
    """What runs a model. It keeps the keys and values of all tokens that it was given."""

    @property
    def cycles(self) -> int:
        """Since it was opened."""

    @property
    def bytes(self) -> int:
        """Moved from and to memory since it was opened."""

    @property
    def compulsory_bytes(self) -> int:
        """The least that any schedule would have moved since then: for each call, weights and cache once, as they
        are stored.
        """

    def prefill(self, tokens: list[int]) -> np.ndarray:
        """float32 [vocabulary]: the logits after the last of `tokens`."""

    def step(self, token: int) -> np.ndarray:
        """float32 [vocabulary]: the logits after one more token."""

    def close(self) -> None:
        """Give back what it holds; nothing else is called after that."""


class Generated(NamedTuple):
    """A token, and the logits float32 [vocabulary] that it is the largest of."""
    token: int
    logits: np.ndarray


def generate(decoder: Decoder, prompt: Sequence[int], count: int, ends: Collection[int] = ()
             ) -> Iterator[Generated]:
    """Up to `count` tokens after those of `prompt`, each when it is known; one of `ends` is the last.

    Of several that are as likely, the lowest is taken.

    Raises
    ------
    GenerationError
        A logit is not a finite number.
    """
    arguments.integer("the number of tokens of prompt", len(prompt), 1)
    arguments.integer("count", count, 1)
    logits = decoder.prefill(list(prompt))
    for number in range(count):
        if not np.isfinite(logits).all():
            raise GenerationError(f"the logits of token {number + 1} are not all finite: the model's weights, or "
                                  "what was computed with them, are beyond float32")
        token = int(logits.argmax())
        yield Generated(token, logits)
        if token in ends or number == count - 1:
            return
        logits = decoder.step(token)


@dataclass(frozen=True)
class Completion:
    """What came after a prompt of `prompt_tokens` tokens, and what it took.

    `logits_sha256` is of the logits of all `tokens`, float32 with the lowest byte first, in their order. Cycles
    and bytes are those of the prompt (`prefill`) and of all (`cycles`, `bytes`).
    """
    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    logits_sha256: str
    cycles_prefill: int
    bytes_prefill: int
    cycles: int
    bytes: int
    compulsory_bytes: int
    wall_s: float


def complete(decoder: Decoder, tokenizer: Tokenizer, prompt: Sequence[int], count: int,
             show: Callable[[str], None] | None = None) -> Completion:
    """Up to `count` tokens after `prompt`; `show` gets their text as it comes."""
    ends, digest, stream = tokenizer.vocabulary.ends, hashlib.sha256(), TextStream(tokenizer)
    texts: list[str] = []
    tokens: list[int] = []
    prefill = (0, 0)

    def say(text: str) -> None:
        texts.append(text)
        if text and show is not None:
            show(text)

    start = time.perf_counter()
    for token, logits in generate(decoder, prompt, count, ends):
        if not tokens:
            prefill = decoder.cycles, decoder.bytes
        tokens.append(token)
        digest.update(logits.astype("<f4").tobytes())
        if token not in ends:
            say(stream.push(token))
    say(stream.end())
    return Completion("".join(texts), tuple(tokens), len(prompt), digest.hexdigest(), *prefill, decoder.cycles,
                      decoder.bytes, decoder.compulsory_bytes, time.perf_counter() - start)


# Figures.

def macs(model: LlamaConfig, prompt: int, steps: int) -> int:
    """Multiply-accumulates of a prompt of `prompt` tokens at once and `steps` single ones: each position looks at
    itself and all before, and only the last of each call needs logits.
    """
    arguments.instance("model", model, LlamaConfig)
    prompt, steps = arguments.integer("prompt", prompt, 1), arguments.integer("steps", steps, 0)
    positions, q, kv = prompt + steps, model.heads * model.head_size, model.kv_heads * model.head_size
    layer = model.width * (2 * q + 2 * kv + 3 * model.ffn)
    attention = 2 * q * (positions * (positions + 1) // 2)
    return model.layers * (positions * layer + attention) + (1 + steps) * model.width * model.vocabulary


def figures(device: str, config: ChipConfig, model: LlamaConfig, done: Completion) -> dict[str, Any]:
    """What the command reports of a completion; None where there is nothing. Utilization and the fraction of the
    roofline are those of prompt and tokens together.
    """
    if not isinstance(device, str):
        raise TypeError(f"device must be a device's name, not {arguments.shown(device)}")
    arguments.chip(config)
    arguments.instance("done", done, Completion)
    steps, cycles = len(done.tokens) - 1, done.cycles or None
    work = Work(macs(model, done.prompt_tokens, steps), done.compulsory_bytes)
    return {"text": done.text, "tokens": list(done.tokens), "prompt_tokens": done.prompt_tokens,
            "logits_sha256": done.logits_sha256, "device": device, "config": config.name,
            "cycles_prefill": done.cycles_prefill,
            "cycles_per_token": (done.cycles - done.cycles_prefill) / steps if steps else None,
            "bytes_per_token": (done.bytes - done.bytes_prefill) / steps if steps else None,
            "utilization": work.macs / (config.peak_macs_per_cycle * cycles) if cycles else None,
            "roofline_fraction": work.bound_cycles(config) / cycles if cycles else None,
            "wall_s": done.wall_s}
