"""Models of the Llama architecture from GGUF files: every stored type that the package gguf can expand.

What a file holds is used or refused; what only describes the model (its name, its licence, the template of a chat)
is passed over.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import arguments
from ..extras import extra
from ..files import FileProblem, is_stream
from .gguf_header import GgufError, GgufHeader, TensorInfo, read_header
from .gguf_vocabulary import read_vocabulary
from .metadata import Metadata
from .model import LlamaConfig, LlamaModel, shapes
from .vocabulary import Vocabulary

__all__ = ["GgufError", "GgufModel", "StoredTensor", "find_gguf", "read_gguf"]

_NAMES = {"embedding": "token_embd", "out_norm": "output_norm", "head": "output", "q": "attn_q", "k": "attn_k",
          "v": "attn_v", "o": "attn_output", "attn_norm": "attn_norm", "ffn_norm": "ffn_norm",
          "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
#: Divisors of the rotary embedding's angles, as Llama 3.1 and later have them.
_FACTORS = "rope_freqs.weight"
#: Metadata that say nothing of what is computed, or of tokens that nothing here puts in by itself.
_DESCRIPTIVE = re.compile(
    r"general\.(?!architecture$|type$)|quantize\.|tokenizer\.chat_template|tokenizer\.huggingface\.json$"
    r"|tokenizer\.ggml\.(padding|mask|cls|seperator|prefix|suffix|middle|fim_\w+)_token_id$"
    r"|llama\.rope\.scaling\.(original_context_length|finetuned)$")


@dataclass(frozen=True)
class GgufModel:
    """What a file holds: the model, and the vocabulary that its tokens come from."""
    model: LlamaModel
    vocabulary: Vocabulary


class StoredTensor:
    """A tensor in a file: float32 of its rows, made when they are asked for.

    Parameters
    ----------
    data : array
        Rows as stored, in bytes: uint8.
    kind : gguf.GGMLQuantizationType
    shape : tuple of int
        As float32.
    """

    def __init__(self, data: np.ndarray, kind: Any, shape: tuple[int, ...]):
        self._data, self._kind, self.shape = data, kind, shape

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        from gguf import quants
        return np.asarray(quants.dequantize(self._data[rows], self._kind), np.float32)


def find_gguf(path: Path) -> Path:
    """`path`, or the only .gguf file in the folder `path`.

    Raises
    ------
    FileProblem
        There is no such file, or it cannot be read in place; or the folder has none or several.
    """
    path = arguments.path("path", path)
    if path.is_dir():
        found = sorted(item for item in path.iterdir() if item.suffix == ".gguf")
        if len(found) != 1:
            raise FileProblem(f"{path} has {len(found) or 'no'} .gguf file{'s' * (len(found) != 1)}; "
                              "name the file")
        [path] = found
    if is_stream(path):
        raise FileProblem(f"{path} is no file on a disk, where a model is read piece by piece; save it first")
    if not path.is_file():
        raise FileProblem(f"{'not a' if path.exists() else 'no such'} file: {path}")
    return path


def read_gguf(path: Path) -> GgufModel:
    """The model in a GGUF file; its weights stay there until they are used.

    Raises
    ------
    FileProblem
        The file cannot be read.
    GgufError
        It is no GGUF file, is damaged, or holds what is not supported.
    MissingExtra
        The package gguf is not installed.
    """
    with extra("llm"):
        import gguf  # noqa: F401
    path = find_gguf(path)
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror or error}") from None
    header = read_header(path, data)
    metadata = Metadata(path, header.metadata)
    _check_kind(path, metadata)
    vocabulary = read_vocabulary(path, metadata)
    config, stretch = _config(path, metadata, header, len(vocabulary.tokens)), _stretch(path, metadata)
    metadata.refuse_unused(_DESCRIPTIVE)
    tensors = _tensors(path, data, header, config)
    config = _with_factors(path, data, header, config, stretch)
    return GgufModel(LlamaModel(config, tensors), vocabulary)


def _check_kind(path: Path, metadata: Metadata) -> None:
    kind = metadata.text("general.type", "model")
    if kind != "model":
        raise GgufError(f"{path} holds no model: its general.type is {arguments.shown(kind)}")
    architecture = metadata.text("general.architecture")
    if architecture != "llama":
        raise GgufError(f"{path} has the architecture {arguments.shown(architecture)}; only "
                        "'llama' is supported")
    if metadata.integer("split.count", 1) > 1:
        raise GgufError(f"{path} is one part of several; join them with llama-gguf-split --merge")
    for key in ("split.no", "split.tensors.count"):
        metadata.integer(key, 0)


def _config(path: Path, metadata: Metadata, header: GgufHeader, vocabulary: int) -> LlamaConfig:
    heads, width = metadata.integer("llama.attention.head_count"), metadata.integer("llama.embedding_length")
    size = metadata.integer("llama.attention.key_length", width // max(1, heads))
    metadata.only("llama.vocab_size", vocabulary)
    metadata.only("llama.attention.value_length", size)
    metadata.only("llama.rope.dimension_count", size)
    for key in ("llama.expert_count", "llama.expert_used_count"):
        metadata.only(key, 0)
    metadata.only("llama.attention.causal", True)
    metadata.only("llama.tensor_data_layout", "Meta AI original pth")
    try:
        return LlamaConfig(
            layers=metadata.integer("llama.block_count"), width=width, heads=heads,
            kv_heads=metadata.integer("llama.attention.head_count_kv", heads), head_size=size,
            ffn=metadata.integer("llama.feed_forward_length"), vocabulary=vocabulary,
            context=metadata.integer("llama.context_length"),
            rope_base=metadata.number("llama.rope.freq_base", 10000.0),
            norm_epsilon=metadata.number("llama.attention.layer_norm_rms_epsilon"),
            tied_head="output.weight" not in header.tensors,
            # The converter to GGUF orders the rows of q and k so that pairs are neighbours.
            rope_pairs="neighbours")
    except ValueError as error:
        raise error if isinstance(error, GgufError) else GgufError(f"{path} is damaged: {error}") from None


def _stretch(path: Path, metadata: Metadata) -> float:
    """By how much all angles of the rotary embedding are divided."""
    scaling = metadata.text("llama.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise GgufError(f"{path} scales its rotary embedding by {arguments.shown(scaling)}; none and "
                        "linear are supported")
    metadata.only("llama.rope.scaling.attn_factor", 1.0)
    if scaling == "none":
        metadata.only("llama.rope.scaling.factor", 1.0)
    return metadata.number("llama.rope.scaling.factor", 1.0)


def _with_factors(path: Path, data: np.ndarray, header: GgufHeader, config: LlamaConfig, stretch: float
                  ) -> LlamaConfig:
    info, factors = header.tensors.get(_FACTORS), np.ones(config.head_size // 2)
    if info is None and stretch == 1.0:
        return config
    if info is not None:
        factors = _stored(path, data, info)[...].astype(np.float64).reshape(-1)
    try:
        return replace(config, rope_factors=tuple((stretch * factors).tolist()))
    except ValueError as error:
        raise GgufError(f"{path} is damaged: {error}") from None


# Weights.

def _tensors(path: Path, data: np.ndarray, header: GgufHeader, config: LlamaConfig) -> Mapping[str, StoredTensor]:
    if config.layers > len(header.tensors):         # which may be a very wrong number
        raise GgufError(f"{path} lacks the tensor blk.{config.layers - 1}.attn_norm.weight")
    expected = {_stored_name(name): (name, shape) for name, shape in shapes(config).items()}
    for name in header.tensors:
        if name not in expected and name != _FACTORS:
            kind = "biases are" if name.endswith(".bias") else "it is"
            raise GgufError(f"{path} has the tensor {name}; {kind} not supported")
    tensors = {}
    for stored, (name, shape) in expected.items():
        info = header.tensors.get(stored)
        if info is None:
            raise GgufError(f"{path} lacks the tensor {stored}")
        if info.shape != shape:
            raise GgufError(f"{path} has the tensor {stored} as {list(info.shape)}; by its metadata it must be "
                            f"{list(shape)}")
        tensors[name] = _stored(path, data, info)
    return tensors


def _stored_name(name: str) -> str:
    """That of a tensor in a file: "layers.3.q" is blk.3.attn_q.weight there."""
    *layer, last = name.split(".")
    return ".".join(["blk", layer[1], _NAMES[last], "weight"] if layer else [_NAMES[last], "weight"])


def _stored(path: Path, data: np.ndarray, info: TensorInfo) -> StoredTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
    try:
        kind = GGMLQuantizationType(info.kind)
        quants.dequantize(np.zeros(GGML_QUANT_SIZES[kind][1], np.uint8), kind)
    except (ValueError, NotImplementedError, KeyError):
        known = {item.value: item.name for item in GGMLQuantizationType}
        raise GgufError(f"{path} stores the tensor {info.name} as {known.get(info.kind, f'type {info.kind}')}, "
                        "which is not supported") from None
    elements, size = GGML_QUANT_SIZES[kind]
    if not info.shape or info.shape[-1] % elements:
        raise GgufError(f"{path} is damaged: tensor {info.name} is {list(info.shape)}, and {kind.name} is in "
                        f"blocks of {elements} of a row")
    end = info.offset + math.prod(info.shape) // elements * size
    if end > len(data):
        raise GgufError(f"{path} is truncated: it ends at byte {len(data)}, and tensor {info.name} at {end}")
    rows = data[info.offset:end].reshape(*info.shape[:-1], info.shape[-1] // elements * size)
    return StoredTensor(rows, kind, info.shape)
