"""What formats cost a language model: ``python -m bench.perplexity MODEL.gguf|DIR``

Perplexity is e to the mean of -log(probability) of a text's tokens, each after those before it in its part of the
text. That is :data:`TEXTS`, descriptions of data sets that come with scikit-learn: English with markup, code and
numbers.

- float: weights as the file has them, and float32 throughout (``language/reference.py``);
- Q8_0: linear layers of weights and inputs as ``gguf`` quantizes them, blocks of 32 with FP16 scales; all else,
  attention too, in float32;
- mxint8, e4m3, mxfp4: the chip's arithmetic (``language/exact.py``), blocks of 32 with E8M0 scales. Queries, keys,
  values and probabilities have the format of inputs: int8, or E4M3 for the last two.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import click
import gguf
import numpy as np

from kiwicha_host import arguments
from kiwicha_host.language import reference
from kiwicha_host.language.exact import ExactDecoder
from kiwicha_host.language.gguf_file import find_gguf, read_gguf
from kiwicha_host.language.model import LlamaModel
from kiwicha_host.language.tokenizer import Tokenizer
from kiwicha_host.language.vocabulary import Vocabulary

__all__ = ["DECODERS", "Q8Decoder", "Score", "losses", "measure", "parts", "q8_0", "scores", "table", "text"]

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "perplexity.json", HERE.parent / "docs" / "language.md"
START, END = "<!-- perplexity: python -m bench.perplexity -->", "<!-- end of perplexity -->"
#: Files of ``sklearn/datasets/descr``, one after the other, and the SHA-256 of all of them.
TEXTS = ("olivetti_faces", "species_distributions", "california_housing", "rcv1", "lfw")
TEXT_SHA256 = "992faa60d750b9f40ac7563dc37e18b1e919e41bbc17aab0bf4e997c325d789e"


def text() -> str:
    """:data:`TEXTS`; :exc:`ValueError` if they are not those that the kept figures are of."""
    folder = resources.files("sklearn") / "datasets" / "descr"
    data = b"".join((folder / f"{name}.rst").read_bytes() for name in TEXTS)
    found = hashlib.sha256(data).hexdigest()
    if found != TEXT_SHA256:
        raise ValueError(f"the text has the SHA-256 {found}, not {TEXT_SHA256}; install the scikit-learn of "
                         "requirements.lock")
    return data.decode()


def q8_0(x: np.ndarray) -> np.ndarray:
    """float32 [rows, N] rounded to what Q8_0 stores."""
    kind = gguf.GGMLQuantizationType.Q8_0
    whole = np.pad(x, ((0, 0), (0, -x.shape[1] % 32)))
    return gguf.quants.dequantize(gguf.quants.quantize(whole, kind), kind)[:, :x.shape[1]]


class Q8Decoder(reference.Decoder):
    """The reference decoder with both sides of its linear layers in Q8_0."""

    def __init__(self, model: LlamaModel):
        super().__init__(model)
        self._layers = [replace(layer, **{name: q8_0(weights) for name, weights in vars(layer).items()
                                          if weights.ndim == 2}) for layer in self._layers]
        self._head = q8_0(self._head)

    def _linear(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return super()._linear(q8_0(x), weights)


class Row(NamedTuple):
    """A row of the table: what stands there, and what makes its decoder."""
    title: str
    open: Callable[[LlamaModel], Any]


#: The first two are always measured: they are what the others are compared with.
DECODERS: dict[str, Row] = {
    "float": Row("float32, weights as in the file", reference.Decoder),
    "q8_0": Row("Q8_0 x Q8_0", Q8Decoder),
    "mxint8": Row("MXINT8 x MXINT8", ExactDecoder),
    "e4m3": Row("E4M3 x E4M3", partial(ExactDecoder, fmt="e4m3", weights_fmt="e4m3")),
    "mxfp4": Row("MXFP4 x E4M3", partial(ExactDecoder, fmt="e4m3", weights_fmt="e2m1"))}
CHIP = tuple(DECODERS)[2:]


class Score(NamedTuple):
    """Of a decoder: its perplexity; that over Q8_0's, and the standard error of this ratio, as the text's tokens
    differ; and the share of positions whose most likely token is float's."""
    perplexity: float
    ratio: float
    error: float
    same: float


