"""The doorway to the cocotb benches: export, build with Verilator, run, report.

A bench file ``tb/bench_<block>.py`` holds cocotb tests and a list ``BENCHES`` of :class:`Bench`.
pytest calls :func:`run` for each; inside the simulator the tests use the helpers of
:mod:`drivers` and :mod:`payload`, which are offered here too, so that one import does.
"""

import dataclasses
import importlib.metadata
import json
import os
import random
import shutil
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kiwicha.export import port_table, to_verilog
from kiwicha_host import toolchain
from tb.drivers import StreamDriver, StreamMonitor, bounded, current, cycles, port, rng, start
from tb.payload import pack, unpack

__all__ = ["Bench", "BenchError", "StreamDriver", "StreamMonitor", "bounded", "build", "current", "cycles",
           "pack", "port", "rng", "run", "start", "unpack"]

TOP = "dut"
_TB = Path(__file__).resolve().parent
_BUILD_ARGS = ["--no-public-flat-rw", "-Wno-fatal"]
# What Amaranth's Verilog is full of, harmless; any other warning stays readable in build.log.
_BUILD_ARGS += [f"-Wno-{rule}" for rule in
                ("PROCASSINIT", "UNUSEDSIGNAL", "WIDTHEXPAND", "WIDTHTRUNC", "DECLFILENAME")]


class BenchError(AssertionError):
    """A bench failed: which tests, why, how to repeat it, and where the log is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """One design under test and the cocotb tests to run on it.

    Attributes
    ----------
    name : unique among all benches; letters, digits, ``_`` and ``-``
    build : makes the design, a ``wiring.Component``; called outside the simulator
    module : Python module with the cocotb tests; by default the one that makes this object
    testcase : the names of the tests to run; by default all of the module
    extra_sources : Verilog files to add, such as models of a vendor's primitives
    params : for the bench's own use, as ``current().params`` in the simulator
    public : further signals to reach from tests, as (module, variable) in Verilog's names, the
        top being ``dut``; every other signal but the top's ports is invisible (and fast)
    timeout_s : wall-clock seconds for building, and again for running
    """

    name: str
    build: Callable[[], Any]
    module: str = ""
    testcase: Sequence[str] = ()
    extra_sources: Sequence[Path] = ()
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    public: Sequence[tuple[str, str]] = ()
    timeout_s: float = 900

    def __post_init__(self):
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"Bench name must be letters, digits, '_' and '-', not {self.name!r}")
        if not self.module:
            # Two frames up, over the generated __init__: whoever makes this object.
            object.__setattr__(self, "module", sys._getframe(2).f_globals["__name__"])


def build(bench):
    """Build the simulation of *bench*, unless the same one exists already; return its folder."""
    component = bench.build()
    verilog, _ = to_verilog(component, TOP)
    table = port_table(component)
    visible = [(TOP, name) for name in ("clk", "rst", *table)] + [tuple(item) for item in bench.public]
    control = "`verilator_config\n" + "".join(
        f'public_flat_rw -module "{module}" -var "{name}"\n' for module, name in visible)
    waves = _waves()
    make_flags = f"{toolchain.MAKE_FLAGS} VM_PARALLEL_BUILDS=0"
    tools = [*(importlib.metadata.version(package) for package in ("verilator", "cocotb")),
             toolchain.run(["c++", "--version"], timeout=60), make_flags]
    # The program finds cocotb's libraries by an absolute path, so it belongs to one environment.
    key = toolchain.content_hash(verilog, control, table, _BUILD_ARGS, waves, tools, sys.prefix,
                                 *map(Path, bench.extra_sources))
    folder = toolchain.build_root() / "tb" / key
    with toolchain.locked(folder.with_suffix(".lock")):
        if not folder.exists():
            with toolchain.publish(folder) as work:
                (work / "dut.v").write_text(verilog)
                (work / "public.vlt").write_text(control)
                (work / "ports.json").write_text(json.dumps(table))
                spec = {"sources": [str(work / "public.vlt"), str(work / "dut.v"),
                                    *(str(Path(source).resolve()) for source in bench.extra_sources)],
                        "build_dir": str(work), "build_args": _BUILD_ARGS, "waves": waves,
                        "hdl_toplevel": TOP, "timescale": ["1ns", "1ps"]}
                runtime = folder.parent / toolchain.content_hash("runtime", tools, waves, _BUILD_ARGS)
                _lend_runtime(runtime, work)
                _call_runner("build", spec, bench, _run_folder(bench) / "build.log",
                             {"MAKEFLAGS": make_flags})
                _keep_runtime(work, runtime)
    return folder


def _lend_runtime(runtime, work):
    """Put the compiled library into a build, if it is there, as newer than the makefile that is yet to come.

    make warns of a skewed clock for it, which does no harm.
    """
    later = time.time() + 3600
    for prebuilt in runtime.glob("*.o"):
        os.utime(shutil.copy(prebuilt, work), (later, later))


def _keep_runtime(work, runtime):
    """Keep Verilator's own library, compiled: it is the same for every design, and most of the time."""
    with toolchain.locked(runtime.with_suffix(".lock")):
        if not runtime.exists():
            with toolchain.publish(runtime) as keep:
                for compiled in work.glob("verilated*.o"):
                    shutil.copy(compiled, keep)


