"""Configurations: every bad parameter named, presets as documented, TOML there and back."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fpga
from kiwicha import ChipConfig, ConfigError
from kiwicha.config import PRESETS

ROOT = Path(__file__).parents[1]
INTEGERS = [(item.name, item.metadata["low"], item.metadata["high"]) for item in dataclasses.fields(ChipConfig)
            if item.type in (int, "int") and item.metadata["choices"] is None]


def refused(**fields):
    with pytest.raises(ConfigError) as caught:
        ChipConfig(**fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name, low, high", INTEGERS)
def test_integers_have_a_range_and_a_type(name, low, high):
    assert refused(**{name: low - 1}) == f"{name} must be from {low} to {high}, not {low - 1}"
    assert refused(**{name: high + 1}) == f"{name} must be from {low} to {high}, not {high + 1}"
    for bad in ("8", 8.0, True, None):
        assert refused(**{name: bad}) == f"{name} must be an integer, not {bad!r}"


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(ChipConfig)
                                  if item.metadata["power_of_two"]])
def test_powers_of_two(name):
    low = next(low for field, low, _ in INTEGERS if field == name)
    value = max(3, low + 1)
    assert refused(**{name: value}) == f"{name} must be a power of two, not {value}"


@pytest.mark.parametrize("fields, message", [
    ({"name": ""}, "name must be an identifier of the letters A to Z, digits and _, not ''"),
    ({"name": 5}, "name must be an identifier of the letters A to Z, digits and _, not 5"),
    ({"name": "ñandú"}, "name must be an identifier of the letters A to Z, digits and _, not 'ñandú'"),
    ({"name": "8x8"}, "name must be an identifier of the letters A to Z, digits and _, not '8x8'"),
    ({"name": "a\n"}, "name must be an identifier of the letters A to Z, digits and _, not 'a\\n'"),
    ({"name": "-" * 999}, f"name must be an identifier of the letters A to Z, digits and _, not '{'-' * 76}..."),
    ({"rows": 10 ** 5000}, "rows must be from 2 to 32, not a number of thousands of digits"),
    ({"rows": np.array(8)}, "rows must be an integer, not array(8)"),
    ({"rows": np.bool_(True)}, "rows must be an integer, not np.True_"),
    ({"formats": {"int8": 1}}, "formats must be a non-empty list, not {'int8': 1}"),
    ({"multiplier": "fast"}, "multiplier must be one of portable, ecp5, ecp5_packed, not 'fast'"),
    ({"multiplier": None}, "multiplier must be one of portable, ecp5, ecp5_packed, not None"),
    ({"bus_width": 32}, "bus_width must be one of 64, 128, not 32"),
    ({"bus_width": "64"}, "bus_width must be an integer, not '64'"),
    ({"formats": ()}, "formats must be a non-empty list, not ()"),
    ({"formats": "int8"}, "formats must be a non-empty list, not 'int8'"),
    ({"formats": ("int9",)}, "formats must be among int8, int4, e4m3, e3m2, e2m3, e2m1, not 'int9'"),
    ({"formats": (["int8"],)}, "formats must be among int8, int4, e4m3, e3m2, e2m3, e2m1, not ['int8']"),
    ({"formats": ("int8", "e4m3"), "rows": 12},
     "rows must be a power of two with floating-point formats, not 12: an array's height divides a scale block"),
    ({"block_scales": True, "rows": 12},
     "rows must be a power of two with block_scales, not 12: an array's height divides a scale block"),
    ({"block_scales": 1}, "block_scales must be true or false, not 1"),
    ({"formats": ("int8", "int4"), "rows": 5}, "rows must be even with formats of 4 bits, not 5"),
    ({"formats": ("e2m1",), "columns": 7}, "columns must be even with formats of 4 bits, not 7"),
    ({"formats": ("int8", "e2m3", "e3m2", "e4m3"), "multiplier": "ecp5_packed"},
     "multiplier 'ecp5_packed' takes operands of 8 bits; e3m2, e4m3 need more"),
    ({"formats": ("int8", "int8")}, "formats must not repeat, got ['int8', 'int8']"),
    ({"columns": 3, "multiplier": "ecp5_packed"},
     "columns must be even with multiplier 'ecp5_packed', not 3"),
    ({"rows": 4, "columns": 4, "bus_width": 64, "vector_lanes": 4},
     "vector_lanes must be at most line bytes / 4 = 2, not 4"),
    ({"scratchpad_banks": 16, "bank_lines": 8192},
     "scratchpad_banks * bank_lines must be at most 65536, not 131072"),
])
def test_the_message_says_what_is_wrong(fields, message):
    assert refused(**fields) == message


def test_presets_are_as_documented():
    shapes = {name: (config.rows, config.columns, config.bus_width) for name, config in PRESETS.items()}
    documented = {"tiny": (4, 4, 64), "small": (8, 8, 64), "ulx3s_85f": (16, 16, 128), "wide": (16, 16, 128),
                  "ulx3s_85f_fp8": (16, 8, 128)}
    assert shapes.items() >= documented.items()
    for name, config in PRESETS.items():
        assert ChipConfig.preset(name) is config
        assert ChipConfig.load(name) is config
        assert config.name == name


@pytest.mark.parametrize("path", sorted(Path(fpga.__file__).parent.glob("*.toml")), ids=lambda path: path.stem)
def test_configurations_for_boards(path):
    assert ChipConfig.load(str(path)).name == path.stem


def test_what_follows_from_the_fields():
    config = ChipConfig(rows=5, columns=12, bus_width=64, vector_lanes=2)
    assert (config.bus_bytes, config.line_bytes, config.peak_macs_per_cycle) == (8, 16, 60)
    assert config.scratchpad_bytes == 4 * 2048 * 16
    assert config.accumulator_bytes == 1024 * 12 * 4
    # 5 products of at most 2^14 in magnitude.
    assert 1 << config.sum_width - 1 > 5 * 2 ** 14
    assert ChipConfig(rows=2, columns=2, bus_width=128).line_bytes == 16


@pytest.mark.parametrize("formats, operand, product, block", [
    (("int8",), 8, 16, 23), (("int4",), 4, 8, 15), (("int8", "int4", "e2m1", "e2m3"), 8, 16, 23),
    (("e3m2",), 10, 19, 26), (("int8", "e4m3"), 19, 37, 44), (("e2m1",), 5, 9, 16),
])
def test_widths_follow_from_the_formats(formats, operand, product, block):
    config = ChipConfig(formats=formats)
    assert (config.operand_width, config.product_width, config.block_sum_width) == (operand, product, block)
    assert config.sign_magnitude == ("e4m3" in formats)
    assert config.block_scaled == any(name.startswith("e") for name in formats)
    scaled = dataclasses.replace(config, block_scales=True)
    assert scaled.block_scaled and scaled.block_sum_width == block and scaled.operand_width == operand


@pytest.mark.parametrize("fields, floats, mxint8", [
    ({"formats": ("int8",)}, False, False), ({"formats": ("int8",), "block_scales": True}, False, True),
    ({"formats": ("int4",), "block_scales": True}, False, False), ({"formats": ("int8", "e2m3")}, True, True),
    ({"formats": ("e2m1",)}, True, False), ({"formats": ("int8", "e2m1"), "columns": 6}, False, False),
    ({"formats": ("int8",), "block_scales": True, "columns": 12}, False, False),
])
def test_results_with_dynamic_scales(fields, floats, mxint8):
    config = ChipConfig(**fields)
    assert (config.has_float_results, config.has_mxint8_results) == (floats, mxint8)


def test_integers_of_numpy_are_integers():
    config = ChipConfig(name="tiny", **{item.name: np.int64(getattr(PRESETS["tiny"], item.name))
                                        if type(getattr(PRESETS["tiny"], item.name)) is int
                                        else getattr(PRESETS["tiny"], item.name)
                                        for item in dataclasses.fields(ChipConfig) if item.name != "name"})
    assert config == PRESETS["tiny"] and config.to_toml() == PRESETS["tiny"].to_toml()


def test_frozen_and_hashable():
    config = ChipConfig.preset("tiny")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rows = 5
    assert {config: 1}[dataclasses.replace(config)] == 1
    assert hash(ChipConfig(formats=["int8"])) == hash(ChipConfig(formats=("int8",)))


@pytest.mark.parametrize("name", PRESETS)
def test_toml_there_and_back(name, tmp_path):
    config = PRESETS[name]
    assert ChipConfig.from_toml(config.to_toml()) == config
    path = tmp_path / "mine.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert ChipConfig.load(str(path)) == config


def test_toml_from_a_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "tiny"\nrows = 8\n', encoding="utf-8")
    config = ChipConfig.load(path)
    assert config == dataclasses.replace(PRESETS["tiny"], rows=8, name="mine")


@pytest.mark.parametrize("text, message", [
    ("rows = ", r"not valid TOML: "),
    ("lanes = 5", r"unknown parameter 'lanes'; there are accumulator_lines, .*"),
    ("epilogue_lanes = 2", "epilogue_lanes is called vector_lanes now; rename it"),
    ('base = "huge"', r"no configuration named 'huge'; there are tiny, "),
    ("base = 5", r"base must be the name of a configuration, not 5"),
    ('base = ["tiny"]', r"base must be the name of a configuration, not \['tiny'\]"),
    ("rows = 1", r"rows must be from 2 to 32, not 1"),
    ("rows = 2.5", r"rows must be an integer, not 2.5"),
    ("[rows]\nx = 1", r"rows must be an integer, not \{'x': 1\}"),
    ("rows = true", r"rows must be an integer, not True"),
    ("rows = 2020-01-01", r"rows must be an integer, not datetime.date\(2020, 1, 1\)"),
    ("[[rows]]\nx = 1", r"rows must be an integer, not \[\{'x': 1\}\]"),
    ("[chip]\nrows = 4", r"'chip' is a table; parameters stand at top level, under no \[heading\]"),
    ("[[chip]]\nrows = 4", r"unknown parameter 'chip'; there are accumulator_lines, .*"),
    ("name = 5", r"name must be an identifier of the letters A to Z, digits and _, not 5"),
    ("rows = " + "9" * 5000, r"not valid TOML: "),
    ("rows = " + "[" * 5000, r"not valid TOML: "),
    ("base = \"tiny\"\n[base.x]", r"not valid TOML: "),
    ("[base]\ntiny = 1", r"base must be the name of a configuration, not \{'tiny': 1\}"),
    ("multiplier = []", r"multiplier must be one of portable, ecp5, ecp5_packed, not \[\]"),
    ("formats = [[]]", r"formats must be among .*, not \[\]"),
])
def test_bad_toml(text, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        ChipConfig.load(str(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "no.toml"
    with pytest.raises(ConfigError, match="cannot read .*no.toml: No such file or directory"):
        ChipConfig.load(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read .*no.toml: not UTF-8 text"):
        ChipConfig.load(str(path))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot read .*folder.toml: Is a directory"):
        ChipConfig.load(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize("file, name", [
    ("my-chip.toml", "my_chip"), ("8x8.toml", "chip_8x8"), ("ñandú 2.toml", "_and__2"), ("MINE.TOML", "MINE"),
    ("a.b.toml", "a_b"), (".toml", "_toml"), ("class.toml", "class"), ("²x.toml", "_x"),
])
def test_every_file_name_makes_a_name(tmp_path, file, name):
    path = tmp_path / file
    path.write_text("rows = 4\n", encoding="utf-8")
    for given in (path, str(path)):
        assert ChipConfig.load(given) == ChipConfig(name=name, rows=4)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte-order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_any_editor(tmp_path, start, end):
    path = tmp_path / "mine.toml"
    path.write_bytes(start + 'rows = 4  # \u2026 "Höhe"'.encode() + end + b"columns = 6" + end)
    assert ChipConfig.load(path) == ChipConfig(name="mine", rows=4, columns=6)


def test_a_file_without_the_ending(tmp_path):
    """As a shell's process substitution gives it."""
    (tmp_path / "63").write_text("rows = 4\n", encoding="utf-8")
    assert ChipConfig.load(tmp_path / "63").name == "chip_63"


def test_the_locale_is_nobodys_business(tmp_path):
    (tmp_path / "mine.toml").write_text("rows = 4  # Höhe\n", encoding="utf-8")
    script = "from kiwicha import ChipConfig; print(ChipConfig.load('mine.toml').rows)"
    plain = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, encoding="utf-8",
                             env={**os.environ, "PYTHONPATH": str(ROOT / "rtl"), **plain}, timeout=60)
    assert (process.stdout, process.stderr) == ("4\n", "")


@pytest.mark.parametrize("call", [
    lambda bad: ChipConfig.load(bad), lambda bad: ChipConfig.preset(bad), lambda bad: ChipConfig.from_toml(bad),
])
@pytest.mark.parametrize("bad", [None, 5, b"tiny", ["tiny"], {}])
def test_no_configuration_at_all(call, bad):
    with pytest.raises(TypeError) as caught:
        call(bad)
    assert repr(bad) in str(caught.value)
