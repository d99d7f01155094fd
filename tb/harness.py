"""The doorway to the cocotb benches: export, build with Verilator, run, report.

A bench file ``tb/<room>/bench_<component>.py`` holds cocotb tests and a list ``BENCHES`` of :class:`Bench`.
pytest calls :func:`run` for each; inside the simulator the tests use the helpers of
:mod:`drivers` and :mod:`payload`, which are offered here too, so that one import does.
"""

import dataclasses
import functools
import importlib
import json
import os
import random
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import find_libpython
from cocotb_tools import config as cocotb_config

from kiwicha.export import port_table, to_verilog
from kiwicha_host import toolchain
from kiwicha_host.build_cache import build_root, locked
from kiwicha_host.verilate import Simulation
from tb.drivers import StreamDriver, StreamMonitor, bounded, clock, current, cycles, port, rng, start
from tb.payload import pack, unpack

__all__ = ["Bench", "BenchError", "StreamDriver", "StreamMonitor", "benches", "bounded", "build", "clock",
           "current", "cycles", "pack", "port", "rng", "run", "seed_asked_for", "start", "unpack"]

TOP = "dut"
_ROOT = Path(__file__).resolve().parents[1]
#: cocotb's main program, and its library, found by its absolute path: a simulation belongs to one environment.
_MAIN = cocotb_config.share_dir / "lib" / "verilator" / "verilator.cpp"
_LIBRARIES = str(cocotb_config.libs_dir)
_LINK_FLAGS = ["-L", _LIBRARIES, "-lcocotbvpi_verilator", "-Xlinker", "-rpath", "-Xlinker", _LIBRARIES]
_FLAGS = ["--prefix", "Vtop", "--timescale", "1ns/1ps", "-Wno-fatal"]
# What Amaranth's Verilog is full of, harmless; any other warning stays readable in the log.
_FLAGS += [f"-Wno-{rule}" for rule in
           ("PROCASSINIT", "UNUSEDSIGNAL", "WIDTHEXPAND", "WIDTHTRUNC", "DECLFILENAME")]

#: Optimisation costs more than it saves: the time of a run is Python's.
_LEVEL = "-O0"
#: Files whose assertions tell the values in them. By default cocotb rewrites every module that is imported, all of
#: numpy and Amaranth too, in each run.
_WITH_ASSERTIONS = "bench_*.py environment.py runs.py model.py drivers.py axi_checker.py"


class BenchError(AssertionError):
    """A bench failed: which tests, why, how to repeat it, and where the log is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """One design under test and the cocotb tests to run on it.

    Attributes
    ----------
    name : unique among all benches; letters, digits, ``_`` and ``-``
    build : makes the design, a ``wiring.Component``; called outside the simulator
    copies : how many of it to put side by side; each port is then an array with an element for each
    module : Python module with the cocotb tests
    testcase : the names of the tests to run; by default all of the module
    extra_sources : Verilog files to add, such as models of a vendor's primitives
    params : for the bench's own use, as ``current().params`` in the simulator
    public : further signals to reach from tests, as (module, variable) in Verilog's names, the
        top being ``dut``; every other signal but the top's ports is invisible (and fast)
    timeout_s : wall-clock seconds for running
    """

    name: str
    build: Callable[[], Any]
    module: str
    testcase: Sequence[str] = ()
    copies: int = 1
    extra_sources: Sequence[Path] = ()
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    public: Sequence[tuple[str, str]] = ()
    timeout_s: float = 900

    def __post_init__(self):
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"Bench name must be letters, digits, '_' and '-', not {self.name!r}")
        if self.copies > 1 and self.public:
            raise ValueError("Bench public must be empty if there are copies: a signal would be many")


def benches():
    """Every bench there is."""
    modules = [importlib.import_module(f"tb.{path.parent.name}.{path.stem}")
               for path in sorted((_ROOT / "tb").glob("*/bench_*.py"))]
    return [bench for module in modules for bench in module.BENCHES]


def build(bench):
    """Build the simulation of *bench*, unless the same one exists already; return the program."""
    component = bench.build()
    table = port_table(component)
    with toolchain.for_amaranth():
        verilog, _ = to_verilog(component, TOP if bench.copies == 1 else "copy")
    if bench.copies > 1:
        verilog += _side_by_side(table, bench.copies)
        table = {name: (direction, width * bench.copies) for name, (direction, width) in table.items()}
    visible = [(TOP, name) for name in ("clk", "rst", *table)] + [tuple(item) for item in bench.public]
    control = "`verilator_config\n" + "".join(
        f'public_flat_rw -module "{module}" -var "{name}"\n' for module, name in visible)
    simulation = Simulation(
        top=TOP, output=TOP, files={"public.vlt": control, "dut.v": verilog, "ports.json": json.dumps(table)},
        models=bench.extra_sources, main=_MAIN, flags=_FLAGS, link_flags=_LINK_FLAGS, level=_LEVEL, vpi=True,
        waves=_waves())
    return simulation.build(build_root() / "tb")


def _side_by_side(table, copies):
    """A top of many instances of one module, which is elaborated only once."""
    ports = [f"{'in' if direction == 'i' else 'out'}put [{width * copies - 1}:0] {name}"
             for name, (direction, width) in table.items()]
    pins = [".clk(clk)", ".rst(rst)", *(f".{name}({name}[number_ * {width} +: {width}])"
                                        for name, (_, width) in table.items())]
    return f"""
