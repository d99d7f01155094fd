"""Every parameter of a chip, validated, with named presets and TOML in and out."""

import dataclasses
import numbers
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .formats import FORMATS, MAX_BLOCK

__all__ = ["ConfigError", "ChipConfig", "MULTIPLIERS", "PRESETS"]


#: Multiplier variants (see :mod:`kiwicha.array.multiplier`).
MULTIPLIERS = ("portable", "ecp5", "ecp5_packed")


#: Parameters of earlier versions, and their names today.
_RENAMED = {"epilogue_lanes": "vector_lanes"}


class ConfigError(ValueError):
    """A chip parameter is out of range; the message names it, its value and the range."""


def _param(default: Any, low: int | None = None, high: int | None = None, *, doc: str,
           choices: tuple | None = None, power_of_two: bool = False) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "doc": doc, "choices": choices,
                                            "power_of_two": power_of_two})


@dataclass(frozen=True, kw_only=True)
class ChipConfig:
    """One chip. Frozen and hashable; two equal configurations make the same Verilog, byte for byte.

    Raises
    ------
    ConfigError
        A field has a wrong type or a value out of its range.
    """

    name: str = _param("custom", doc="name that reports and the command line show")
    rows: int = _param(16, 2, 32, doc="array rows, along K; multiply-accumulates per column and cycle")
    columns: int = _param(16, 2, 32, doc="array columns, along N; results per cycle")
    formats: tuple[str, ...] = _param(("int8",), doc="element formats that the edge decoders accept")
    multiplier: str = _param("portable", choices=MULTIPLIERS,
                             doc="portable; ecp5 (one MULT18X18D a MAC); ecp5_packed (one for two MACs)")
    bus_width: int = _param(128, choices=(64, 128), doc="memory bus data width, bits")
    address_width: int = _param(32, 32, 64, doc="memory bus address width, bits")
    scratchpad_banks: int = _param(4, 2, 16, power_of_two=True,
                                   doc="scratchpad banks; each has one read and one write port")
    bank_lines: int = _param(2048, 16, 16384, power_of_two=True, doc="lines per scratchpad bank")
    accumulator_lines: int = _param(1024, 16, 16384, power_of_two=True,
                                    doc="accumulator lines of `columns` int32 each, in two banks")
    vector_lanes: int = _param(4, 1, 8, power_of_two=True,
                               doc="columns that the vector unit takes per cycle")
    block_scales: bool = _param(False, doc="E8M0 scales and FP32 accumulation also without floating-point "
                                           "formats")
    functions: bool = _param(False, doc="the vector unit takes 32-bit words and BF16, reduces rows, and has "
                                        "exp2, 1/x and 1/sqrt(x)")
    indices: bool = _param(False, doc="LOAD and STORE take an index from the scratchpad")
    top_k: bool = _param(False, doc="the vector unit finds the 1 to 8 largest of a row, with their places; needs "
                                    "functions")
    queue_depth: int = _param(4, 1, 16, doc="instructions that wait in front of each unit")
    reads_in_flight: int = _param(16, 4, 64, power_of_two=True, doc="read bursts outstanding on the bus")
    writes_in_flight: int = _param(8, 2, 64, power_of_two=True, doc="write bursts outstanding on the bus")

    def __post_init__(self) -> None:
        # It becomes part of Verilog's identifiers and of file names.
        if not isinstance(self.name, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.name):
            raise ConfigError("name must be an identifier of the letters A to Z, digits and _, "
                              f"not {shown(self.name)}")
        for item in dataclasses.fields(self):
            if item.type in (int, "int"):
                object.__setattr__(self, item.name, _checked_int(item, getattr(self, item.name)))
            elif item.type in (bool, "bool"):
                if not isinstance(getattr(self, item.name), bool):
                    raise ConfigError(f"{item.name} must be true or false, not {shown(getattr(self, item.name))}")
            elif item.metadata["choices"]:
                _check_choice(item, getattr(self, item.name))
        self._check_formats()
        if self.multiplier == "ecp5_packed" and self.columns % 2:
            raise ConfigError(f"columns must be even with multiplier 'ecp5_packed', not {self.columns}")
        if 4 * self.vector_lanes > self.line_bytes:
            raise ConfigError(f"vector_lanes must be at most line bytes / 4 = {self.line_bytes // 4}, "
                              f"not {self.vector_lanes}")
        if self.top_k and not self.functions:
            raise ConfigError("functions must be true with top_k, not false")
        if self.scratchpad_lines > 1 << 16:
            raise ConfigError("scratchpad_banks * bank_lines must be at most 65536, "
                              f"not {self.scratchpad_lines}")

    def _check_formats(self) -> None:
        if isinstance(self.formats, list):
            object.__setattr__(self, "formats", tuple(self.formats))
        if not isinstance(self.formats, tuple) or not self.formats:
            raise ConfigError(f"formats must be a non-empty list, not {shown(self.formats)}")
        for name in self.formats:
            if not isinstance(name, str) or name not in FORMATS:
                raise ConfigError(f"formats must be among {', '.join(FORMATS)}, not {shown(name)}")
        if len(set(self.formats)) != len(self.formats):
            raise ConfigError(f"formats must not repeat, got {list(self.formats)}")
        self._check_shape()

    def _check_shape(self) -> None:
        """What the formats ask of the array."""
        if self.block_scaled and self.rows & (self.rows - 1):
            why = "block_scales" if not self.has_float_formats else "floating-point formats"
            raise ConfigError(f"rows must be a power of two with {why}, not {self.rows}: "
                              "an array's height divides a scale block")
        for name, size in (("rows", self.rows), ("columns", self.columns)):
            if size % max(FORMATS[item].per_byte for item in self.formats):
                raise ConfigError(f"{name} must be even with formats of 4 bits, not {size}")
        if self.multiplier == "ecp5_packed" and self.operand_width > 8:
            wide = [name for name in self.formats if FORMATS[name].significand_width > 8]
            raise ConfigError(f"multiplier 'ecp5_packed' takes operands of 8 bits; {', '.join(wide)} need more")

    # What follows from the fields.

    @property
    def bus_bytes(self) -> int:
        """Bytes per beat of the memory bus."""
        return self.bus_width // 8

    @property
    def line_bytes(self) -> int:
        """Bytes per scratchpad line: a power of two that holds a beat, a row and a column vector."""
        return max(self.bus_bytes, 1 << (max(self.rows, self.columns) - 1).bit_length())

    @property
    def scratchpad_lines(self) -> int:
        """Scratchpad lines of all banks; the bank is the address's upper bits."""
        return self.scratchpad_banks * self.bank_lines

    @property
    def scratchpad_bytes(self) -> int:
        return self.scratchpad_lines * self.line_bytes

    @property
    def accumulator_bytes(self) -> int:
        return self.accumulator_lines * self.columns * 4

    @property
    def has_float_formats(self) -> bool:
        """Whether one of the element formats is floating-point."""
        return any(FORMATS[name].is_float for name in self.formats)

    @property
    def block_scaled(self) -> bool:
        """Whether the chip takes scales, and so has FP32 accumulators: for its formats, or as it is told to."""
        return self.block_scales or self.has_float_formats

    @property
    def has_float_results(self) -> bool:
        """Whether results can be E4M3 and E2M1: column blocks make up scale blocks."""
        return self.has_float_formats and not self.columns & (self.columns - 1)

    @property
    def has_mxint8_results(self) -> bool:
        """Whether results can be MXINT8: likewise."""
        return self.block_scaled and "int8" in self.formats and not self.columns & (self.columns - 1)

    @property
    def dynamic_scales(self) -> bool:
        """Whether results can have dynamic scales at all."""
        return self.has_float_results or self.has_mxint8_results

    @property
    def vector_floats(self) -> bool:
        """Whether the vector unit adds FP32 numbers."""
        return self.block_scaled or self.functions

    @property
    def float_row_sums(self) -> bool:
        """Whether the vector unit sums FP32 rows: each of its steps must be a subtree of the additions."""
        return self.functions and self.columns % self.vector_lanes == 0

    @property
    def operand_width(self) -> int:
        """Bits of a decoded operand."""
        return max(FORMATS[name].significand_width for name in self.formats)

    @property
    def sign_magnitude(self) -> bool:
        """Whether decoded operands are a magnitude with the sign above it, or else two's complement.

        A multiplier of 18 x 18 bits takes the magnitudes of E4M3, but not its integers.
        """
        return self.operand_width > 18

    @property
    def product_width(self) -> int:
        """Bits of a signed product of two operands."""
        return (max(FORMATS[name].max_significand for name in self.formats) ** 2).bit_length() + 1

    @property
    def sum_width(self) -> int:
        """Bits of a signed column sum: `rows` products, exactly."""
        return self.product_width + (self.rows - 1).bit_length()

    @property
    def block_sum_width(self) -> int:
        """Bits of a signed sum over the largest block, exactly: 44 with E4M3."""
        return self.product_width + (MAX_BLOCK - 1).bit_length()

    @property
    def peak_macs_per_cycle(self) -> int:
        return self.rows * self.columns

    # TOML.

    @classmethod
    def preset(cls, name: str) -> "ChipConfig":
        """The named preset; :exc:`ConfigError` lists the names if there is none."""
        if not isinstance(name, str):
            raise TypeError(f"name must be the name of a configuration, not {shown(name)}")
        if name not in PRESETS:
            raise ConfigError(f"no configuration named {name!r}; there are {', '.join(PRESETS)}, "
                              "or give a .toml file")
        return PRESETS[name]

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> "ChipConfig":
        """A preset by its name, or a configuration from a ``.toml`` file; a path with a folder is always a file.

        A file that does not say the configuration's name gives it its own: ``my-chip.toml`` is `my_chip`, and
        ``8x8.toml`` is `chip_8x8`.
        """
        if not isinstance(name_or_path, str | os.PathLike):
            raise TypeError("name_or_path must be a configuration's name or a .toml file, "
                            f"not {shown(name_or_path)}")
        given = os.fspath(name_or_path)
        if not given.lower().endswith(".toml") and os.sep not in given:
            return cls.preset(given)
        path = Path(given)
        try:
            # Some editors begin UTF-8 with a byte-order mark.
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigError(f"cannot read {path}: {reason}") from None
        try:
            return cls.from_toml(text, default_name=_name_from(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_toml(cls, text: str, *, default_name: str = "custom") -> "ChipConfig":
        """Parse TOML: the fields at top level; ``base = "preset"`` starts from a preset."""
        if not isinstance(text, str):
            raise TypeError(f"text must be TOML as a string, not {shown(text)}")
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:   # numbers of 5000 digits, lists 5000 deep
            raise ConfigError(f"not valid TOML: {error}") from None
        base = values.pop("base", None)
        known = {item.name for item in dataclasses.fields(cls)}
        for key in values:
            if key not in known and isinstance(values[key], dict):
                raise ConfigError(f"{key!r} is a table; parameters stand at top level, under no [heading]")
            if key in _RENAMED:
                raise ConfigError(f"{key} is called {_RENAMED[key]} now; rename it")
            if key not in known:
                raise ConfigError(f"unknown parameter {key!r}; there are {', '.join(sorted(known))}")
        values.setdefault("name", default_name)
        if base is None:
            return cls(**values)
        if not isinstance(base, str):
            raise ConfigError(f"base must be the name of a configuration, not {shown(base)}")
        return dataclasses.replace(cls.preset(base), **values)

    def to_toml(self) -> str:
        """TOML text that :meth:`from_toml` reads back to an equal configuration."""
        def literal(value: Any) -> str:
            if isinstance(value, bool):
                return str(value).lower()
            if isinstance(value, str):
                return f'"{value}"'
            if isinstance(value, tuple):
                return "[" + ", ".join(map(literal, value)) + "]"
            return str(value)
        return "".join(f"{item.name} = {literal(getattr(self, item.name))}  # {item.metadata['doc']}\n"
                       for item in dataclasses.fields(self))


def shown(value: Any) -> str:
    """A value as messages show it: on one line, and cut if it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:      # an integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _name_from(path: Path) -> str:
    """A configuration's name from that of its file."""
    name = re.sub("[^A-Za-z0-9_]", "_", path.stem)
    return f"chip_{name}" if name[:1].isdigit() else name


def _checked_int(item: dataclasses.Field, value: Any) -> int:
    """`value` as a plain integer; those of numpy are welcome."""
    meta = item.metadata
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ConfigError(f"{item.name} must be an integer, not {shown(value)}")
    number = int(value)
    if meta["choices"]:
        _check_choice(item, number)
    elif not meta["low"] <= number <= meta["high"]:
        raise ConfigError(f"{item.name} must be from {meta['low']} to {meta['high']}, not {shown(number)}")
    elif meta["power_of_two"] and number & (number - 1):
        raise ConfigError(f"{item.name} must be a power of two, not {number}")
    return number


def _check_choice(item: dataclasses.Field, value: Any) -> None:
    choices = item.metadata["choices"]
    if not isinstance(value, str | int) or value not in choices:
        raise ConfigError(f"{item.name} must be one of {', '.join(map(str, choices))}, not {shown(value)}")


_ALL = tuple(FORMATS)

PRESETS: dict[str, ChipConfig] = {config.name: config for config in (
    ChipConfig(name="tiny", rows=4, columns=4, formats=("int8", "int4"), bus_width=64, scratchpad_banks=4,
               bank_lines=512, accumulator_lines=256, vector_lanes=2, queue_depth=2, reads_in_flight=4,
               writes_in_flight=4),
    ChipConfig(name="small", rows=8, columns=8, formats=_ALL, bus_width=64, scratchpad_banks=4, bank_lines=1024,
               accumulator_lines=512, vector_lanes=2, functions=True, indices=True, top_k=True, reads_in_flight=8,
               writes_in_flight=4),
    ChipConfig(name="ulx3s_85f", rows=16, columns=16, formats=("int8", "int4"), multiplier="ecp5_packed",
               bus_width=128),
    ChipConfig(name="ulx3s_85f_fp8", rows=16, columns=8, formats=_ALL, multiplier="ecp5", bus_width=128,
               accumulator_lines=512, vector_lanes=2),
    ChipConfig(name="wide", rows=16, columns=16, formats=_ALL, bus_width=128, scratchpad_banks=8, bank_lines=4096,
               accumulator_lines=4096, functions=True, indices=True, top_k=True, queue_depth=8, reads_in_flight=32,
               writes_in_flight=16),
)}
