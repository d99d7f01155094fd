"""The DeepSeek model: references against the definition and each other, the chip's arithmetic, files."""

import cmath
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import tiny_deepseek

from kiwicha_host.golden import quantize_block
from kiwicha_host.language.deepseek.exact import ExactDecoder
from kiwicha_host.language.deepseek.model import DeepSeekModel, FeedForward, Quantized, shapes
from kiwicha_host.language.deepseek.reference import Decoder
from kiwicha_host.language.deepseek.routing import chosen_experts
from kiwicha_host.language.deepseek.stored import Trained, format_of, load, quantized, save

TOKENS = [1, 49, 30, 31, 30, 5, 1, 0, 12]


def tiny(seed, **changes):
    config = tiny_deepseek.config(**changes)
    return DeepSeekModel(config, tiny_deepseek.tensors(config, seed))


def tiny_quantized(seed, **changes):
    config = tiny_deepseek.config(**changes)
    return quantized(config, tiny_deepseek.tensors(config, seed))


# The definition, one number after the other.

def slow_frequencies(c):
    """YaRN (arXiv 2309.00071, section 3.2) in the parameters of its rotations."""
    found = []
    for pair in range(c.rope_size // 2):
        plain = c.rope_base ** (-2 * pair / c.rope_size)
        if c.context > c.original_context:
            low, high = (c.rope_size * math.log(c.original_context / (turns * 2 * math.pi)) / 2
                         / math.log(c.rope_base) for turns in (c.beta_fast, c.beta_slow))
            low, high = max(math.floor(low), 0), min(math.ceil(high), c.rope_size - 1)
            ramp = min(max((pair - low) / (high - low), 0), 1)
            plain = plain * (1 - ramp) + plain / c.rope_factor * ramp
        found.append(plain)
    return found


def slow_turned(x, position, c):
    result = []
    for pair, frequency in enumerate(slow_frequencies(c)):
        value = complex(x[2 * pair], x[2 * pair + 1]) * cmath.exp(1j * position * frequency)
        result += [value.real, value.imag]
    return np.array(result)


def slow_chosen(scores, c):
    """Numbers of the experts that work, by scores with bias; of equal ones the first."""
    size = c.experts // c.groups
    groups = [range(first, first + size) for first in range(0, c.experts, size)]
    worth = [sum(sorted((scores[e] for e in group), reverse=True)[:2]) for group in groups]
    kept = sorted(range(c.groups), key=lambda number: (-worth[number], number))[:c.kept_groups]
    left = [e for number in kept for e in groups[number]]
    return sorted(sorted(left, key=lambda e: (-scores[e], e))[:c.chosen])


def slow_norm(x, weight, c):
    return x / math.sqrt(sum(x * x) / len(x) + c.norm_epsilon) * weight


def slow_gated(x, w1, w2, w3):
    gate = w1 @ x
    return w2 @ (gate / (1 + np.exp(-gate)) * (w3 @ x))


def slow_ffn(x, ffn, c):
    if isinstance(ffn, FeedForward):
        return slow_gated(x, ffn.w1, ffn.w2, ffn.w3)
    scores = 1 / (1 + np.exp(-(ffn.gate @ x)))
    chosen = slow_chosen(scores + ffn.bias, c)
    total = sum(scores[e] for e in chosen)
    out = slow_gated(x, ffn.shared.w1, ffn.shared.w2, ffn.shared.w3)
    for e in chosen:
        w = ffn.experts[e]
        out = out + scores[e] / total * c.route_scale * slow_gated(x, w.w1, w.w2, w.w3)
    return out


def slow_attention(xs, w, c):
    """What attention makes of the normalized inputs of all positions, with keys and values of each head."""
    scale = (c.nope_size + c.rope_size) ** -0.5
    if c.context > c.original_context:
        scale *= (0.1 * c.mscale * math.log(c.rope_factor) + 1) ** 2
    keys, values, results = [], [], []
    for position, x in enumerate(xs):
        q = (w.wq_b @ slow_norm(w.wq_a @ x, w.q_norm, c)).reshape(c.heads, -1)
        latent, shared = np.split(w.wkv_a @ x, [c.kv_rank])
        both = (w.wkv_b @ slow_norm(latent, w.kv_norm, c)).reshape(c.heads, -1)
        keys.append([np.append(head[:c.nope_size], slow_turned(shared, position, c)) for head in both])
        values.append(both[:, c.nope_size:])
        mixed = []
        for head, each in enumerate(q):
            query = np.append(each[:c.nope_size], slow_turned(each[c.nope_size:], position, c))
            powers = [math.exp(query @ key[head] * scale) for key in keys]
            mixed.append(sum(p * value[head] for p, value in zip(powers, values, strict=True)) / sum(powers))
        results.append(w.wo @ np.concatenate(mixed))
    return results


def slow_logits(model, tokens):
    """float64 [vocabulary] after the last token."""
    c = model.config
    xs = [row.astype(float) for row in model.embed(tokens)]
    for layer in model.layers:
        attended = slow_attention([slow_norm(x, layer.attn_norm, c) for x in xs], layer.attention, c)
        xs = [x + more for x, more in zip(xs, attended, strict=True)]
        xs = [x + slow_ffn(slow_norm(x, layer.ffn_norm, c), layer.ffn, c) for x in xs]
    return model.tensors["head"] @ slow_norm(xs[-1], model.tensors["norm"], c)


# The reference.

@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "naive"])
@pytest.mark.parametrize("changes", [
    {}, {"context": 16}, {"dense_layers": 3}, {"dense_layers": 0, "layers": 1}, {"kept_groups": 1, "chosen": 1},
    {"kept_groups": 3, "mscale": 2.0, "rope_factor": 9.0, "norm_epsilon": 0.5},
    {"heads": 1, "nope_size": 10, "value_size": 6, "kv_rank": 20, "rope_size": 2},
], ids=str)
def test_logits(changes, absorbed):
    model = tiny(3, **changes)
    expected = slow_logits(model, TOKENS)
    assert np.std(expected) > 0.1
    got = Decoder(model, absorbed).prefill(TOKENS)
    assert got.dtype == np.float32 and got.shape == (model.config.vocabulary,)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "naive"])
