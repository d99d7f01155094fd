"""The flow to a bitstream: boards, clocks, nextpnr's report, and a small chip all the way."""

import dataclasses
import json
from pathlib import Path

import pytest

from fpga import build, report
from fpga.boards import BOARDS, Board, BoardError
from fpga.clocking import ClockError, PllSettings
from fpga.ram import Ram
from fpga.top import BoardTop
from kiwicha.config import ChipConfig, ConfigError

#: The least that is still a whole chip, so that its flow takes minutes on a slow machine.
SMALLEST = dataclasses.replace(ChipConfig.preset("tiny"), name="smallest", rows=2, columns=2, vector_lanes=1,
                               queue_depth=1, bank_lines=64, accumulator_lines=64)
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
    target.write_text(json.dumps(whole | changes))
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


def without_tools(monkeypatch, constraint):
    """Let a build reach 70 MHz in no time."""
    timing = report.Timing(70.0, "a to b", constraint, ("a", "b"))
    monkeypatch.setattr(build, "_netlist", lambda verilog: Path("netlist.json"))
    monkeypatch.setattr(build, "_place", lambda *arguments: (timing, report.Usage(1, 2, 3, 4)))
    monkeypatch.setattr(build.toolchain, "run", lambda *arguments, **options: "")
    monkeypatch.setattr(build.toolchain, "warm_up", lambda *tools: None)


def test_too_fast_a_clock_is_an_error_that_keeps_the_report(tmp_path, monkeypatch):
    without_tools(monkeypatch, 80.0)
    with pytest.raises(build.TimingError, match=r"reaches 70 MHz with seed 1, its clock is 80 MHz"):
        build.synthesise("ulx3s_85f", SMALLEST, out=tmp_path, clock_mhz=80)
    kept = json.loads((tmp_path / "report.json").read_text())
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


@pytest.mark.minutes
def test_a_small_chip_becomes_a_bitstream(tmp_path):
    steps = []
    result = build.synthesise("ulx3s_85f", SMALLEST, seed=1, out=tmp_path / "out", clock_mhz=50,
                              progress=steps.append)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result
    assert (result["board"], result["config"], result["seed"], result["clock_mhz"]) == (
        "ulx3s_85f", "smallest", 1, 50)
    assert 50 <= result["fmax_mhz"] <= 205
    assert result["peak_macs_per_cycle"] == 4
    assert result["gops"] == pytest.approx(2 * 4 * 50 / 1000)
    assert 2000 < result["lut"] < 40000 and 2000 < result["ff"] < 40000
    assert result["dsp"] >= 4 and result["bram"] >= 32
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
