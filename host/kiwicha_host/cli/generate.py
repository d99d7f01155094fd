"""The command ``generate``: text from a language model."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS

from .options import ANY_PATH, PATH, config_option_of, device_option, json_option, report_option
from .tables import print_json, show_figures, show_text
from .work import check_report_folder, chip_of

__all__ = ["generate"]


@click.command()
@click.argument("model", metavar="MODEL.gguf|DIR|deepseek", type=ANY_PATH)
@click.option("--prompt", metavar="TEXT", help="What the model is to continue, as it is.")
@click.option("--batch", type=PATH, metavar="FILE", help="Prompts, one a line, in the place of --prompt.")
@click.option("--tokens", "count", type=click.IntRange(min=1), default=32, show_default=True,
              help="Stop after so many, if the model has not ended before.")
@click.option("--weights", type=click.Choice(list(FORMATS)),
              help="Format of a GGUF file's weights, in blocks of 32; default: int8.")
@click.option("--verify", is_flag=True, help="Hold each logit against the golden device's, to the bit.")
@json_option
@report_option
@device_option
@config_option_of("wide")
def generate(model: Path, prompt: str | None, batch: Path | None, count: int, weights: str | None, verify: bool,
             config: str, device: str, report: Path | None, as_json: bool) -> None:
    """Continue a text with a language model: the most likely token, again and again.

    "deepseek" is the small model of that architecture which belongs to Kiwicha.
    """
    from ..language.generate import complete, complete_all, figures
    from ..language.open_model import open_model
    from ..language.tokenizer import Tokenizer

    if (prompt is None) == (batch is None):
        raise click.UsageError("give --prompt or --batch, and not both.", click.get_current_context())
    chip = chip_of(config, batch)
    check_report_folder(report)
    texts = _prompts(prompt, batch)
    loaded = open_model(model)
    tokenizer, sizes = Tokenizer(loaded.vocabulary), loaded.model.config
    prompts = [tokenizer.encode(text) for text in texts]
    options = {"config": chip, "device": device, "weights": weights,
               "context": _positions(prompts, count, sizes.context)}
    if batch is not None:
        options["sequences"] = len(prompts)
        with _opened(loaded.model, options, verify, report) as (decoder, first):
            done = complete_all(decoder, tokenizer, prompts, count)
        results = [figures(device, chip, sizes, item) for item in done]
        _write_report(report, chip, first, results)
        _show_batch(texts, results, as_json)
        return
    with _opened(loaded.model, options, verify, report) as (decoder, first), _shown(as_json) as show:
        result = figures(device, chip, sizes, complete(decoder, tokenizer, prompts[0], count, show))
    _write_report(report, chip, first, result)
    if as_json:
        print_json(result)
    else:
        _show_result(result)


def _show_batch(texts: Sequence[str], results: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    for text, result in zip(texts, results, strict=True):
        show_text(f"{text}{result['text']}\n")
        _show_result(result)


def _show_result(result: Mapping[str, Any]) -> None:
    show_figures({name: value for name, value in result.items() if name not in ("text", "tokens")}, False,
                 sys.stderr)


def _prompts(prompt: str | None, batch: Path | None) -> list[str]:
    """The texts to continue, none of them empty."""
    from ..files import FileProblem, read_lines
    if batch is None:
        if not prompt:
            raise ValueError("the prompt is empty; give --prompt a text to continue")
        return [prompt]
    lines = read_lines(batch)
    if not lines:
        raise FileProblem(f"{batch} has no prompts; write one a line")
    for number, line in enumerate(lines, 1):
        if not line:
            raise FileProblem(f"{batch} has an empty prompt in line {number}; write one a line")
    return lines


def _positions(prompts: Sequence[Sequence[int]], count: int, context: int) -> int:
    """Of the longest prompt and what comes after it; the last token is not looked at any more."""
    longest = max(map(len, prompts))
    if longest > context:
        raise ValueError(f"the prompt has {longest} tokens, and the model's context {context}; give a shorter one")
    if longest + count - 1 > context:
        raise ValueError(f"a prompt of {longest} tokens and --tokens {count} are beyond the model's context of "
                         f"{context}; --tokens {context - longest + 1} is the most")
    return longest + count - 1


@contextlib.contextmanager
def _opened(model: Any, options: Mapping[str, Any], verify: bool, report: Path | None
            ) -> Iterator[tuple[Any, Any]]:
    """What is to be asked, and what that is without `verify`: the decoder on the device that was named."""
    from ..language.decoder import open_decoder
    from ..language.generate import Verified
    with contextlib.ExitStack() as stack:
        changes: list[dict[str, Any]] = [{} if report is None else {"trace": True}]
        changes += [{"device": "golden"}] if verify else []
        decoder, *golden = (stack.enter_context(contextlib.closing(open_decoder(model, **{**options, **changed})))
                            for changed in changes)
        yield Verified(decoder, *golden) if golden else decoder, decoder


def _write_report(folder: Path | None, chip: ChipConfig, decoder: Any, completion: Any) -> None:
    if folder is not None:
        from ..language.report import write_step_report
        write_step_report(folder, chip, decoder.last, completion)


@contextlib.contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[str], None]]:
    """Shows pieces of text as they come; they are a line of their own, also if it ends in the middle."""
    begun = False

    def show(text: str) -> None:
        nonlocal begun
        if not as_json:
            begun = True
            show_text(text)
    try:
        yield show
    finally:
        if begun:
            show_text("\n")
