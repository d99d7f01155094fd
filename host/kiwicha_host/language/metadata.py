"""Metadata of a file by key, each of its type; what nobody has asked for is known at the end."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arguments import shown
from .gguf_header import GgufError

__all__ = ["Metadata"]


class Metadata:
    """The entries of the file `path`. A key without a default must be there; a wrong type is a
    :exc:`GgufError`.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self._path, self._values = path, values
        self._used: set[str] = set()

    def integer(self, key: str, default: int | None = None) -> int:
        return self._one(key, default, int, "an integer")

    def number(self, key: str, default: float | None = None) -> float:
        return float(self._one(key, default, float, "a number"))

    def flag(self, key: str, default: bool | None = None) -> bool:
        return self._one(key, default, bool, "true or false")

    def text(self, key: str, default: str | None = None) -> str:
        return self._one(key, default, str, "a text")

    def texts(self, key: str, default: Sequence[str] | None = None) -> Sequence[str]:
        return self._list(key, default, str, "texts")

    def integers(self, key: str, default: Sequence[int] | None = None) -> Sequence[int]:
        return self._list(key, default, int, "integers")

    def numbers(self, key: str, default: Sequence[float] | None = None) -> Sequence[float]:
        return self._list(key, default, float, "numbers")

    def only(self, key: str, value: Any) -> None:
        """:exc:`GgufError` if the file has another value than the only one that is supported."""
        found = self._get(key, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise GgufError(f"{self._path} has {key} = {shown(found)}; only {shown(value)} is supported")

    def refuse_unused(self, descriptive: re.Pattern[str]) -> None:
        """:exc:`GgufError` if there is an entry that nobody asked for and whose key does not match."""
        for key, value in self._values.items():
            if key not in self._used and not descriptive.match(key):
                raise GgufError(f"{self._path} has {key} = {shown(value)}, which is not supported")

    def _get(self, key: str, default: Any) -> Any:
        self._used.add(key)
        if key not in self._values and default is None:
            raise GgufError(f"{self._path} lacks {key} in its metadata")
        return self._values.get(key, default)

    def _one(self, key: str, default: Any, kind: type, words: str) -> Any:
        value = self._get(key, default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise GgufError(f"{self._path} has {key} = {shown(value)}, which must be {words}")
        return value

    def _list(self, key: str, default: Any, kind: type, words: str) -> Any:
        value = self._get(key, default)
        if not isinstance(value, Sequence) or isinstance(value, str) or any(
                type(item) is not kind and not (kind is int and isinstance(item, int)) for item in value):
            raise GgufError(f"{self._path} has {key} = {shown(value)}, which must be a list of {words}")
        return value
