"""The bench of perplexity: its pieces on tiny models, and that the documents show its kept figures."""

import json
import math
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_llama
from click.testing import CliRunner

from bench import perplexity
from bench.perplexity import PAGE, RESULTS, Q8Decoder, losses, measure, parts, q8_0, scores, table
from kiwicha_host.language.exact import ExactDecoder
from kiwicha_host.language.gguf_file import read_gguf
from kiwicha_host.language.model import LlamaModel
from kiwicha_host.language.reference import Decoder

TOKENS = [1, 50, 60, 70, 50, 61, 5, 3, 90, 91, 17]


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large():
    sizes = tiny_llama.config(tied_head=False)
    tensors = tiny_llama.weights(sizes)
    model = LlamaModel(sizes, {**tensors, "head": np.zeros_like(tensors["head"])})
    found = measure(model, [TOKENS, TOKENS[:4]])
    assert list(found) == list(perplexity.DECODERS)
    for score in found.values():
        assert score.perplexity == pytest.approx(sizes.vocabulary) and (score.ratio, score.same) == (1, 1)


def test_losses_by_hand():
    logits = np.array([[0, math.log(3), -np.inf], [1000, 1000, 1000], [0, 0, 800]], np.float32)
    np.testing.assert_allclose(losses(logits, [1, 2, 0]), [math.log(4 / 3), math.log(3), 800], rtol=1e-6)


def test_scores_by_hand():
    found = scores({"float": (np.log([2., 2, 8, 8]), np.array([1, 2, 3, 4])),
                    "q8_0": (np.log([4., 4, 4, 4]), np.array([1, 2, 3, 5])),
                    "mxint8": (np.log([2., 8, 4, 16]), np.array([0, 2, 3, 5]))})
    assert found["float"][:2] == pytest.approx((4, 1)) and found["float"].same == 1
    assert found["q8_0"] == pytest.approx((4, 1, 0, 0.75))
    # Logarithms of base 2 of the ratios are -1, 1, 0, 2: their mean is 1/2, their deviation sqrt(5) / 2.
    ratio = math.sqrt(2)
    assert found["mxint8"] == pytest.approx((4 * ratio, ratio, ratio * math.log(2) * math.sqrt(5) / 4, 0.5))


def test_q8_0_is_ggufs():
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((5, 96)) * 10. ** rng.integers(-3, 4, (5, 1))).astype(np.float32)
    x[2, 32:64] = 0
    blocks = x.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    scale = (largest / np.float32(127)).astype(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = np.where(largest, np.rint(blocks / (largest / np.float32(127))), 0)
    np.testing.assert_array_equal(q8_0(x), (steps * scale).reshape(x.shape))
    # What is rounded stays as it is; a part of a block is a block.
    np.testing.assert_array_equal(q8_0(x)[:, :64], q8_0(x[:, :64]))
    np.testing.assert_array_equal(q8_0(x[:, :40])[:, 32:], q8_0(x[:, 32:40]))


def test_a_q8_0_file_loses_only_inputs(tmp_path):
    """Its weights are there already; what is left is what llama.cpp does to a linear layer's input."""
    kept = read_gguf(tiny_llama.write_gguf(tmp_path / "model.gguf", "Q8_0", seed=2)).model
    decoder = Q8Decoder(kept)
    for layer, same in zip(decoder._layers, kept.layers, strict=True):
        for name, weights in vars(same).items():
            np.testing.assert_array_equal(getattr(layer, name), weights)
    x = np.random.default_rng(3).standard_normal((3, 64)).astype(np.float32)
    w = kept.layers[0].gate
    kind = gguf.GGMLQuantizationType.Q8_0
    rounded = gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)
    np.testing.assert_array_equal(decoder._linear(x, w), rounded @ w.T)
    error, other = (np.abs(each.logits(TOKENS) - Decoder(kept).logits(TOKENS)).max()
                    for each in (decoder, ExactDecoder(kept, "e4m3", "e2m1")))
    assert 0 < error < other / 10


@pytest.mark.parametrize("open_", [Decoder, Q8Decoder, ExactDecoder])
def test_forgotten_tokens_do_not_matter(open_):
    model = tiny_llama.model(seed=5)
    decoder = open_(model)
    decoder.logits(TOKENS)
    decoder.forget()
    np.testing.assert_array_equal(decoder.logits(TOKENS[3:7]), open_(model).logits(TOKENS[3:7]))


def test_parts(tmp_path):
    vocabulary = read_gguf(tiny_llama.write_gguf(tmp_path / "a.gguf")).vocabulary
    assert parts([1, *range(10, 18)], vocabulary, 4, 2) == [[1, 10, 11, 12], [1, 13, 14, 15]]
    without = read_gguf(tiny_llama.write_gguf(
        tmp_path / "b.gguf", changed={"tokenizer.ggml.add_bos_token": False})).vocabulary
    assert parts(range(10, 18), without, 4, 2) == [[10, 11, 12, 13], [14, 15, 16, 17]]
    with pytest.raises(ValueError, match="the text has 8 tokens: 2 parts of 4, not 3; take fewer or shorter ones"):
        parts(range(10, 18), without, 4, 3)


def test_the_text_is_checked(monkeypatch):
    assert "Olivetti" in perplexity.text()
    monkeypatch.setattr(perplexity, "TEXTS", ("lfw",))
    with pytest.raises(ValueError, match="SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}; install the scikit-learn of"):
        perplexity.text()


def test_the_command(tmp_path):
    path = tiny_llama.write_gguf(tmp_path / "model.gguf")
    run = CliRunner().invoke(perplexity.main, [str(path), "--tokens", "10", "--parts", "2", "--formats", "mxint8"])
    assert run.exit_code == 0, run.output
    rows = [line for line in run.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| float32, weights as in the file", "| Q8_0 x Q8_0",
                                                         "| MXINT8 x MXINT8"]
    for options, what in ((["--formats", "mxint8,fp8"], "'fp8' is none of mxint8, e4m3, mxfp4"),
                          (["--tokens", "65"], "--tokens must be from 1 to 64, not 65"),
                          (["--tokens", "60", "--parts", "9999"], "parts of 60, not 9999; take fewer")):
        run = CliRunner().invoke(perplexity.main, [str(path), *options])
        assert run.exit_code and what in run.output, run.output
    run = CliRunner().invoke(perplexity.main, [str(tmp_path / "none.gguf")])
    assert run.exit_code and re.fullmatch("Error: .*none.gguf.*\n", run.output)


def test_the_page_shows_the_kept_figures():
    results = json.loads(Path(RESULTS).read_text(encoding="utf-8"))
    assert results["text_sha256"] == perplexity.TEXT_SHA256
    assert list(results["scores"]) == list(perplexity.DECODERS)
    assert table(results) in Path(PAGE).read_text(encoding="utf-8")
