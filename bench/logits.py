"""Whether a language model's logits are the same bits everywhere: ``python -m bench.logits MODEL.gguf|DIR``.

The model continues a prompt on chips of several shapes, with the prompt cut in several ways, alone and beside
other sequences. All must give the logits of :class:`kiwicha_host.language.exact.ExactDecoder`; exit status 1 if
one does not.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.language.decoder import ChipDecoder
from kiwicha_host.language.exact import ExactDecoder
from kiwicha_host.language.generate import generate
from kiwicha_host.language.gguf_file import find_gguf, read_gguf
from kiwicha_host.language.model import LlamaModel
from kiwicha_host.language.tokenizer import Tokenizer

__all__ = ["CHIPS", "SPLITS", "digest", "runs", "truncated"]

_SMALL = ChipConfig.preset("small")
#: Chips by name; `4x4` and `32x8` are `small` with another array, and `4x4` has no indices.
CHIPS = {"wide": ChipConfig.preset("wide"), "small": _SMALL,
         "4x4": dataclasses.replace(_SMALL, name="small_4x4", rows=4, columns=4, vector_lanes=1, bank_lines=4096,
                              indices=False),
         "32x8": dataclasses.replace(_SMALL, name="small_32x8", rows=32)}
#: Tokens of the prompt that are taken at a time, at most.
SPLITS = (1, 4, 16)
#: Sequences beside the first; they have other tokens.
_BESIDE = 3


def truncated(model: LlamaModel, layers: int) -> LlamaModel:
    """The first layers of a model, and its head."""
    config = dataclasses.replace(model.config, layers=min(layers, model.config.layers))
    kept = {name: tensor for name, tensor in model.tensors.items()
            if not name.startswith("layers.") or int(name.split(".")[1]) < config.layers}
    return LlamaModel(config, kept)


def digest(logits: list[np.ndarray]) -> str:
    """SHA-256 of logits, float32 with the lowest byte first."""
    return hashlib.sha256(b"".join(values.astype("<f4").tobytes() for values in logits)).hexdigest()


def runs(model: LlamaModel, prompt: list[int], tokens: list[int], device: str, chips: list[str]
         ) -> Iterator[tuple[str, str, str]]:
    """(chip, how, SHA-256) of the logits of `prompt` and each of `tokens` but the last."""
    context = len(prompt) + len(tokens)
    for name in chips:
        with open_device(device, config=CHIPS[name]) as opened:
            for split in SPLITS:
                decoder = ChipDecoder(model, opened, context, rows=split)
                logits = [decoder.prefill(prompt), *(decoder.step(token) for token in tokens[:-1])]
                yield name, f"{split} at a time", digest(logits)
            decoder = ChipDecoder(model, opened, context, sequences=1 + _BESIDE)
            logits = [decoder.prefill(prompt)]
            for beside in range(1, 1 + _BESIDE):
                decoder.prefill(prompt[:-beside] or prompt, beside)
            for token in tokens[:-1]:
                logits.append(decoder.steps({0: token, **dict.fromkeys(range(1, 1 + _BESIDE), prompt[0])})[0])
            yield name, f"a batch of {1 + _BESIDE}", digest(logits)


@click.command()
@click.argument("path", metavar="MODEL.gguf|DIR", type=click.Path(path_type=Path))
@click.option("--prompt", default="The capital of France is", show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), default=4, show_default=True, help="How many follow.")
@click.option("--layers", type=click.IntRange(min=1), default=None, help="Only the first so many.")
@click.option("--device", type=click.Choice(["golden", "verilated"]), default="golden", show_default=True)
@click.option("--chip", "chips", type=click.Choice(list(CHIPS)), multiple=True, help="One of them; default: all.")
def main(path: Path, prompt: str, tokens: int, layers: int | None, device: str, chips: tuple[str, ...]) -> None:
    loaded = read_gguf(find_gguf(path))
    tokenizer, model = Tokenizer(loaded.vocabulary), loaded.model
    if layers is not None:
        model = truncated(model, layers)
    start = tokenizer.encode(prompt)
    made = list(generate(ExactDecoder(model), start, tokens))
    following, expected = [item.token for item in made], digest([item.logits for item in made])
    print(f"{prompt!r} goes on {tokenizer.decode(following)!r}\n{expected}  in numpy", flush=True)
    wrong = 0
    for chip, how, found in runs(model, start, following, device, list(chips or CHIPS)):
        wrong += found != expected
        print(f"{found}  {chip}, {how}{'' if found == expected else ': NOT THE SAME'}", flush=True)
    if wrong:
        raise click.ClickException(f"{wrong} runs have other logits than numpy")


if __name__ == "__main__":
    main()
