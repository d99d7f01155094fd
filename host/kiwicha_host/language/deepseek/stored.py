"""The trained model in files: weights in the formats that the chip multiplies, in one .npz, and a vocabulary.

E4M3 in squares of 128 with E8M0 scales for matrices, E2M1 in blocks of 32 for experts, BF16 for the embedding,
FP32 for all else. An array that numpy has no type for is stored as its codes, two of E2M1 in a byte, the first
in the lower half. The same model gives the same bytes.
"""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...golden.block import block_scales, round_elements, spread
from ...models import DEEPSEEK, DEEPSEEK_VOCABULARY
from ...operands import FORMATS
from ..vocabulary import TokenKind, Vocabulary
from .config import DeepSeekConfig
from .model import DeepSeekModel, Quantized, shapes

__all__ = ["BLOCKS", "Trained", "format_of", "load", "quantized", "save", "vocabulary"]

#: Elements that share a scale, of the formats that have scales; of E4M3 in both directions.
BLOCKS = {"e4m3": 128, "e2m1": 32}


@dataclass(frozen=True)
class Trained:
    """What a file holds.

    Parameters
    ----------
    model : DeepSeekModel
    held_out : int [tokens]
        The text that the model was not trained on.
    notes : dict
        What training said: versions, steps, and losses in nats per token of `held_out`.
    """
    model: DeepSeekModel
    held_out: np.ndarray
    notes: dict[str, Any]


def format_of(name: str) -> str:
    """The format of the tensor `name`: "e4m3", "e2m1", "bf16" or "fp32"."""
    last = name.rpartition(".")[2]
    if ".experts." in name:
        return "e2m1"
    if last == "embed":
        return "bf16"
    return "fp32" if last.endswith("norm") or last in ("gate", "bias") else "e4m3"


def quantized(config: DeepSeekConfig, tensors: dict[str, np.ndarray]) -> DeepSeekModel:
    """A model of float32 tensors in the formats that it is stored in, by the rule "rceil"."""
    return DeepSeekModel(config, {name: _quantized(format_of(name), tensor) for name, tensor in tensors.items()})


def _quantized(fmt: str, x: np.ndarray) -> np.ndarray | Quantized:
    if fmt == "fp32":
        return np.asarray(x, np.float32)
    if fmt == "bf16":
        return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32)
    block = BLOCKS[fmt]
    largest = np.maximum.reduceat(np.abs(x), range(0, x.shape[-1], block), axis=-1)
    if fmt == "e4m3":
        largest = np.maximum.reduceat(largest, range(0, x.shape[-2], block), axis=-2)
    scales = block_scales(largest, fmt)
    return Quantized(round_elements(x, spread(scales, x.shape, block), fmt), scales, block)


def save(path: Path, trained: Trained) -> None:
    """Write a file that :func:`load` reads."""
    text = json.dumps({"config": asdict(trained.model.config), "notes": trained.notes}, sort_keys=True)
    arrays: dict[str, Any] = {"about": np.frombuffer(text.encode(), np.uint8),
                              "held_out": trained.held_out.astype(np.uint16)}
    for name, tensor in trained.model.tensors.items():
        if isinstance(tensor, Quantized):
            codes = tensor.elements.view(np.uint8)
            packed = format_of(name) == "e2m1"
            arrays[name] = codes[..., ::2] | codes[..., 1::2] << 4 if packed else codes
            arrays[f"{name}.scales"] = tensor.scales
        elif format_of(name) == "bf16":
            arrays[name] = tensor.astype(ml_dtypes.bfloat16).view(np.uint16)
        else:
            arrays[name] = tensor
    np.savez_compressed(path, **arrays)


def load(path: Path = DEEPSEEK) -> Trained:
    """The model in a file, by default the one that belongs to the package.

    Raises
    ------
    ValueError
        It is not such a file.
    """
    try:
        with np.load(path) as file:
            about = json.loads(bytes(file["about"]))
            config = DeepSeekConfig(**about["config"])
            tensors = {name: _read(file, name) for name in shapes(config)}
            return Trained(DeepSeekModel(config, tensors), file["held_out"].astype(np.int64), about["notes"])
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no model that was stored here: {error}") from None


def _read(file: Any, name: str) -> np.ndarray | Quantized:
    fmt, array = format_of(name), file[name]
    if fmt == "fp32":
        return array
    if fmt == "bf16":
        return array.view(ml_dtypes.bfloat16).astype(np.float32)
    if fmt == "e2m1":
        array = np.stack([array & 15, array >> 4], axis=-1).reshape(*array.shape[:-1], -1)
    return Quantized(array.view(FORMATS[fmt]), file[f"{name}.scales"], BLOCKS[fmt])


def vocabulary(path: Path = DEEPSEEK_VOCABULARY) -> Vocabulary:
    """The vocabulary of the model that belongs to the package, from a file of the package tokenizers."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    numbers = stored["model"]["vocab"]
    tokens = tuple(sorted(numbers, key=numbers.__getitem__))
    control = {each["content"] for each in stored["added_tokens"]}
    end, = (numbers[each] for each in control)
    return Vocabulary(model="gpt2", pre="gpt-2", tokens=tokens,
                      kinds=tuple(TokenKind.CONTROL if each in control else TokenKind.NORMAL for each in tokens),
                      merges=tuple(" ".join(pair) for pair in stored["model"]["merges"]),
                      bos=end, ends=frozenset({end}), add_bos=True)
