"""Models from GGUF files: every stored type, and one line for what a file must not be."""

import gguf
import numpy as np
import pytest
import tiny_llama

from kiwicha_host.files import FileProblem
from kiwicha_host.language.gguf_file import GgufError, find_gguf, read_gguf
from kiwicha_host.language.model import LlamaConfig, LlamaModel, shapes

#: How far a stored weight may be from the original, over the largest of its tensor.
STEPS = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 0.6 / 127, "Q5_0": 1 / 16, "Q5_1": 0.6 * 2 / 31,
         "Q4_0": 1 / 8, "Q4_1": 0.6 * 2 / 15}


@pytest.fixture
def write(tmp_path):
    return lambda *arguments, **options: tiny_llama.write_gguf(tmp_path / "model.gguf", *arguments, **options)


@pytest.mark.parametrize("kind", STEPS)
def test_every_stored_type(write, kind):
    original = tiny_llama.model(seed=5)
    model = read_gguf(write(kind, seed=5)).model
    assert model.config == original.config
    assert len(model.layers) == 2 and (model.head == model.embedding).all()
    for name, shape in shapes(model.config).items():
        stored, exact = np.asarray(model.tensors[name][...]), original.tensors[name]
        assert stored.dtype == np.float32 and stored.shape == shape == model.tensors[name].shape
        bound = STEPS[kind] * np.abs(exact).max() if exact.ndim > 1 else 0
        assert np.abs(stored - exact).max() <= bound, name
    np.testing.assert_array_equal(model.layers[1].q, model.tensors["layers.1.q"][...])
    np.testing.assert_array_equal(model.layers[-1].down, model.layers[:2][1].down)


#: All that the package expands; the others hold bytes, or are made on the way only.
EXPANDED = [kind for kind in gguf.GGMLQuantizationType
            if kind.name not in ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K", "Q1_0")]


@pytest.mark.parametrize("kind", EXPANDED, ids=lambda kind: kind.name)
def test_every_type_that_can_be_expanded(write, kind):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    # Random blocks, with no byte so large that a scale would be no number.
    stored = np.random.default_rng(7).integers(0, 0x3C, (290, 256 // elements * size), np.uint8)
    path = write(width=256, head_size=64, layers=1, tensors={"token_embd.weight": (stored, kind.name)})
    model = read_gguf(path).model
    whole = gguf.quants.dequantize(stored, kind)
    assert whole.shape == (290, 256) and len(np.unique(whole)) > 1 and np.isfinite(whole).all()
    np.testing.assert_array_equal(model.embedding, whole)
    np.testing.assert_array_equal(model.embed([7, 289, 7]), whole[[7, 289, 7]])


def test_only_the_rows_that_are_used_are_expanded(write, monkeypatch):
    model = read_gguf(write("Q8_0")).model
    whole, sizes, dequantize = model.embedding, [], gguf.quants.dequantize
    monkeypatch.setattr(gguf.quants, "dequantize",
                        lambda data, kind: sizes.append(data.size) or dequantize(data, kind))
    np.testing.assert_array_equal(model.embed([7, 289, 7]), whole[[7, 289, 7]])
    assert sizes == [3 * 64 // 32 * 34]
    with pytest.raises(ValueError, match="tokens must be from 0 to 289, not 290"):
        model.embed([290])


def test_an_own_head_and_other_sizes(write):
    sizes = {"tied_head": False, "heads": 6, "kv_heads": 3, "head_size": 8, "width": 32, "layers": 1,
             "rope_base": 5e5, "norm_epsilon": 2.0**-15}
    model = read_gguf(write(**sizes)).model
    assert model.config == tiny_llama.config(**sizes)
    assert (model.head != model.embedding).any() and model.layers[0].q.shape == (48, 32)


def test_what_the_metadata_may_leave_out(write):
    model = read_gguf(write(changed=dict.fromkeys(
        ("llama.vocab_size", "llama.attention.key_length", "llama.attention.value_length", "general.name",
         "llama.rope.dimension_count", "llama.rope.freq_base", "tokenizer.ggml.token_type")))).model
    assert model.config == tiny_llama.config()
    model = read_gguf(write(kv_heads=4, changed={"llama.attention.head_count_kv": None})).model
    assert model.config.kv_heads == 4


@pytest.mark.parametrize("changed, factors, expected", [
    ({}, None, 1), ({"llama.rope.scaling.type": "none"}, None, 1),
    ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0,
      "llama.rope.scaling.original_context_length": 16}, None, 4),
    ({}, np.arange(1, 9), np.arange(1, 9)),
    ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}, np.arange(1, 9),
     2 * np.arange(1, 9)),
])
def test_factors_of_the_rotary_embedding(write, changed, factors, expected):
    tensors = {} if factors is None else {"rope_freqs.weight": factors.astype(np.float32)}
    config = read_gguf(write(changed=changed, tensors=tensors)).model.config
    np.testing.assert_allclose(config.rope_frequencies, 10000.0 ** (-np.arange(8) / 8) / expected, rtol=1e-12)


