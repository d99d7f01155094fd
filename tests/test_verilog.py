"""The exported files: whole, the same every time, and what they say is true."""

import json
import re

import pytest

from kiwicha import ChipConfig
from kiwicha.array.multiplier import simulation_models
from kiwicha.isa import REGISTERS
from kiwicha_host import toolchain
from kiwicha_host.assembler import c_header
from kiwicha_host.verilog import lint_waivers, write_verilog


def test_files(tmp_path):
    config = ChipConfig.preset("tiny")
    paths = write_verilog(config, tmp_path / "deep" / "folder")
    assert [path.name for path in paths] == ["tiny.v", "tiny.json", "tiny.vlt", "kiwicha.h"]
    assert sorted(paths) == sorted((tmp_path / "deep" / "folder").iterdir())
    text, about = paths[0].read_text(encoding="utf-8"), json.loads(paths[1].read_text(encoding="utf-8"))
    assert paths[2].read_text(encoding="utf-8") == lint_waivers(config)
    assert paths[3].read_text(encoding="utf-8") == c_header()
    assert len(re.findall(rf"^module {about['top']}\(", text, re.MULTILINE)) == 1
    assert ChipConfig(**about["config"]) == config
    assert {name: entry["offset"] for name, entry in about["registers"].items()} == {
        name: register.offset for name, register in REGISTERS.items()}
    assert about["ports"]["m_axi_araddr"] == {"direction": "o", "width": config.address_width}
    module = text[text.index(f"module {about['top']}("):]
    for port, entry in about["ports"].items():
        direction = {"i": "input", "o": "output"}[entry["direction"]]
        assert re.search(rf"^\s+{direction} (\[{entry['width'] - 1}:0\] )?{port};", module, re.MULTILINE), port
    # Another time, over the first.
    first = [path.read_bytes() for path in paths]
    assert write_verilog(config, tmp_path / "deep" / "folder") == paths
    assert [path.read_bytes() for path in paths] == first


def lint(config, folder, ok=(0,)):
    return toolchain.run(["verilator", "--lint-only", "-Wall", f"{config.name}.vlt", f"{config.name}.v",
                          *simulation_models(config)], cwd=folder, timeout=300, log=folder / "lint.log", ok=ok)


@pytest.mark.parametrize("name", ["tiny", "small", "ulx3s_85f"])
def test_lint(tmp_path, name):
    config = ChipConfig.preset(name)
    write_verilog(config, tmp_path)
    assert "%Warning" not in lint(config, tmp_path)


SOUND = """
module kiwicha_tiny(input clk, input [3:0] a, output [3:0] b);
  reg [3:0] r = 4'h0;
  wire unused = a[0];
  always @(posedge clk) r <= a;
  assign b = r;
endmodule
"""
PART = "module part(input [3:0] p, input [2:0] q); endmodule\n"


@pytest.mark.parametrize("rule, sound, broken", [
    pytest.param("WIDTHTRUNC", "b = r", "b = { r, 1'h0 }", id="too wide"),
    pytest.param("WIDTHEXPAND", "b = r", "b = r[2:0]", id="too narrow"),
    pytest.param("WIDTHTRUNC", "assign b", "part part(.p(r), .q(a));\n  assign b", id="too wide for a port"),
    pytest.param("PINMISSING", "assign b", "part part(.p(r));\n  assign b", id="port left open"),
    pytest.param("UNDRIVEN", "b = r", "b = r & c;\n  wire [3:0] c", id="no driver"),
    pytest.param("UNUSEDSIGNAL", "assign b", "wire c;\n  assign b", id="no driver and no use"),
    pytest.param("MULTIDRIVEN", "assign b", "always @(negedge clk) r <= a;\n  assign b", id="two drivers"),
    pytest.param("UNOPTFLAT", "b = r", "b = c;\n  wire [3:0] c = r + { c[2:0], c[3] }", id="loop"),
    pytest.param("LATCH", "b = r", "b = c;\n  reg [3:0] c;\n  always @* if (a[0]) c = r", id="latch"),
])
def test_lint_finds(tmp_path, rule, sound, broken):
    config = ChipConfig.preset("tiny")
    (tmp_path / "tiny.vlt").write_text(lint_waivers(config), encoding="utf-8")
    (tmp_path / "tiny.v").write_text(SOUND, encoding="utf-8")
    lint(config, tmp_path)
    bad = SOUND.replace(sound, broken) + (PART if "part" in broken else "")
    (tmp_path / "tiny.v").write_text(bad, encoding="utf-8")
    assert re.findall(r"%Warning-(\w+)", lint(config, tmp_path, ok=(1,))) == [rule]
