"""The chip as a shared library: from the RTL to Verilog, and from that to the functions of compiled_chip.cpp."""

import ctypes
import functools
from pathlib import Path

from kiwicha import ChipConfig

from .. import toolchain
from ..build_cache import build_root
from ..extras import extra
from ..verilate import Simulation

__all__ = ["build_library", "load_library"]

_TOP, _SIM = "kiwicha_top", "kiwicha_sim"
_SOURCE = Path(__file__).with_name("compiled_chip.cpp")
# SYNTHESIS: a program that races for a word gets undefined data, as on a chip, and no end of the process.
_VERILATOR_FLAGS = ("-DSYNTHESIS", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert",
                    "--no-timing", "-Wno-fatal", "-Wno-lint", "--output-split", "15000", "--output-split-cfuncs",
                    "3000")
_CXX_FLAGS = ("-DVL_TIME_CONTEXT",)
#: Optimisation of what runs once, at the start, and would take half of the compiler's time; and of what runs in
#: each cycle: straight code that does not fit a processor's cache, so the shorter, the faster.
_ONCE, _EVERY_CYCLE = "-O0", "-Os"


with extra("sim"):
    from kiwicha.array.multiplier import simulation_models
    from kiwicha.export import port_table, to_verilog
    from kiwicha.top import Top


def build_library(config: ChipConfig, *, waves: bool = False) -> Path:
    """The shared library of `config`'s chip, built if it is not there; its name is a hash of all it depends on.

    Raises
    ------
    ToolError
        Verilator or the C++ compiler failed, or there is none.
    BuildFolderError
        It is not there, and the build folder cannot be written to.
    """
    verilog, ports = _exported(config)
    simulation = Simulation(
        top=_SIM, files={f"{_TOP}.v": verilog + _around(ports, two_phases=waves)},
        models=simulation_models(config), main=_SOURCE, output="libkiwicha.so", flags=_VERILATOR_FLAGS,
        cxx_flags=_CXX_FLAGS, defines=(f"-DKIWICHA_BUS_BYTES={config.bus_bytes}",),
        # Wave forms are of short runs, and their code takes long to compile.
        level=_ONCE if waves else _EVERY_CYCLE, slow_level=_ONCE, waves=waves)
    return simulation.build(build_root() / "device", config.name)


@functools.lru_cache(8)
def _exported(config: ChipConfig) -> tuple[str, dict[str, tuple[str, int]]]:
    """The chip's Verilog and ports: many seconds of work, so once for all devices of one process."""
    top = Top(config, probe=True)
    with toolchain.for_amaranth():
        return to_verilog(top, _TOP)[0], port_table(top)


def _around(ports: dict[str, tuple[str, int]], two_phases: bool) -> str:
    """A module around the top, whose inputs take effect with the rising edge, as registers do.

    So nothing depends on an input at once: what depends on one settles once in a cycle, with all else, and not
    before and after the edge. The clock is `tick`, or rises at each change of it: then a cycle is one evaluation.
    """
    lines = ["", f"module {_SIM}(input tick"]
    body = ["    wire clk = tick;"] if two_phases else [
        "    reg ticked = 0;", "    wire clk = tick ^ ticked;", "    always @(posedge clk) ticked <= tick;"]
    pins = ["    .clk(clk)"]
    for name, (direction, width) in {"rst": ("i", 1), **ports}.items():
        if direction == "i":
            lines.append(f"    , input [{width - 1}:0] {name}")
            pins.append(f"    , .{name}({name}_now)")
            body += [f"    reg [{width - 1}:0] {name}_now;", f"    always @(posedge clk) {name}_now <= {name};"]
        else:
            lines.append(f"    , output [{width - 1}:0] {name}")
            pins.append(f"    , .{name}({name})")
    return "\n".join([*lines, ");", *body, f"    {_TOP} top(", *pins, "    );", "endmodule", ""])


def load_library(path: Path) -> ctypes.CDLL:
    """The library at `path`, with its functions' types."""
    library = ctypes.CDLL(str(path))
    u64, u32, device = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p
    for name, result, takes in (
            ("open", device, [u64]), ("close", None, [device]), ("memory", None, [device, device, u64, u64]),
            ("fault", None, [device, u64, u64, ctypes.c_int]), ("waves", ctypes.c_int, [device, ctypes.c_char_p]),
            ("write", ctypes.c_int, [device, u32, u32]), ("run", ctypes.c_int, [device, u64]),
            ("read", ctypes.c_int, [device, u32, ctypes.POINTER(u32)]), ("record", None, [device, u64]),
            ("spans", u64, [device, ctypes.POINTER(device), ctypes.POINTER(u64)])):
        function = getattr(library, f"kiwicha_{name}")
        function.restype, function.argtypes = result, takes
    return library