def losses(logits: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """-log(probability) of `tokens` by the rows of `logits` [tokens, vocabulary]: float64 [tokens]."""
    found = np.empty(len(tokens))
    for place, (row, token) in enumerate(zip(logits, tokens, strict=True)):
        row = row.astype(np.float64) - row.max()
        found[place] = np.log(np.exp(row).sum()) - row[token]
    return found


def parts(tokens: Sequence[int], vocabulary: Vocabulary, size: int, count: int) -> list[list[int]]:
    """The first `count` parts of a text of `tokens`, `size` tokens each; what begins a text begins each part."""
    begin = list(tokens[:1]) if vocabulary.add_bos and vocabulary.bos is not None else []
    step = size - len(begin)
    most = (len(tokens) - len(begin)) // step
    if count > most:
        raise ValueError(f"the text has {len(tokens)} tokens: {most} parts of {size}, not {count}; take fewer or "
                         "shorter ones")
    return [[*begin, *tokens[start:start + step]] for start in range(len(begin), len(begin) + count * step, step)]


def measure(model: LlamaModel, texts: Sequence[Sequence[int]], names: Iterable[str] = CHIP,
            say: Callable[[str], None] = lambda title: None) -> dict[str, Score]:
    """The scores of float, of Q8_0, and of those of :data:`CHIP` that are named, on texts that are read each for
    itself; `say` gets a row's title first.
    """
    read = {}
    for name in dict.fromkeys(("float", "q8_0", *names)):
        say(DECODERS[name].title)
        read[name] = _read(DECODERS[name].open(model), texts)
    return scores(read)


def _read(decoder: Any, texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Losses of all tokens but each text's first, and the tokens that were most likely in their place."""
    found = []
    for tokens in texts:
        decoder.forget()
        logits = decoder.logits(tokens)[:-1]
        found.append((losses(logits, tokens[1:]), logits.argmax(axis=1)))
    loss, likely = (np.concatenate(each) for each in zip(*found, strict=True))
    return loss, likely


def scores(read: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Score]:
    """From each decoder's losses and most likely tokens."""
    (base, _), (_, likely) = read["q8_0"], read["float"]
    found = {}
    for name, (loss, tokens) in read.items():
        more = loss - base
        ratio = np.exp(more.mean())
        found[name] = Score(float(np.exp(loss.mean())), float(ratio), float(ratio * more.std() / len(more) ** 0.5),
                            float((tokens == likely).mean()))
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown of what RESULTS has."""
    lines = ["| weights x inputs | perplexity | over Q8_0's | same most likely token as float32 |",
             "|---|---|---|---|"]
    for name, row in results["scores"].items():
        score = Score(**row)
        ratio = f"{score.ratio:.3f}" + (f" ± {score.error:.3f}" if name != "q8_0" else "")
        lines.append(f"| {DECODERS[name].title} | {score.perplexity:.2f} | {ratio} | {score.same:.1%} |")
    return "\n".join(lines)


def _names(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(value.split(","))
    for name in names:
        if name not in CHIP:
            raise click.BadParameter(f"{name!r} is none of {', '.join(CHIP)}.", context, option)
    return names


@click.command()
@click.argument("model", metavar="MODEL.gguf|DIR", type=click.Path(path_type=Path))
@click.option("--tokens", "size", type=click.IntRange(min=3), default=512, show_default=True,
              help="Of each part of the text, which is read for itself; the first is given.")
@click.option("--parts", "count", type=click.IntRange(min=1), default=4, show_default=True,
              help="Read so many parts.")
@click.option("--formats", "names", default=",".join(CHIP), show_default=True, callback=_names,
              help="Formats of the chip, beside float32 and Q8_0.")
@click.option("--keep", is_flag=True, help="Write it to bench/results/perplexity.json and docs/language.md.")
def main(model: Path, size: int, count: int, names: tuple[str, ...], keep: bool) -> None:
    """Print how well a language model predicts a text with its numbers in several formats."""
    try:
        path = find_gguf(model)
        loaded = read_gguf(path)
        arguments.integer("--tokens", size, 1, loaded.model.config.context)
        texts = parts(Tokenizer(loaded.vocabulary).encode(text()), loaded.vocabulary, size, count)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    found = measure(loaded.model, texts, names, lambda title: click.echo(f"{title} ...", err=True))
    results = {"model": path.name, "tokens": size, "parts": count, "text_sha256": TEXT_SHA256,
               "scores": {name: {key: float(f"{value:.5g}") for key, value in score._asdict().items()}
                          for name, score in found.items()}}
    click.echo(table(results))
    if keep:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        PAGE.write_text(f"{before}{START}\n\n{table(results)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