# What is wrong, in one line.

def refused(path, message):
    with pytest.raises(GgufError) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("changed, message", [
    ({"llama.block_count": None}, "lacks llama.block_count in its metadata"),
    ({"llama.block_count": 4_000_000_000}, "lacks the tensor blk.3999999999.attn_norm.weight"),
    ({"llama.block_count": 3}, "lacks the tensor blk.2.attn_norm.weight"),
    ({"llama.attention.key_length": 4_000_000_000, "llama.attention.value_length": None,
      "llama.rope.dimension_count": None, "llama.rope.scaling.type": "linear",
      "llama.rope.scaling.factor": 2.0}, "by its metadata it must be [16000000000, 64]"),
    ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0.0},
     "is damaged: rope_factors must be finite and above 0, not 0.0"),
    ({"llama.block_count": "two"}, "has llama.block_count = 'two', which must be an integer"),
    ({"llama.block_count": True}, "has llama.block_count = True, which must be an integer"),
    ({"llama.attention.head_count": [4, 4]}, "has llama.attention.head_count = [4, 4], which must be an integer"),
    ({"llama.attention.head_count_kv": 3}, "is damaged: heads must be a multiple of kv_heads, not 4 for 3"),
    ({"llama.attention.layer_norm_rms_epsilon": float("nan")},
     "is damaged: norm_epsilon must be finite and at least 0, not nan"),
    ({"llama.rope.scaling.type": "yarn"}, "scales its rotary embedding by 'yarn'; none and linear are supported"),
    ({"llama.rope.scaling.factor": 8.0}, "has llama.rope.scaling.factor = 8.0; only 1.0 is supported"),
    ({"llama.rope.dimension_count": 8}, "has llama.rope.dimension_count = 8; only 16 is supported"),
    ({"llama.attention.value_length": 8}, "has llama.attention.value_length = 8; only 16 is supported"),
    ({"llama.attention.sliding_window": 32}, "has llama.attention.sliding_window = 32, which is not supported"),
    ({"llama.logit_scale": 0.5}, "has llama.logit_scale = 0.5, which is not supported"),
    ({"llama.expert_count": 8}, "has llama.expert_count = 8; only 0 is supported"),
    ({"llama.vocab_size": 291}, "has llama.vocab_size = 291; only 290 is supported"),
    ({"llama.feed_forward_length": 97},
     "has the tensor blk.0.ffn_gate.weight as [96, 64]; by its metadata it must be [97, 64]"),
    ({"general.type": "adapter"}, "holds no model: its general.type is 'adapter'"),
    ({"split.count": 3}, "is one part of several; join them"),
    ({"made.up": 1}, "has made.up = 1, which is not supported"),
    ({"tokenizer.ggml.model": "t5"}, "has a vocabulary of the kind 't5'; gpt2 and llama are supported"),
    ({"tokenizer.ggml.token_type": [1, 2]}, "is damaged: it has 290 tokens, and kinds for 2"),
    ({"tokenizer.ggml.token_type": [9] * 290}, "has tokens of kind 9, which is not supported"),
    ({"tokenizer.ggml.tokens": [1, 2]}, "has tokenizer.ggml.tokens = [1, 2], which must be a list of texts"),
    ({"tokenizer.ggml.eos_token_id": 290}, "is damaged: tokenizer.ggml.eos_token_id is 290, of 290 tokens"),
    ({"tokenizer.ggml.add_eos_token": True}, "has tokenizer.ggml.add_eos_token = True; only False is supported"),
    ({"tokenizer.ggml.bos_token_id": None}, "lacks tokenizer.ggml.bos_token_id, which is to begin each text"),
    ({"tokenizer.ggml.remove_extra_whitespaces": True},
     "remove_extra_whitespaces = True; only False is supported"),
])
def test_metadata_that_are_refused(write, changed, message):
    refused(write(changed=changed), message)