def run(bench, seed=None):
    """Build *bench* if need be, run its tests, and raise :class:`BenchError` unless all pass.

    The seed is *seed*, else ``KIWICHA_SEED`` from the environment, else 1; ``KIWICHA_SEED=random``
    draws a fresh one. ``WAVES=1`` writes ``dump.vcd`` beside the log.
    """
    if seed is None:
        text = os.environ.get("KIWICHA_SEED", "1")
        seed = random.SystemRandom().getrandbits(31) if text == "random" else int(text)
    folder = _run_folder(bench)
    log, results = folder / "sim.log", folder / "results.xml"
    hint = f"repeat: KIWICHA_SEED={seed} .venv/bin/pytest tests/test_benches.py -k {bench.name} (log: {log})"
    with toolchain.locked(folder.with_suffix(".lock")):
        try:
            build_folder = build(bench)
        except toolchain.ToolError as error:
            raise BenchError(f"{bench.name} does not build: {error}") from None
        results.unlink(missing_ok=True)
        spec = {"test_module": bench.module, "hdl_toplevel": TOP, "hdl_toplevel_lang": "verilog",
                "build_dir": str(build_folder), "test_dir": str(folder),
                "results_xml": str(results), "seed": seed, "waves": _waves()}
        if bench.testcase:
            spec["test_filter"] = rf"\.({'|'.join(bench.testcase)})(/.*)?$"
        env = {"KIWICHA_BENCH": bench.name, "KIWICHA_BENCH_MODULE": bench.module, "KIWICHA_SEED": str(seed),
               "KIWICHA_PORTS": str(build_folder / "ports.json")}
        failure = None
        try:
            _call_runner("test", spec, bench, log, env)
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
    return toolchain.build_root() / "tb" / "run" / bench.name


def _waves():
    return os.environ.get("WAVES", "0") not in ("", "0")


def _call_runner(step, spec, bench, log, env):
    """Run a step of cocotb's runner in a process of its own, which can be ended in time."""
    path = os.pathsep.join([str(_TB), str(_TB.parent / "rtl"), str(_TB.parent / "host"), str(_TB.parent)])
    if inherited := os.environ.get("PYTHONPATH"):
        path += os.pathsep + inherited
    # The runner changes its habits under pytest; an empty name keeps them as they are.
    env = {"PYTHONPATH": path, "PYTEST_CURRENT_TEST": "", "COCOTB_ANSI_OUTPUT": "0", **env}
    toolchain.run([sys.executable, Path(__file__), step, json.dumps(spec)], timeout=bench.timeout_s,
                  log=log, env=env)


def _main(step, spec):
    from cocotb_tools.runner import get_runner

    getattr(get_runner("verilator"), step)(**spec)


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
