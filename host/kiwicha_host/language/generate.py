"""Text from a language model: the most likely token, again and again, on whatever decoder there is."""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from kiwicha import ChipConfig

from .. import arguments
from ..golden.numerics import total_order
from ..metrics import Work
from .deepseek.config import DeepSeekConfig
from .model import LlamaConfig
from .tokenizer import TextStream, Tokenizer

__all__ = ["BatchDecoder", "Completion", "Decoder", "Generated", "GenerationError", "Verified", "complete",
           "complete_all", "figures", "generate", "macs"]


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


class BatchDecoder(Decoder, Protocol):
    """One that keeps several sequences apart, by their numbers from 0 on."""

    def prefill(self, tokens: list[int], sequence: int = 0) -> np.ndarray:
        """float32 [vocabulary]: the logits after the last of `tokens` in a sequence."""

    def steps(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """The logits after one more token of each of some sequences."""


class Verified:
    """A decoder of which all logits must have the same bits as another's.

    Raises
    ------
    GenerationError
        They have not.
    """

    def __init__(self, decoder: BatchDecoder, other: BatchDecoder):
        self._decoder, self._other = decoder, other

    @property
    def cycles(self) -> int:
        return self._decoder.cycles

    @property
    def bytes(self) -> int:
        return self._decoder.bytes

    @property
    def compulsory_bytes(self) -> int:
        return self._decoder.compulsory_bytes

    @property
    def chosen(self) -> Mapping[int, int]:
        """What chips have found; raises :exc:`GenerationError` if it is not the same."""
        chosen, other = _chosen(self._decoder), _chosen(self._other)
        if chosen != other:
            raise GenerationError(f"the tokens {chosen} differ from the golden device's, {other}; please report "
                                  "it")
        return chosen

    def prefill(self, tokens: list[int], sequence: int = 0) -> np.ndarray:
        return _same(self._decoder.prefill(tokens, sequence), self._other.prefill(tokens, sequence))

    def step(self, token: int) -> np.ndarray:
        return _same(self._decoder.step(token), self._other.step(token))

    def steps(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        logits, others = self._decoder.steps(tokens), self._other.steps(tokens)
        return {number: _same(values, others[number]) for number, values in logits.items()}

    def close(self) -> None:
        self._decoder.close()
        self._other.close()


def _same(logits: np.ndarray, others: np.ndarray) -> np.ndarray:
    differing = np.flatnonzero(logits.view(np.uint32) != others.view(np.uint32))
    if differing.size:
        token = differing[0]
        raise GenerationError(f"{differing.size} of {logits.size} logits differ from the golden device's, first "
                              f"that of token {token}: {logits[token]!r}, not {others[token]!r}; please report it")
    return logits


class Generated(NamedTuple):
    """A token, and the logits float32 [vocabulary] that it is the largest of."""
    token: int
    logits: np.ndarray


def _chosen(decoder: Decoder) -> Mapping[int, int]:
    """The tokens that a chip has found, by their sequences; the others' are for the host to find."""
    return getattr(decoder, "chosen", {})


def generate(decoder: Decoder, prompt: Sequence[int], count: int, ends: Collection[int] = ()
             ) -> Iterator[Generated]:
    """Up to `count` tokens after those of `prompt`, each when it is known; one of `ends` is the last.

    The decoder's own choice is taken, where it makes one, or the same: the largest logit in total order, and of
    equal ones the lowest token.

    Raises
    ------
    GenerationError
        A logit is not a finite number.
    """
    arguments.integer("the number of tokens of prompt", len(prompt), 1)
    arguments.integer("count", count, 1)
    logits = decoder.prefill(list(prompt))
    for number in range(count):
        token = _likeliest(decoder, 0, logits, number)
        yield Generated(token, logits)
        if token in ends or number == count - 1:
            return
        logits = decoder.step(token)


def _likeliest(decoder: Decoder, sequence: int, logits: np.ndarray, number: int) -> int:
    if not np.isfinite(logits).all():
        raise GenerationError(f"the logits of token {number + 1} are not all finite: the model's weights, or "
                              "what was computed with them, are beyond float32")
    chosen = _chosen(decoder).get(sequence)
    return int(total_order(logits).argmax()) if chosen is None else chosen


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
    growing, start = _Growing(tokenizer, prompt, show), time.perf_counter()
    for token, logits in generate(decoder, prompt, count, tokenizer.vocabulary.ends):
        growing.push(token, logits)
        growing.took = _figures_of(decoder)
        if len(growing.tokens) == 1:
            growing.prefill = growing.took
    return growing.end(time.perf_counter() - start)


def complete_all(decoder: BatchDecoder, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], count: int
                 ) -> list[Completion]:
    """Up to `count` tokens after each of `prompts`, a step for all of them at once.

    What such a step takes is shared out evenly; seconds are those of all together.
    """
    arguments.integer("count", count, 1)
    start, ends = time.perf_counter(), tokenizer.vocabulary.ends
    all_growing = [_Growing(tokenizer, prompt) for prompt in prompts]
    logits: dict[int, np.ndarray] = {}
    for number, growing in enumerate(all_growing):
        before = _figures_of(decoder)
        logits[number] = decoder.prefill(list(prompts[number]), number)
        growing.prefill = growing.took = _figures_of(decoder) - before
    while logits:
        following = {}
        for number, values in logits.items():
            growing = all_growing[number]
            token = _likeliest(decoder, number, values, len(growing.tokens))
            growing.push(token, values)
            if token not in ends and len(growing.tokens) < count:
                following[number] = token
        before = _figures_of(decoder)
        logits = decoder.steps(following) if following else {}
        for number in following:
            all_growing[number].took = all_growing[number].took + (_figures_of(decoder) - before) / len(following)
    seconds = time.perf_counter() - start
    return [growing.end(seconds) for growing in all_growing]


def _figures_of(decoder: Decoder) -> np.ndarray:
    """Cycles, bytes and compulsory bytes."""
    return np.array([decoder.cycles, decoder.bytes, decoder.compulsory_bytes])


class _Growing:
    """A completion that is being made; `prefill` and `took` are :func:`_figures_of` its prompt and all of it."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], show: Callable[[str], None] | None = None):
        self._ends, self._stream, self._show = tokenizer.vocabulary.ends, TextStream(tokenizer), show
        self._prompt, self._digest, self._texts = len(prompt), hashlib.sha256(), [""]
        self.tokens: list[int] = []
        self.prefill = self.took = np.zeros(3, int)

    def push(self, token: int, logits: np.ndarray) -> None:
        self.tokens.append(token)
        self._digest.update(logits.astype("<f4").tobytes())
        if token not in self._ends:
            self._say(self._stream.push(token))

    def _say(self, text: str) -> None:
        self._texts.append(text)
        if text and self._show is not None:
            self._show(text)

    def end(self, seconds: float) -> Completion:
        self._say(self._stream.end())
        (prefill, moved, _), (cycles, all_moved, compulsory) = (
            [round(value) for value in figures] for figures in (self.prefill, self.took))
        return Completion("".join(self._texts), tuple(self.tokens), self._prompt, self._digest.hexdigest(),
                          prefill, moved, cycles, all_moved, compulsory, seconds)


# Figures.

#: A model's sizes.
Sizes = LlamaConfig | DeepSeekConfig


def macs(model: Sizes, prompt: int, steps: int) -> int:
    """Multiply-accumulates of a prompt of `prompt` tokens at once and `steps` single ones: each position looks at
    itself and all before, and only the last of each call needs logits.
    """
    if not isinstance(model, DeepSeekConfig):
        arguments.instance("model", model, LlamaConfig)
    prompt, steps = arguments.integer("prompt", prompt, 1), arguments.integer("steps", steps, 0)
    positions = prompt + steps
    return (positions * model.position_macs + positions * (positions + 1) // 2 * model.pair_macs
            + (1 + steps) * model.width * model.vocabulary)


def figures(device: str, config: ChipConfig, model: Sizes, done: Completion) -> dict[str, Any]:
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
