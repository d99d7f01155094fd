"""Some words of a language model of DeepSeek's architecture, each logit against numpy."""

from typing import Any

import numpy as np
from rich.console import Console

from ...language.decoder import ChipDecoder, open_decoder
from ...language.deepseek import stored
from ...language.deepseek.exact import ExactDecoder
from ...language.generate import complete
from ...language.tokenizer import Tokenizer
from .checks import Mismatch, check

__all__ = ["CONFIG", "PROMPT", "show_words"]

#: A chip that has what it takes.
CONFIG = "wide"
PROMPT = "Methods\n*******\n\nThe following methods are"


def show_words(console: Console, device: str, count: int) -> None:
    """Let the model that belongs to Kiwicha say `count` tokens, on a chip of its own on such a device.

    Raises
    ------
    MissingExtra
        The package tokenizers is not installed.
    Mismatch
        A logit differs, or a token is not that of the largest.
    """
    tokenizer, model = Tokenizer(stored.vocabulary()), stored.load().model
    prompt = tokenizer.encode(PROMPT)
    console.print(f"\n[bold]A language model of DeepSeek's architecture[/]: {model.config.layers} layers, "
                  f"{model.config.experts} experts, FP8 and FP4 weights; chip {CONFIG}")
    with console.status(f"Building the chip {CONFIG!r} ..."):
        opened = open_decoder(model, config=CONFIG, device=device, context=len(prompt) + count)
    decoder = _Checked(opened, ExactDecoder(model))
    console.print(f"  [bold]{PROMPT.splitlines()[-1]}[/]", end="")
    try:
        done = complete(decoder, tokenizer, prompt, count,
                        lambda text: console.print(text.replace("\n", " "), end="", markup=False))
    finally:
        decoder.close()
    console.print("\n  every logit equals that of numpy, and the chip found every token")
    if done.cycles:
        steps = len(done.tokens) - 1
        each = (done.cycles - done.cycles_prefill) / steps
        console.print(f"  {done.prompt_tokens} tokens of prompt in {done.cycles_prefill:,} cycles, then "
                      f"{each:,.0f} cycles a token; {(steps + 1) / done.wall_s:.1f} tokens per second")


class _Checked:
    """A decoder whose every result is compared with another's."""

    def __init__(self, decoder: ChipDecoder, other: ExactDecoder):
        self._decoder, self._other = decoder, other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def prefill(self, tokens: list[int]) -> np.ndarray:
        logits = self._decoder.prefill(tokens)
        check("numpy", {"logits": self._other.prefill(np.array(tokens))}, {"logits": logits})
        if self._decoder.chosen != {0: int(logits.argmax())}:
            raise Mismatch(f"the chip's token is {self._decoder.chosen[0]}, not {int(logits.argmax())}")
        return logits

    def step(self, token: int) -> np.ndarray:
        return self.prefill([token])