def test_tokens_in_any_portions(absorbed):
    def make(model):
        return Decoder(model, absorbed)

    model = tiny(4)
    every = make(model).logits(TOKENS)
    assert every.shape == (len(TOKENS), model.config.vocabulary)
    for cuts in ([0, 9], range(10), [0, 3, 4, 9]):
        decoder = make(model)
        parts = [decoder.logits(TOKENS[start:stop]) for start, stop in pairwise(cuts)]
        np.testing.assert_allclose(np.concatenate(parts), every, atol=1e-4)
    decoder = make(model)
    decoder.prefill(TOKENS[:5])
    np.testing.assert_allclose(decoder.step(TOKENS[5]), every[5], atol=1e-4)


def test_what_is_kept():
    """Absorbed, a position is a latent vector and a rotated key, whatever the number of heads."""
    model = tiny(4)
    c, sizes = model.config, {}
    for absorbed in (True, False):
        decoder = Decoder(model, absorbed)
        decoder.prefill(TOKENS)
        sizes[absorbed] = sum(array.size for arrays in decoder._caches for array in arrays)
    sizes = {absorbed: size / len(TOKENS) / c.layers for absorbed, size in sizes.items()}
    assert sizes == {True: c.kv_rank + c.rope_size, False: c.heads * (c.nope_size + c.rope_size + c.value_size)}


@pytest.mark.parametrize("make", [Decoder, ExactDecoder])
def test_sequences_side_by_side(make):
    model = tiny_quantized(5)
    tokens = np.random.default_rng(5).integers(0, 50, (2, 4, 11))
    decoder = make(model)
    first, last = decoder.logits(tokens[..., :10]), decoder.step(tokens[..., 10])
    assert first.shape == (2, 4, 10, 50) and last.shape == (2, 4, 50)
    for index in np.ndindex(2, 4):
        alone = make(model)
        np.testing.assert_allclose(alone.logits(tokens[index][:10]), first[index], atol=1e-4)
        np.testing.assert_allclose(alone.step(tokens[index][10]), last[index], atol=1e-4)


@pytest.mark.parametrize("make", [Decoder, ExactDecoder])
def test_a_context_has_an_end(make):
    decoder = make(tiny_quantized(5, context=8))
    decoder.prefill([1] * 8)
    with pytest.raises(ValueError, match="the number of positions must be from 1 to 8, not 9"):
        decoder.step(1)
    with pytest.raises(ValueError, match="tokens must be from 0 to 49, not 50"):
        make(tiny_quantized(5)).prefill([3, 50])


