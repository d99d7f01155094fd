"""Small Llama models with random weights, as GGUF files or as they are."""

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from kiwicha_host.language.model import LlamaConfig, LlamaModel, shapes

#: Control tokens; the second begins a text and the third ends it.
SPECIAL = ("<|pad|>", "<|start|>", "<|end|>")
_WORDS = ("Ġthe", "Ġof", "Ġis", "Ġcapital", "The", "ĠFrance", "ĠParis", "ing", "Ġ12")
_STORED = {"embedding": "token_embd", "out_norm": "output_norm", "head": "output", "q": "attn_q", "k": "attn_k",
           "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}


def merges():
    """Pairs of tokens, by which the words come about from their first character on."""
    pairs = {}
    for word in _WORDS:
        for end in range(1, len(word)):
            pairs.setdefault(word[:end + 1], (word[:end], word[end]))
    return list(pairs.values())


def tokens():
    """All of them: the control tokens, 256 for the bytes, and one for each pair."""
    return [*SPECIAL, *sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges())]


def config(**changes):
    """Two layers of width 64, four heads that share two keys and values."""
    return LlamaConfig(**{"layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_size": 16, "ffn": 96,
                          "vocabulary": len(tokens()), "context": 64, "tied_head": True,
                          "norm_epsilon": 2.0**-17, **changes})


def weights(sizes, seed=0):
    """Random float32 arrays by the model's names; each row of a matrix has a length of about 1."""
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(1, 0.1, shape) if len(shape) == 1 else
                   rng.normal(0, shape[-1] ** -0.5, shape)).astype(np.float32)
            for name, shape in shapes(sizes).items()}


def model(seed=0, **changes):
    """A model in memory."""
    sizes = config(**changes)
    return LlamaModel(sizes, weights(sizes, seed))


def stored_name(name):
    """That of "layers.1.q" in a file: blk.1.attn_q.weight."""
    *layer, last = name.split(".")
    return ".".join((["blk", layer[1]] if layer else []) + [_STORED.get(last, last), "weight"])


def metadata(sizes):
    """What a converter writes for a model of these sizes and the vocabulary :func:`tokens`."""
    names = tokens()
    return {
        "general.name": "tiny", "general.file_type": 0, "llama.vocab_size": sizes.vocabulary,
        "llama.block_count": sizes.layers, "llama.context_length": sizes.context,
        "llama.embedding_length": sizes.width, "llama.feed_forward_length": sizes.ffn,
        "llama.attention.head_count": sizes.heads, "llama.attention.head_count_kv": sizes.kv_heads,
        "llama.attention.key_length": sizes.head_size, "llama.attention.value_length": sizes.head_size,
        "llama.rope.dimension_count": sizes.head_size, "llama.rope.freq_base": float(sizes.rope_base),
        "llama.attention.layer_norm_rms_epsilon": float(sizes.norm_epsilon),
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(names) - len(SPECIAL)),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges()],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages }}",
    }


def write_gguf(path, kind="F32", seed=0, *, architecture="llama", changed=None, tensors=None, **sizes):
    """Write a tiny model to `path` and return that: matrices in the GGML type `kind`, vectors in F32.

    `changed` are metadata and `tensors` arrays, under the file's names, that are different; None: not there. A
    pair is a tensor's bytes [rows, bytes] and its type.
    `sizes` are changes to :func:`config`.
    """
    made = config(**sizes)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**metadata(made), **(changed or {})}.items():
        if value is not None:
            _add(writer, key, value)
    arrays = {stored_name(name): array for name, array in weights(made, seed).items()}
    for name, array in {**arrays, **(tensors or {})}.items():
        if isinstance(array, tuple):
            writer.add_tensor(name, array[0], raw_dtype=gguf.GGMLQuantizationType[array[1]])
        elif array is not None:
            _store(writer, name, array, gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, key, value):
    kinds = {bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32,
             str: gguf.GGUFValueType.STRING}
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_key_value(key, value, kinds[type(value)])


def _store(writer, name, array, kind):
    if array.dtype != np.float32 or kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, array)
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
