"""What stands before the weights in a GGUF file: metadata, and where each tensor lies.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every length is held against the file's own
before anything of that length is read.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import shown

__all__ = ["GgufError", "GgufHeader", "TensorInfo", "read_header"]

_VERSIONS = (2, 3)
_TEXT, _ARRAY = 8, 9
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8",
            12: "<f8"}
#: A tensor has no more, and names in messages are lines.
_DIMENSIONS, _NAME = 4, 200


class GgufError(ValueError):
    """A file is no GGUF file, is damaged, or holds what is not supported; the message names it and says which."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: its shape with the outermost dimension first, its type's number in GGML, where its data begin."""
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """`metadata`: int, float, bool, str, or a list of these, by key; `tensors` by name, with offsets in the file.
    """
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path, data: np.ndarray) -> GgufHeader:
    """The header of the file `path`, whose bytes are `data` (uint8, usually mapped from the file).

    Raises
    ------
    GgufError
        It is not a GGUF file, of a version that is not known, or it ends too early.
    """
    start = data[:8].tobytes()
    if start[:4] != b"GGUF":
        raise GgufError(f"{path} is not a GGUF file: it does not begin with 'GGUF'")
    if len(start) < 8:
        raise GgufError(f"{path} is truncated: it ends at byte {len(data)}, within its header")
    version = int.from_bytes(start[4:], "little")
    if not version & 0xFFFF:
        raise GgufError(f"{path} has its most significant bytes first; convert it with gguf-convert-endian")
    if version not in _VERSIONS:
        raise GgufError(f"{path} is GGUF of version {version}; versions 2 and 3 are supported")
    try:
        return _Cursor(path, data, 8).header()
    except UnicodeDecodeError:
        raise GgufError(f"{path} is damaged: a text in its header is not UTF-8") from None


class _Cursor:
    """Reads on from a position."""

    def __init__(self, path: Path, data: np.ndarray, position: int):
        self._path, self._data, self._position = path, data, position

    def header(self) -> GgufHeader:
        tensor_count, count = self._take(8), self._take(8)
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self._name()
            if key in metadata:
                raise self._damaged(f"{key} is there twice")
            metadata[key] = self._value(key, self._take(4))
        tensors: dict[str, TensorInfo] = {}
        for _ in range(tensor_count):
            item = self._tensor()
            if item.name in tensors:
                raise self._damaged(f"tensor {item.name} is there twice")
            tensors[item.name] = item
        align = metadata.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1 or align & (align - 1):
            raise self._damaged(f"general.alignment is {align!r}, which is no power of two")
        base = -(-self._position // align) * align
        return GgufHeader(metadata, {name: TensorInfo(name, item.shape, item.kind, base + item.offset)
                                     for name, item in tensors.items()})

    def _tensor(self) -> TensorInfo:
        name, count = self._name(), self._take(4)
        if count > _DIMENSIONS:
            raise self._damaged(f"tensor {name} has {count} dimensions")
        shape = tuple(self._take(8) for _ in range(count))[::-1]
        return TensorInfo(name, shape, self._take(4), self._take(8))

    def _value(self, key: str, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            item, count = self._take(4), self._take(8)
            return [self._text() for _ in range(count)] if item == _TEXT else self._scalars(key, item, count)
        return self._scalars(key, kind, 1)[0]

    def _scalars(self, key: str, kind: int, count: int) -> list[Any]:
        if kind not in _SCALARS:
            raise self._damaged(f"{key} is of type {kind}, which is not known here")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._bytes(count * dtype.itemsize), dtype).tolist()

    def _name(self) -> str:
        name = self._text()
        if len(name) > _NAME or not name.isprintable():
            raise self._damaged(f"{shown(name)} is no name")
        return name

    def _text(self) -> str:
        return self._bytes(self._take(8)).decode("utf-8")

    def _take(self, size: int) -> int:
        return int(struct.unpack("<Q" if size == 8 else "<I", self._bytes(size))[0])

    def _bytes(self, size: int) -> bytes:
        start = self._position
        if size > len(self._data) - start:
            raise GgufError(f"{self._path} is truncated: it ends at byte {len(self._data)}, within its header")
        self._position = start + size
        return self._data[start:self._position].tobytes()

    def _damaged(self, why: str) -> GgufError:
        return GgufError(f"{self._path} is damaged: {why}")
