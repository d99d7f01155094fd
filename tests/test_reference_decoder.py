"""The reference decoder: against the definition, one head, pair and position after the other, in float64."""

import cmath
import math

import numpy as np
import pytest
import tiny_llama

from kiwicha_host.language import reference
from kiwicha_host.language.model import LlamaModel
from kiwicha_host.language.reference import Decoder


def rms(x, weight, epsilon):
    return x / math.sqrt(sum(x * x) / len(x) + epsilon) * weight


def turned(head, position, config):
    """A head's dimensions as complex numbers, turned."""
    half = config.head_size // 2
    pairs = [(2 * i, 2 * i + 1) if config.rope_pairs == "neighbours" else (i, i + half) for i in range(half)]
    result = np.zeros(config.head_size)
    for i, (a, b) in enumerate(pairs):
        factor = config.rope_factors[i] if config.rope_factors else 1
        angle = position * config.rope_base ** (-2 * i / config.head_size) / factor
        value = complex(head[a], head[b]) * cmath.exp(1j * angle)
        result[a], result[b] = value.real, value.imag
    return result


def slow_logits(model, tokens):
    """float64 [vocabulary] after the last token."""
    config, size = model.config, model.config.head_size
    xs = [row.astype(float) for row in model.embed(tokens)]
    for layer in model.layers:
        normed = [rms(x, layer.attn_norm, config.norm_epsilon) for x in xs]
        keys, values, mixed = [], [], []
        for position, y in enumerate(normed):
            q, k, v = ((w @ y).reshape(-1, size) for w in (layer.q, layer.k, layer.v))
            keys.append([turned(head, position, config) for head in k])
            values.append(v)
            heads = []
            for number, head in enumerate(q):
                shared = number // (config.heads // config.kv_heads)
                scores = [turned(head, position, config) @ key[shared] / math.sqrt(size) for key in keys]
                powers = [math.exp(score) for score in scores]
                heads.append(sum(p * value[shared] for p, value in zip(powers, values, strict=True)) / sum(powers))
            mixed.append(np.concatenate(heads))
        xs = [x + layer.o @ m for x, m in zip(xs, mixed, strict=True)]
        for number, x in enumerate(xs):
            y = rms(x, layer.ffn_norm, config.norm_epsilon)
            gate = layer.gate @ y
            xs[number] = x + layer.down @ (gate / (1 + np.exp(-gate)) * (layer.up @ y))
    return model.head @ rms(xs[-1], model.out_norm, config.norm_epsilon)


@pytest.mark.parametrize("changes", [
    {}, {"rope_pairs": "halves"}, {"kv_heads": 4}, {"kv_heads": 1, "tied_head": False},
    {"heads": 3, "kv_heads": 3, "head_size": 10, "width": 24, "rope_base": 100.0,
     "rope_factors": (1.0, 2.0, 3.0, 4.0, 5.0)}, {"norm_epsilon": 0.5, "layers": 1},
], ids=str)
def test_logits(changes):
    model = tiny_llama.model(seed=3, **changes)
    tokens = [1, 289, 30, 31, 30, 5, 1]
    expected = slow_logits(model, tokens)
    assert np.std(expected) > 0.1
    got = Decoder(model).prefill(tokens)
    assert got.dtype == np.float32 and got.shape == (model.config.vocabulary,)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_tokens_in_any_portions():
    model = tiny_llama.model(seed=4)
    tokens = [1, 50, 60, 70, 50, 60, 2, 3]
    every = Decoder(model).logits(tokens)
    assert every.shape == (8, model.config.vocabulary)
    for cuts in ([8], [1] * 8, [3, 1, 4], [7, 1]):
        decoder, start = Decoder(model), 0
        for count in cuts:
            got = decoder.step(tokens[start] if count == 1 else tokens[start:start + count])
            start += count
            np.testing.assert_allclose(got, every[start - 1], atol=1e-5)


def test_both_orders_of_a_heads_rows_are_the_same_model():
    """What the converter to GGUF does: rows i and i + half of each head become neighbours."""
    halves = tiny_llama.model(seed=6, rope_pairs="halves")
    size = halves.config.head_size
    arrays = dict(halves.tensors)
    for number in range(2):
        for name in (f"layers.{number}.q", f"layers.{number}.k"):
            heads = arrays[name].reshape(-1, 2, size // 2, arrays[name].shape[1])
            arrays[name] = heads.swapaxes(1, 2).reshape(arrays[name].shape)
    neighbours = LlamaModel(tiny_llama.config(), arrays)
    tokens = [1, 100, 101, 102]
    np.testing.assert_allclose(Decoder(neighbours).prefill(tokens), Decoder(halves).prefill(tokens), atol=1e-5)


def test_large_numbers_give_no_warnings():
    x = np.array([-1e30, -200, 0, 200, 1e30], np.float32)
    np.testing.assert_array_equal(reference.silu(x), [0, 0, 0, 200, np.float32(1e30)])
    np.testing.assert_array_equal(reference.softmax(x), [0, 0, 0, 0, 1])


def test_wrong_tokens():
    decoder = Decoder(tiny_llama.model(context=4))
    for tokens, message in (([], "the number of tokens must be at least 1, not 0"),
                            ([290], "tokens must be from 0 to 289, not 290"),
                            ([1] * 5, "the number of positions must be from 1 to 4, not 5")):
        with pytest.raises(ValueError, match=message):
            decoder.prefill(tokens)
    decoder.prefill([1, 2, 3, 4])
    with pytest.raises(ValueError, match="the number of positions must be from 1 to 4, not 5"):
        decoder.step(5)
    with pytest.raises(TypeError, match="model must be a LlamaModel, not 'x'"):
        Decoder("x")