# Rotation and routing.

def test_yarn():
    c = tiny_deepseek.config()
    np.testing.assert_allclose(c.rope_frequencies, slow_frequencies(c), rtol=1e-12)
    plain = tiny_deepseek.config(context=16)
    ratios = plain.rope_frequencies / c.rope_frequencies
    assert ratios[0] == 1 and ratios[-1] == pytest.approx(4) and (np.diff(ratios) >= 0).all()
    assert np.sum((ratios > 1.01) & (ratios < 3.99)) >= 2, "some pairs are between"
    assert plain.softmax_scale == 1 / 12
    assert c.softmax_scale == pytest.approx((1 + 0.1 * math.log(4)) ** 2 / 12)


def test_yarn_as_deepseek_v3_has_it():
    """Its 32 pairs: those below number 10 are as they were, those from 23 on 40 times as slow."""
    c = tiny_deepseek.config(rope_size=64, rope_base=10000.0, context=163840, original_context=4096,
                             rope_factor=40.0, beta_fast=32.0, beta_slow=1.0)
    ratios = 10000.0 ** (-np.arange(32) / 32) / c.rope_frequencies
    assert np.flatnonzero(ratios > 1 + 1e-9)[0] == 11 and np.flatnonzero(ratios > 40 - 1e-9)[0] == 23
    assert c.softmax_scale == pytest.approx(192 ** -0.5 * 1.3688879454 ** 2)


def test_experts_are_chosen_by_groups_and_bias():
    rng = np.random.default_rng(6)
    c = tiny_deepseek.config()
    scores = rng.uniform(0, 1, (500, c.experts)).astype(np.float32)
    bias = rng.normal(0, 0.3, c.experts).astype(np.float32)
    chosen = chosen_experts(scores + bias, c)
    assert (chosen.sum(axis=1) == c.chosen).all()
    assert [np.flatnonzero(row).tolist() for row in chosen] == [slow_chosen(row, c) for row in scores + bias]
    plain = np.argsort(-(scores + bias), axis=1)[:, :c.chosen]
    assert not np.take_along_axis(chosen, plain, axis=1).all(), "groups count"
    assert (chosen != chosen_experts(scores, c)).any(), "so does the bias"


def test_of_equal_experts_the_first():
    c = tiny_deepseek.config()
    assert np.flatnonzero(chosen_experts(np.zeros(12, np.float32), c)).tolist() == [0, 1, 2, 3]
    scores = np.random.default_rng(7).integers(0, 3, (300, 12)).astype(np.float32)
    chosen = chosen_experts(scores, c)
    assert [np.flatnonzero(row).tolist() for row in chosen] == [slow_chosen(row, c) for row in scores]


@pytest.mark.parametrize("changes, message", [
    ({"rope_size": 3}, "rope_size must be even, not 3"),
    ({"experts": 10}, "experts must be groups times 2 or more, not 10 for 3"),
    ({"experts": 3}, "experts must be groups times 2 or more, not 3 for 3"),
    ({"kept_groups": 4}, "kept_groups must be from 1 to 3, not 4"),
    ({"chosen": 9}, "chosen must be from 1 to 8, not 9"),
    ({"dense_layers": 4}, "dense_layers must be from 0 to 3, not 4"),
    ({"beta_slow": 2.0}, "beta_slow must be less than beta_fast, not 2.0 for 2.0"),
    ({"width": 0}, "width must be at least 1, not 0"),
])
def test_sizes_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tiny_deepseek.config(**changes)


def test_weights_that_do_not_fit():
    model = tiny(0)
    with pytest.raises(ValueError, match="tensors must hold 'norm'"):
        DeepSeekModel(model.config, {name: w for name, w in model.tensors.items() if name != "norm"})
    with pytest.raises(ValueError, match=r"tensor 'norm' must be \[96\], not \[97\]"):
        DeepSeekModel(model.config, {**model.tensors, "norm": np.ones(97, np.float32)})
    with pytest.raises(ValueError, match=r"tensor 'layers.0.wq_a' must be quantized, not float32"):
        ExactDecoder(model)
    with pytest.raises(ValueError, match="kv_rank must be a multiple of 128, not 130"):
        ExactDecoder(tiny_quantized(0, kv_rank=130))