@pytest.mark.parametrize("tensors, message", [
    ({"blk.1.ffn_up.weight": None}, "lacks the tensor blk.1.ffn_up.weight"),
    ({"blk.0.attn_q.bias": np.ones(64, np.float32)},
     "has the tensor blk.0.attn_q.bias; biases are not supported"),
    ({"blk.2.attn_q.weight": np.ones((64, 64), np.float32)},
     "has the tensor blk.2.attn_q.weight; it is not supported"),
    ({"blk.0.attn_k.weight": np.ones((64, 32), np.float32)},
     "as [64, 32]; by its metadata it must be [32, 64]"),
    ({"blk.0.attn_k.weight": np.ones((32, 64), np.int8)},
     "stores the tensor blk.0.attn_k.weight as I8, which is not supported"),
    ({"rope_freqs.weight": np.ones(7, np.float32)}, "rope_factors must be 8 numbers, not 7"),
])
def test_tensors_that_are_refused(write, tensors, message):
    refused(write(tensors=tensors), message)


def test_other_architectures_are_named(write):
    refused(write(architecture="qwen2"), "has the architecture 'qwen2'; only 'llama' is supported")


def test_foreign_and_damaged_headers(write):
    path = write()
    good = path.read_bytes()
    name = good.index(b"token_embd.weight") + len("token_embd.weight")
    kind = name + 4 + 2 * 8
    pair = good.index(b"general.name")
    for data, message in (
            (b"", "is not a GGUF file"), (b"\x08\x07" + good, "is not a GGUF file"),
            (good[:4] + b"\x01\0\0\0" + good[8:], "is GGUF of version 1; versions 2 and 3 are supported"),
            (good[:4] + b"\0\0\0\x03" + good[8:], "has its most significant bytes first"),
            (good[:8] + b"\xff" * 8 + good[16:], "is truncated"),
            (good[:kind] + b"\xe7\x03\0\0" + good[kind + 4:],
             "stores the tensor token_embd.weight as type 999, which is not supported"),
            (good[:kind - 8] + b"\xff" * 8 + good[kind:], "by its metadata it must be [290, 64]"),
            (good[:pair] + b"\xff" + good[pair + 1:], "is damaged: a text in its header is not UTF-8"),
            (good[:pair] + b"\n" + good[pair + 1:], "is damaged: '\\neneral.name' is no name"),
            (good[:name] + b"\x05" + good[name + 1:], "is damaged: tensor token_embd.weight has 5 dimensions"),
            (good[:pair + 12] + b"\x63" + good[pair + 13:], "is damaged: general.name is of type 99"),
            (good.replace(b"blk.1.ffn_up", b"blk.0.ffn_up"),
             "is damaged: tensor blk.0.ffn_up.weight is there twice"),
            (good.replace(b"llama.context_length", b"llama.rope.freq_base"),
             "is damaged: llama.rope.freq_base is there twice"),
            (good.replace(b"general.file_type", b"general.alignment"),
             "is damaged: general.alignment is 0, which is no power of two")):
        path.write_bytes(data)
        refused(path, message)


