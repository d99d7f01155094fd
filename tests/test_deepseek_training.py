"""Training of the DeepSeek model: the network in PyTorch against numpy, its rounding, and the same weights each
time.
"""

import numpy as np
import pytest
import tiny_deepseek

from kiwicha_host.golden import quantize_block
from kiwicha_host.language.deepseek.exact import ExactDecoder
from kiwicha_host.language.deepseek.model import DeepSeekModel, Quantized
from kiwicha_host.language.deepseek.reference import Decoder
from kiwicha_host.language.deepseek.stored import quantized
from kiwicha_host.operands import FORMATS

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'kiwicha[train]'")

from kiwicha_host.language.deepseek import torch_model, train  # noqa: E402


def as_torch(model):
    return {name: torch.from_numpy(w) for name, w in model.dequantized.tensors.items()}


@pytest.mark.parametrize("changes", [{}, {"context": 16, "kv_rank": 128}, {"dense_layers": 3, "kept_groups": 1}],
                         ids=str)
def test_the_network_is_the_references(changes):
    config = tiny_deepseek.config(**changes)
    model = DeepSeekModel(config, tiny_deepseek.tensors(config, 1))
    tokens = np.random.default_rng(1).integers(0, 50, (2, 15))
    logits, loads = torch_model.forward(config, as_torch(model), torch.from_numpy(tokens))
    np.testing.assert_allclose(logits.numpy(), Decoder(model).logits(tokens), atol=2e-4)
    assert [load.sum().item() for load in loads] == [30 * config.chosen] * (config.layers - config.dense_layers)


def test_what_is_trained_is_what_the_chip_computes():
    """Rounded in the same places, so that there is no difference but that of FP32 sums in another order."""
    config = tiny_deepseek.config(layers=2)
    model = quantized(config, tiny_deepseek.tensors(config, 2))
    tokens = np.random.default_rng(2).integers(0, 50, 60)
    logits, _ = torch_model.forward(config, as_torch(model), torch.from_numpy(tokens[None]), quantized=True)
    expected, plain = ExactDecoder(model).logits(tokens), Decoder(model).logits(tokens)
    error = np.sqrt(np.median((logits[0].numpy() - expected) ** 2))
    assert error < 0.01 * np.sqrt(np.median((plain - expected) ** 2)), error


def test_rounding():
    rng = np.random.default_rng(3)
    x = (rng.normal(0, 1, (5, 200)) * 2. ** rng.integers(-12, 4, (5, 200))).astype(np.float32)
    x[0, :8] = 0, 448, -448, 465, 2 ** -10, 3 * 2 ** -10, 1.0625, 1.1875
    for rounding, fmt, block in ((torch_model.round_e4m3, "e4m3", 128), (torch_model.round_e2m1, "e2m1", 32)):
        codes, scales = quantize_block(x, fmt, block)
        expected = Quantized(codes.view(FORMATS[fmt]), scales, block)
        got = torch_model._rounded(torch.from_numpy(x), rounding, block)
        np.testing.assert_array_equal(got.numpy(), expected.values)


def test_rounding_of_weights_and_its_gradient():
    config = tiny_deepseek.config()
    tensors = tiny_deepseek.tensors(config, 4)
    weights = {name: torch.from_numpy(w).requires_grad_() for name, w in tensors.items()}
    network = torch_model._Network(config, weights, True)
    for name, tensor in quantized(config, tensors).tensors.items():
        if isinstance(tensor, Quantized):
            rounded = network.weight(name)
            np.testing.assert_array_equal(rounded.detach().numpy(), tensor.values, err_msg=name)
            rounded.sum().backward()
            assert (weights[name].grad == 1).all()


def test_the_same_weights_each_time():
    torch.set_num_threads(1)
    config = tiny_deepseek.config()
    tokens = np.tile(np.random.default_rng(5).integers(0, 50, 40), 10)
    losses = []
    one, two = (train.train(config, tokens, 8, show=lambda step, loss: losses.append(loss))
                for _ in range(2))
    assert losses[:8] == losses[8:] and losses[7] < losses[0] - 0.1
    for name, w in one.items():
        assert torch.equal(w, two[name]), name
    assert (one["layers.1.bias"] != 0).any(), "experts are balanced"


def test_the_vocabulary_is_the_same_each_time():
    texts = ["while true: pass", "the while statement", "°"] * 30
    one, two = (train.train_vocabulary(texts).to_str() for _ in range(2))
    assert one == two and '"while"' in one