module {TOP}(input clk, input rst, {', '.join(ports)});
  for (genvar number_ = 0; number_ < {copies}; number_ = number_ + 1) begin : copies
    copy copy({', '.join(pins)});
  end
endmodule
"""


def seed_asked_for():
    """The seed by ``KIWICHA_SEED``: a number, ``random``, or ``commit`` for one of this commit's own; 1 if unset.

    Raises
    ------
    ValueError
        For anything else.
    """
    text = os.environ.get("KIWICHA_SEED", "1")
    if text == "random":
        return random.SystemRandom().getrandbits(31)
    if text == "commit":
        try:
            return int(toolchain.run(["git", "rev-parse", "HEAD"], timeout=60, cwd=_ROOT)[:7], 16)
        except toolchain.ToolError:     # no git, or no checkout
            return 1
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"KIWICHA_SEED must be a number, 'random' or 'commit', not {text!r}")
    return int(text)


def run(bench, seed=None):
    """Build *bench* if need be, run its tests, and raise :class:`BenchError` unless all pass.

    The seed is *seed*, else :func:`seed_asked_for`. ``WAVES=1`` writes ``dump.vcd`` beside the log.
    """
    seed = seed_asked_for() if seed is None else seed
    folder = _run_folder(bench)
    log, results = folder / "sim.log", folder / "results.xml"
    hint = f"repeat: KIWICHA_SEED={seed} .venv/bin/pytest tests/test_benches.py -k {bench.name} (log: {log})"
    with locked(folder.with_suffix(".lock")):
        try:
            program = build(bench)
        except toolchain.ToolError as error:
            raise BenchError(f"{bench.name} does not build: {error}") from None
        results.unlink(missing_ok=True)
        env = {"KIWICHA_BENCH": bench.name, "KIWICHA_BENCH_MODULE": bench.module, "KIWICHA_SEED": str(seed),
               "KIWICHA_PORTS": str(program.with_name("ports.json")), "COCOTB_RANDOM_SEED": str(seed),
               "COCOTB_RESULTS_FILE": str(results)}
        failure = None
        try:
            _simulate(bench, program, folder, env, log)
        except toolchain.ToolError as error:
            failure = str(error)
        failures = _failures(results)
    if failures:
        raise BenchError("\n".join([f"{bench.name}, seed {seed}:", *failures, hint]))
    if failure:
        raise BenchError(f"{bench.name}, seed {seed}: {failure}\n{hint}")


def _failures(results):
    """One line per failed test; none for a file that is not there, one for a file without tests."""
    if not results.exists():
        return []
    cases = list(ET.parse(results).iter("testcase"))
    if not cases or all(case.find("skipped") is not None for case in cases):
        return ["  no test ran"]
    lines = []
    for case in cases:
        for kind in ("failure", "error"):
            for item in case.findall(kind):
                why = (item.get("message") or item.get("error_msg") or item.text or kind).strip()
                lines.append(f"  {case.get('name')}: {why.splitlines()[0]}")
    return lines


def _run_folder(bench):
    return build_root() / "tb" / "run" / bench.name


def _waves():
    return os.environ.get("WAVES", "0") not in ("", "0")


def _simulate(bench, program, folder, env, log):
    """Run the program in *folder*, set up by cocotb's environment variables as its own runner does."""
    path = [str(_ROOT), str(_ROOT / "rtl"), str(_ROOT / "host"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"PYTHONPATH": os.pathsep.join(path), "PYGPI_PYTHON_BIN": sys.executable, "GPI_USERS": _gpi_users(),
           "COCOTB_TOPLEVEL": TOP, "TOPLEVEL_LANG": "verilog", "COCOTB_TEST_MODULES": bench.module,
           "COCOTB_TRUST_INERTIAL_WRITES": "1", "COCOTB_ANSI_OUTPUT": "0",
           "COCOTB_REWRITE_ASSERTION_FILES": _WITH_ASSERTIONS, **env}
    if bench.testcase:
        env["COCOTB_TEST_FILTER"] = rf"\.({'|'.join(bench.testcase)})(/.*)?$"
    toolchain.run([program, *(["--trace"] if _waves() else [])], cwd=folder, timeout=bench.timeout_s, log=log,
                  env=env)


@functools.cache
def _gpi_users():
    """The libraries through which the simulator starts Python."""
    return f"{find_libpython.find_libpython()};{cocotb_config.pygpi_entry_point()}"
