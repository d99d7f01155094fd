"""The stored DeepSeek model: that it is what its page says, its vocabulary, and the text it was trained on."""

import hashlib
import math
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kiwicha_host import models
from kiwicha_host.language.deepseek import corpus, evaluate, reference
from kiwicha_host.language.deepseek.exact import ExactDecoder
from kiwicha_host.language.deepseek.reference import Decoder
from kiwicha_host.language.deepseek.routing import chosen_experts
from kiwicha_host.language.deepseek.stored import load, vocabulary
from kiwicha_host.language.tokenizer import Tokenizer

PAGE = (Path(__file__).parents[1] / "docs" / "deepseek_model.md").read_text(encoding="utf-8")
#: Of the logits of the first 32 tokens held out, in the chip's arithmetic.
DIGEST = "759d3f24053aaf924107ec9463b75baed0e9165a456af67b887d4238f094b26d"


@pytest.fixture(scope="module")
def trained():
    return load()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(vocabulary())


def test_it_is_small_and_fits_the_chips_blocks(trained):
    assert sum(path.stat().st_size for path in (models.DEEPSEEK, models.DEEPSEEK_VOCABULARY)) < 4e6
    for name, tensor in trained.model.tensors.items():
        if hasattr(tensor, "block"):
            assert tensor.shape[-1] % tensor.block == 0, name
    config = trained.model.config
    assert config.kept_groups < config.groups and config.context > config.original_context
    assert any((layer.ffn.bias != 0).any() for layer in trained.model.layers[config.dense_layers:])


def test_every_expert_works(trained, monkeypatch):
    """Balanced, by the bias alone: no expert of a layer has less than a quarter of its share."""
    shares = []

    def watched(scores, config):
        chosen = chosen_experts(scores, config)
        shares.append(chosen.mean(axis=0))
        return chosen

    monkeypatch.setattr(reference, "chosen_experts", watched)
    Decoder(trained.model).logits(trained.held_out[:400])
    c = trained.model.config
    assert len(shares) == c.layers - c.dense_layers
    assert np.min(shares) > c.chosen / c.experts / 4, shares


def test_exact_is_near(trained):
    """Rounding to E4M3 costs each product some 2 % of noise, and no more."""
    model, tokens = trained.model, trained.held_out[:200]
    expected, got = Decoder(model).logits(tokens), ExactDecoder(model).logits(tokens)
    assert got.dtype == np.float32
    error = np.sqrt(np.mean((got - expected) ** 2)) / np.std(expected)
    assert 1e-4 < error < 0.1, error


def test_exact_is_the_same_alone_and_in_a_batch(trained):
    tokens = trained.held_out[:8 * 40].reshape(8, 40)
    together = ExactDecoder(trained.model).logits(tokens)
    for row, expected in zip(tokens, together, strict=True):
        assert ExactDecoder(trained.model).logits(row).tobytes() == expected.tobytes()


def test_exact_is_the_same_everywhere(trained):
    logits = ExactDecoder(trained.model).logits(trained.held_out[:32])
    assert hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest() == DIGEST


@pytest.mark.parametrize("kind", [Decoder, ExactDecoder])
def test_the_loss_is_what_the_page_says(kind, trained):
    row = "float32" if kind is Decoder else "the chip's arithmetic"
    count, said = re.search(rf"first (\d+) tokens.*?stored weights, {row}: ([\d.]+\d)", PAGE, re.DOTALL).groups()
    loss = evaluate.loss(lambda: kind(trained.model), trained.held_out[:int(count)])
    assert loss == pytest.approx(float(said), abs=1e-4)


def test_the_text_is_what_the_page_says(trained, tokenizer):
    examples = re.findall(r"^```\n(.+?)\[(.+?)\]\n```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [prompt for prompt, _ in examples] == list(evaluate.PROMPTS)
    for prompt, expected in examples:
        tokens = evaluate.greedy(ExactDecoder(trained.model), tokenizer.encode(prompt), evaluate.WORDS)
        assert tokenizer.decode(tokens) == expected


def test_the_vocabulary(trained, tokenizer):
    end = tokenizer.encode("")
    assert len(tokenizer.vocabulary.tokens) == trained.model.config.vocabulary and len(end) == 1
    starts = [*np.flatnonzero(trained.held_out == end[0]), len(trained.held_out)]
    assert len(starts) == len(corpus.HELD_OUT) + 1 and starts[0] == 0
    for start, stop in pairwise(starts):
        tokens = trained.held_out[start:stop].tolist()
        text = tokenizer.decode(tokens)
        assert tokenizer.encode(text) == tokens and text.count("\n") > 5
        assert evaluate.bytes_of(np.array(tokens), tokenizer.vocabulary) == len(text.encode())


def test_what_is_held_out_is_not_trained_on():
    training, held_out = corpus.texts()
    paragraphs = [set("\n\n".join(texts).split("\n\n")) for texts in (training, held_out)]
    assert not paragraphs[0] & paragraphs[1]
    assert 0.02 < len("".join(held_out)) / len("".join(training)) < 0.15


def test_the_loss():
    """Each token but the first is guessed once, by those before it in its window."""
    tokens = np.arange(600) % 7
    assert [len(window) for window in evaluate.windows(tokens)] == [257, 257, 88]
    seen = []

    class Even:
        def logits(self, given):
            seen.extend(given)
            return np.where(np.arange(7) == (given[:, None] + 1) % 7, np.float32(2), np.float32(-1))

    assert evaluate.loss(Even, tokens) == pytest.approx(math.log(1 + 6 * math.exp(-3)))
    assert seen == tokens[:-1].tolist()


@pytest.mark.parametrize("option, value, least", [("--tokens", "1", 2), ("--words", "0", 1)])
def test_the_command_says_what_is_wrong(option, value, least, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", option, value])
    with pytest.raises(SystemExit):
        evaluate.main()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"evaluate: error: {option} must be at least {least}, not {value}"


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--tokens", "30", "--words", "2"])
    evaluate.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("30 tokens, ") and lines[2] == "| | nats per token | bits per byte |"
    row = re.compile(r"\| stored weights, (.+) \| ([\d.]+) \| ([\d.]+) \|")
    rows = [row.fullmatch(line).groups() for line in lines[4:6]]
    assert [row[0] for row in rows] == ["float32", "the chip's arithmetic"]
    assert float(rows[0][1]) == pytest.approx(float(rows[1][1]), abs=0.3) and float(rows[0][1]) < 6
    assert lines.count("stored weights, the chip's arithmetic:") == len(evaluate.PROMPTS)