def test_a_list_longer_than_the_file_ends_at_once(write):
    """A list of numbers that claims 2^62 of them, within a file that ends before."""
    path = write()
    good = path.read_bytes()
    length = good.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    path.write_bytes(good[:length + 7] + b"\x40" + good[length + 8:])
    refused(path, f"is truncated: it ends at byte {len(good)}, within its header")


def test_a_file_may_end_anywhere(write):
    path = write(layers=1)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in (4, 7, 8, 23, len(good) - 32, *rng.integers(24, len(good) - 32, 60)):
        path.write_bytes(good[:size])
        refused(path, f"is truncated: it ends at byte {size}")


def test_any_byte_may_be_wrong(write):
    """Whatever a header says: a model, or one line; no other exception, and no end to wait for."""
    path = write("Q8_0", tensors={"rope_freqs.weight": np.ones(8, np.float32)})
    good = path.read_bytes()
    words = range(good.index(b"tokenizer.ggml.tokens"), good.index(b"tokenizer.ggml.bos"))
    places = [at for at in range(good.rindex(b".weight") + 40) if at not in words]
    rng = np.random.default_rng(2)
    refusals = 0
    for _ in range(400):
        data = bytearray(good)
        data[rng.choice(places)] = rng.choice([0, 1, 255, rng.integers(256)])
        path.write_bytes(data)
        try:
            read_gguf(path)
        except GgufError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert 200 < refusals < 400


def test_blocks_must_be_whole(write):
    path = write(width=48)
    good = path.read_bytes()
    kind = good.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 2 * 8
    path.write_bytes(good[:kind] + b"\x08" + good[kind + 1:])
    refused(path, "is damaged: tensor token_embd.weight is [290, 48], and Q8_0 is in blocks of 32 of a row")


def test_the_only_file_of_a_folder(write, tmp_path):
    with pytest.raises(FileProblem, match=r"has no \.gguf files; name the file"):
        find_gguf(tmp_path)
    path = write()
    assert find_gguf(tmp_path) == path and read_gguf(tmp_path).model.config == tiny_llama.config()
    (tmp_path / "other.gguf").touch()
    with pytest.raises(FileProblem, match=r"has 2 \.gguf files; name the file"):
        find_gguf(tmp_path)
    for name, message in (("none.gguf", "no such file"), ("/dev/null", "is no file on a disk")):
        with pytest.raises(FileProblem, match=message):
            read_gguf(tmp_path / name)


# A model in memory.

@pytest.mark.parametrize("changes, message", [
    ({"heads": 3}, "heads must be a multiple of kv_heads, not 3 for 2"),
    ({"head_size": 15}, "head_size must be even, not 15"),
    ({"layers": 0}, "layers must be at least 1, not 0"),
    ({"rope_pairs": "both"}, "rope_pairs must be one of neighbours, halves, not 'both'"),
    ({"rope_factors": (1.0,)}, "rope_factors must be 8 numbers, not 1"),
    ({"rope_factors": (0.0,) * 8}, "rope_factors must be finite and above 0, not 0.0"),
    ({"rope_base": 0.0}, "rope_base must be finite and above 0, not 0.0"),
])
def test_sizes_that_are_none(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_llama.config(**changes)


def test_tensors_that_do_not_fit():
    config = tiny_llama.config()
    arrays = tiny_llama.weights(config)
    for changed, message in (
            ({"layers.0.q": np.ones((3, 64))}, r"tensor 'layers.0.q' must be \[64, 64\], not \[3, 64\]"),
            ({"head": np.ones((290, 64))}, "tensors must not hold 'head'")):
        with pytest.raises(ValueError, match=message):
            LlamaModel(config, arrays | changed)
    del arrays["out_norm"]
    with pytest.raises(ValueError, match="tensors must hold 'out_norm'"):
        LlamaModel(config, arrays)
    with pytest.raises(TypeError, match="config must be a LlamaConfig, not None"):
        LlamaModel(None, arrays)
    assert isinstance(config, LlamaConfig)
