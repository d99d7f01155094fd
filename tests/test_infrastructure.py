"""Verilog export, payload packing, and the parameters of the stream library and of benches."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from kiwicha.export import port_table, to_verilog
from kiwicha.lib.stream import Queue, RegisterSlice
from kiwicha_host import verilate
from tb import harness

ROOT = Path(__file__).resolve().parents[1]


class Mode(enum.Enum, shape=2):
    OFF = 0
    ON = 2


class Point(data.Struct):
    x: signed(5)
    y: 4


ITEM = data.StructLayout({"mode": Mode, "points": data.ArrayLayout(Point, 2), "last": 1})


class Adder(wiring.Component):
    lanes: In(8).array(2)
    fixed: In(stream.Signature(3, always_valid=True))
    total: Out(9)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.total.eq(self.lanes[0] + self.lanes[1])
        return m


def test_every_top_has_clock_and_reset():
    text, names = to_verilog(Adder(), "adder")
    for port in ("input clk;", "input rst;", "input [7:0] lanes__1;", "output [8:0] total;"):
        assert port in text
    assert names["lanes.1"] == "lanes__1"
    assert "fixed__valid" not in text
    assert port_table(Adder())["lanes__0"] == ("i", 8)
    assert port_table(Adder())["total"] == ("o", 9)


def test_export_without_signature_needs_ports():
    with pytest.raises(TypeError, match="ports are required"):
        to_verilog(Module(), "top")


def test_name_map_reaches_into_submodules():
    m = Adder()
    outer = Module()
    outer.submodules.inner = m
    result = Signal(9)
    outer.d.sync += result.eq(m.total)
    from amaranth.hdl._ir import PortDirection
    _, names = to_verilog(outer, "top", ports={"result": (result, PortDirection.Output)})
    assert names["inner.total"] == "inner.total"
    assert names["result"] == "result"


def test_export_is_the_same_everywhere(tmp_path):
    script = ("from kiwicha.export import to_verilog; from kiwicha.lib.stream import Queue;"
              "print(to_verilog(Queue(8, 3), 'queue'))")
    texts = set()
    for seed, folder in (("1", ROOT), ("2", tmp_path)):
        env = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=str(ROOT / "rtl"))
        texts.add(subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, check=True,
                                 capture_output=True, timeout=120, encoding="utf-8").stdout)
    assert len(texts) == 1
    text = texts.pop()
    assert str(ROOT) not in text
    assert "src =" not in text


def test_pack_and_unpack_are_inverse():
    value = {"mode": Mode.ON, "points": [{"x": -3, "y": 15}, {"x": 7, "y": 0}], "last": 1}
    bits = harness.pack(ITEM, value)
    assert bits == (2 | (29 | 15 << 5) << 2 | 7 << 11 | 1 << 20)
    assert harness.unpack(ITEM, bits) == value
    assert harness.pack(ITEM, last=1) == 1 << 20
    assert harness.unpack(signed(4), 15) == -1


@pytest.mark.parametrize("value, message", [
    ({"x": 16}, "16 does not fit signed"),
    ({"y": -1}, "-1 does not fit unsigned"),
    ({"z": 1}, "has no field 'z'"),
])
def test_pack_rejects_what_does_not_fit(value, message):
    with pytest.raises(ValueError, match=message):
        harness.pack(Point, value)


def test_stream_library_checks_its_parameters():
    with pytest.raises(ValueError, match="Queue depth must be at least 1, not 0"):
        Queue(8, 0)
    with pytest.raises(TypeError, match="Queue depth must be an integer, not '4'"):
        Queue(8, "4")
    assert (Queue(8, 4).depth, Queue(8, 4).shape, RegisterSlice(5).shape) == (4, 8, 5)


def test_a_bench_needs_a_plain_name_and_one_of_each_signal():
    with pytest.raises(ValueError, match="Bench name must be"):
        harness.Bench(module=__name__, name="a/b", build=Adder)
    with pytest.raises(ValueError, match="Bench public must be empty if there are copies"):
        harness.Bench(module=__name__, name="copies", build=Adder, copies=2, public=[("dut", "x")])


def test_benches_share_the_compiled_library(monkeypatch):
    """It takes longer to compile than most designs do."""
    bench = harness.Bench(module=__name__, name="shared_library", build=Adder)
    shutil.rmtree(harness.build(bench).parent)
    compiled = []

    def compile_and_remember(work, *arguments, run=verilate._cxx):
        compiled.extend(Path(argument).name for argument in arguments if str(argument).endswith(".cpp"))
        run(work, *arguments)

    monkeypatch.setattr(verilate, "_cxx", compile_and_remember)
    assert harness.build(bench).exists()
    assert compiled == ["all.cpp"]


def test_seeds(monkeypatch, tmp_path):
    """A number, one of the commit's own, which is 1 where there is no commit; anything else is named."""
    monkeypatch.delenv("KIWICHA_SEED", raising=False)
    assert harness.seed_asked_for() == 1
    monkeypatch.setenv("KIWICHA_SEED", "12")
    assert harness.seed_asked_for() == 12
    monkeypatch.setenv("KIWICHA_SEED", "commit")
    monkeypatch.setattr(harness.toolchain, "run", lambda *_, **__: "00000fe1234567890\n")
    assert harness.seed_asked_for() == 0xFE1 >> 4
    monkeypatch.undo()
    monkeypatch.setenv("KIWICHA_SEED", "commit")
    monkeypatch.setattr(harness, "_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert harness.seed_asked_for() == 1
    monkeypatch.setenv("KIWICHA_SEED", "-3")
    with pytest.raises(ValueError, match="KIWICHA_SEED must be a number, 'random' or 'commit', not '-3'"):
        harness.seed_asked_for()