# The chip's arithmetic.

def test_exact_with_every_size_another():
    """Also with two scales for a latent vector, and blocks that are not full."""
    config = tiny_deepseek.config(layers=2)
    # Random gates are often undecided, and where an expert changes, so does the result: let the bias decide.
    model = quantized(config, {name: w / 100 if name.endswith("gate") else w
                               for name, w in tiny_deepseek.tensors(config, 8).items()})
    tokens = np.random.default_rng(8).integers(0, 50, 60)
    expected, got = Decoder(model).logits(tokens), ExactDecoder(model).logits(tokens)
    # Weights larger than a trained model's make much of each rounding.
    error = np.sqrt(np.mean((got - expected) ** 2)) / np.std(expected)
    assert 1e-3 < error < 0.25, error


def test_exact_is_the_same_alone_and_in_a_batch():
    model = tiny_quantized(10)
    tokens = np.random.default_rng(10).integers(0, 50, (8, 20))
    together = ExactDecoder(model).logits(tokens)
    for row, expected in zip(tokens, together, strict=True):
        assert ExactDecoder(model).logits(row).tobytes() == expected.tobytes()


def test_exact_is_the_same_in_any_portions():
    """Across the end of a scale block of positions, too."""
    model = tiny_quantized(9, context=200)
    tokens = np.random.default_rng(9).integers(0, 50, 140)
    every = ExactDecoder(model).logits(tokens)
    for cuts in ([0, 1, 130, *range(131, 141)], [0, 128, 140], [0, *range(120, 141)]):
        decoder = ExactDecoder(model)
        parts = [decoder.logits(tokens[start:stop]) for start, stop in pairwise(cuts)]
        assert np.concatenate(parts).tobytes() == every.tobytes(), cuts


# Files.

def test_formats():
    """Of weights: E4M3 squares by act_quant's rule, E2M1 rows of 32 for experts; the rest is not quantized."""
    model = tiny_quantized(1)
    plain = tiny_deepseek.tensors(model.config, 1)
    for name in shapes(model.config):
        tensor, fmt = model.tensors[name], format_of(name)
        if fmt in ("fp32", "bf16"):
            np.testing.assert_allclose(tensor, plain[name], rtol=2 ** -8 if fmt == "bf16" else 0)
            continue
        assert isinstance(tensor, Quantized) and (tensor.block, fmt) in ((128, "e4m3"), (32, "e2m1")), name
        spread = np.sqrt(np.mean((tensor.values - plain[name]) ** 2) / np.mean(plain[name] ** 2))
        assert spread < (0.03 if fmt == "e4m3" else 0.15), (name, spread)
    experts = plain["layers.1.experts.w2"]
    codes, scales = quantize_block(experts, "e2m1", 32)
    assert (model.tensors["layers.1.experts.w2"].elements.view(np.uint8) == codes).all()
    assert (model.tensors["layers.1.experts.w2"].scales == scales).all()
    square = model.tensors["layers.0.wkv_b"]
    assert square.scales.shape == (6, 2)
    rows = plain["layers.0.wkv_b"][128:256, :128].reshape(1, -1)
    codes, scales = quantize_block(rows, "e4m3", rows.size)
    assert (square.elements[128:256, :128].view(np.uint8).reshape(1, -1) == codes).all()
    assert square.scales[1, 0] == scales[0, 0]


def test_a_file_holds_all_of_a_model(tmp_path):
    stored = Trained(tiny_quantized(2), np.arange(50), {"losses": {"float32": 2.5}})
    for name in ("one.npz", "two.npz"):
        save(tmp_path / name, stored)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found = load(tmp_path / "one.npz")
    assert found.model.config == stored.model.config and found.notes == stored.notes
    assert found.held_out.tolist() == stored.held_out.tolist()
    assert (ExactDecoder(found.model).prefill(TOKENS) == ExactDecoder(stored.model).prefill(TOKENS)).all()
    np.savez(tmp_path / "other.npz", about=np.zeros(3, np.uint8))
    (tmp_path / "text.npz").write_text("no model", encoding="utf-8")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match=rf"^.*{name} is no model that was stored here: .*$"):
            load(tmp_path / name)
