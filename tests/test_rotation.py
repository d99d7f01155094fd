"""The rotated model: the same one, in coordinates that lose less when blocks are quantized."""

import numpy as np
import pytest
import tiny_llama

from kiwicha_host.golden import quantize_block
from kiwicha_host.language import reference
from kiwicha_host.language.rotation import hadamard, rotated

TOKENS = [5, 3, 8, 1, 1, 0, 7]


def sylvester(order):
    """By its definition, of integers."""
    matrix = np.ones((1, 1), int)
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@pytest.mark.parametrize("group, order", [
    (1, 1), (2, 1), (6, 1), (4, 4), (8, 4), (12, 4), (64, 64), (576, 64), (768, 256)])
def test_hadamard(group, order):
    """Integers come out without rounding; each group of rows for itself."""
    x = np.random.default_rng(1).integers(-8, 8, (2 * group, 3))
    found = hadamard(x.astype(np.float32), group)
    parts = x.reshape(-1, order, 3)
    np.testing.assert_array_equal(found.reshape(parts.shape), sylvester(order) @ parts / order ** 0.5)
    np.testing.assert_array_equal(hadamard(found, group), x)


@pytest.mark.parametrize("changes", [
    {}, {"tied_head": False}, {"rope_pairs": "halves"}, {"width": 30, "head_size": 6},
    {"head_size": 64, "heads": 1, "kv_heads": 1}])
def test_it_is_the_same_model(changes):
    config = tiny_llama.config(**changes)
    model = tiny_llama.LlamaModel(config, tiny_llama.weights(config))
    turned = rotated(model)
    expected = reference.Decoder(model).logits(TOKENS)
    assert np.abs(reference.Decoder(turned).logits(TOKENS) - expected).max() < 1e-5 * np.abs(expected).max()
    assert (turned.out_norm == 1).all() and all((layer.attn_norm == 1).all() for layer in turned.layers)
    np.testing.assert_array_equal(turned.embed([3, 1]), turned.embedding[[3, 1]])
    np.testing.assert_array_equal(turned.read("layers.0.o", [2]), turned.layers[0].o[[2]])


def test_what_stands_out_costs_less():
    """One element that is thirty times as large as the others spoils its whole block."""
    x = np.random.default_rng(2).normal(0, 1, (50, 64)).astype(np.float32)
    x[:, 5] *= 30

    def error(rows):
        codes, scales = quantize_block(rows, "int8", 32, "rceil")
        steps = np.ldexp(1., scales.astype(int) - 127).repeat(32, axis=1) / 64
        return np.square(codes.view(np.int8) * steps - rows).mean()

    assert error(np.ascontiguousarray(hadamard(x.T, 64).T)) < 0.2 * error(x)
