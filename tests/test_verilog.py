"""The exported files: whole, the same every time, and what they say is true."""

import functools
import json
import re
import shutil
from pathlib import Path

import pytest

from kiwicha import ChipConfig
from kiwicha.array.multiplier import simulation_models
from kiwicha.export import MEMORY_SOURCE
from kiwicha.isa import REGISTERS
from kiwicha_host import toolchain
from kiwicha_host.assembler import c_header
from kiwicha_host.verilog import lint_waivers, write_smoke, write_verilog

ROOT = Path(__file__).resolve().parent.parent

needs_icarus = pytest.mark.skipif(not shutil.which("iverilog"),
                                  reason="Icarus Verilog (Debian package iverilog) is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that exports a preset into a folder, which is not to be changed; once, for it takes seconds."""
    @functools.cache
    def export(name, initial_values):
        folder = tmp_path_factory.mktemp(name) / "deep" / "folder"
        return write_verilog(ChipConfig.preset(name), folder, initial_values=initial_values)

    return export


def test_files(exported, tmp_path):
    config, paths = ChipConfig.preset("tiny"), exported("tiny", False)
    assert [path.name for path in paths] == ["tiny.v", "kiwicha_memory.v", "tiny.json", "tiny.vlt", "kiwicha.h"]
    assert sorted(paths) == sorted(paths[0].parent.iterdir())
    text, about = paths[0].read_text(encoding="utf-8"), json.loads(paths[2].read_text(encoding="utf-8"))
    assert paths[1].read_text(encoding="utf-8") == MEMORY_SOURCE.read_text(encoding="utf-8")
    assert paths[3].read_text(encoding="utf-8") == lint_waivers(config)
    assert paths[4].read_text(encoding="utf-8") == c_header()
    assert len(re.findall(rf"^module {about['top']}\(", text, re.MULTILINE)) == 1
    assert ChipConfig(**about["config"]) == config
    assert {name: entry["offset"] for name, entry in about["registers"].items()} == {
        name: register.offset for name, register in REGISTERS.items()}
    assert about["ports"]["m_axi_araddr"] == {"direction": "o", "width": config.address_width}
    module = text[text.index(f"module {about['top']}("):]
    for port, entry in about["ports"].items():
        direction = {"i": "input", "o": "output"}[entry["direction"]]
        assert re.search(rf"^\s+{direction} (\[{entry['width'] - 1}:0\] )?{port};", module, re.MULTILINE), port
    # Another time, over what is there.
    for path in paths:
        (tmp_path / path.name).write_text("old", encoding="utf-8")
    again = write_verilog(config, tmp_path, initial_values=False)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert sorted(again) == sorted(tmp_path.iterdir())


def lint(config, folder, ok=(0,)):
    return toolchain.run(["verilator", "--lint-only", "-Wall", f"{config.name}.vlt", f"{config.name}.v",
                          *sorted(folder.glob("kiwicha_memory.v")), *simulation_models(config)],
                         cwd=folder, timeout=300, log=folder / "lint.log", ok=ok)


@pytest.mark.parametrize("name, initial_values", [("tiny", False), ("small", True), ("ulx3s_85f", True)])
def test_lint(exported, name, initial_values):
    config = ChipConfig.preset(name)
    verilog = exported(name, initial_values)[0]
    text = verilog.read_text(encoding="utf-8")
    assert "%Warning" not in lint(config, verilog.parent)
    assert text.count("\n") < 60_000
    assert not re.search(r"port\$\d", text)
    # All memories are instances; without initial values there are none, of anything.
    assert not re.search(r"^ *reg .*\]? *\S+ *\[", text, re.MULTILINE) and text.count("kiwicha_memory #(") > 20
    assert bool(re.search(r"^ *reg [^;]*=|\binitial\b|\binit =", text, re.MULTILINE)) == initial_values


def instance_paths(text, top):
    """The dotted path of each signal of a Verilog file, by the instances' names."""
    bodies = dict(re.findall(r"^module \\?(\S+?) *\((.*?)^endmodule", text, re.MULTILINE | re.DOTALL))
    paths = set()

    def visit(module, path):
        body = bodies[module]
        paths.update(path + name for name in
                     re.findall(r"^ +(?:wire|reg) (?:\[\d+:0\] )?\\?(\S+?) *(?:=.*)?;", body, re.MULTILINE))
        for of, name in re.findall(r"^  \\?(\S+) +\\?(\S+) *\($", body, re.MULTILINE):
            if of in bodies:
                visit(of, f"{path}{name}.")
    visit(top, "")
    return paths


def test_name_map_is_true(exported):
    paths = exported("small", True)
    about = json.loads(paths[2].read_text(encoding="utf-8"))
    assert "chip.matmul.array.cell_2_1.activation" in about["names"]
    assert set(about["names"].values()) <= instance_paths(paths[0].read_text(encoding="utf-8"), about["top"])


@needs_icarus
def test_gemm_from_unknown_memories(exported, tmp_path):
    """In four states: from X in all registers and memories, one cycle of reset is enough."""
    for path in exported("tiny", False):
        shutil.copy(path, tmp_path)
    write_smoke(ChipConfig.preset("tiny"), tmp_path)
    sources = ["kiwicha_memory.v", "tiny.v", ROOT / "rtl" / "integration" / "smoke_tb.v"]
    for generation in ("2005", "2012"):
        toolchain.run(["iverilog", f"-g{generation}", "-o", "smoke", *sources], cwd=tmp_path, timeout=300)
        assert toolchain.run(["vvp", "-n", "smoke"], cwd=tmp_path, timeout=600).split() == ["PASS"]


@needs_icarus
def test_memory_reports_a_collision(tmp_path):
    (tmp_path / "bench.v").write_text("""
module bench;
  reg clk = 0, enable = 0;
  reg [3:0] address = 5;
  kiwicha_memory #(.WIDTH(8), .DEPTH(16), .LATENCY(1)) memory (
    .clk(clk), .write_enable(1'b1), .write_address(4'd7), .write_data(8'd1),
    .read_enable(enable), .read_address(address), .read_data());
  initial begin
    #1 clk = 1; #1 clk = 0; enable = 1;
    #1 clk = 1; #1 clk = 0; address = 7; $display("now");
    #1 clk = 1; #1 clk = 0; enable = 0; $display("no more");
    #1 clk = 1;
  end
endmodule
""", encoding="utf-8")
    toolchain.run(["iverilog", "-g2005", "-o", "bench", "bench.v", MEMORY_SOURCE], cwd=tmp_path, timeout=60)
    said = toolchain.run(["vvp", "-n", "bench"], cwd=tmp_path, timeout=60)
    assert re.fullmatch(r"now\n.*word +7 is read and written at once\n.*\nno more\n", said)


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
