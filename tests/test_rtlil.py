"""Equal modules become one: less text, the same netlist."""

import re

import pytest
from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from kiwicha.export import to_verilog
from kiwicha.lib.stream import Queue
from kiwicha.rtlil import merge_equal_modules, without_unread_fields

PAIR = data.StructLayout({"low": 4, "high": 4})


class Leaf(wiring.Component):
    """Two inputs, connected to neighbouring bits: one port, which Amaranth numbers."""

    low: In(4)
    high: In(4)
    o: Out(8)

    def __init__(self, step):
        self._step = step
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.o + self.low - self.high + self._step)
        return m


class Branch(wiring.Component):
    whole: In(16)
    o: Out(8)

    def __init__(self, step):
        self._step = step
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.leaf = leaf = Leaf(self._step)
        held = Signal(16)
        m.d.sync += held.eq(self.whole)
        m.d.comb += [leaf.low.eq(held[4:8]), leaf.high.eq(held[8:12]), self.o.eq(leaf.o)]
        return m


class Tree(wiring.Component):
    whole: In(16)
    sums: Out(8).array(3)

    def __init__(self, *steps):
        self._steps = steps
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        for index, step in enumerate(self._steps):
            m.submodules[f"branch{index}"] = branch = Branch(step)
            m.d.comb += [branch.whole.eq(self.whole), self.sums[index].eq(branch.o)]
        return m


def modules(text):
    return re.findall(r"^module \\?(\S+?) ?[#(]", text, re.MULTILINE)


@pytest.mark.parametrize("steps, kept", [
    ((1, 1, 1), ["tree", "tree.branch0", "tree.branch0.leaf"]),
    ((1, 2, 1), ["tree", "tree.branch0", "tree.branch0.leaf", "tree.branch1", "tree.branch1.leaf"]),
])
def test_only_equal_modules_merge(steps, kept):
    text, names = to_verilog(Tree(*steps), "tree")
    assert modules(text) == kept
    assert len(re.findall(r"^  \\tree\.branch\d +branch\d \($", text, re.MULTILINE)) == 3
    # Paths are of instances, so all three are there.
    assert names["branch2.leaf.o"] == "branch2.leaf.o"
    assert "$" not in "".join(re.findall(r"^module .*$", text, re.MULTILINE))
    assert re.search(r"^  input \[7:0\] port_low;$", text, re.MULTILINE)


def test_name_is_not_taken_twice():
    text = """
module \\top

  wire width 1 input 0 \\port$7$0

  wire width 1 input 1 \\port$8$0

  wire width 1 \\port_a

  wire width 2 \\a

connect \\a { \\port$8$0 [0] \\port$7$0 [0] }
connect \\port_a \\a [0]

end
"""
    assert "connect \\a { \\port_a_2 [0] \\port_a_3 [0] }" in merge_equal_modules(text)


class WithMemory(wiring.Component):
    o: Out(8)

    def __init__(self, init=(), granularity=None, transparent=False):
        self._init, self._granularity, self._transparent = init, granularity, transparent
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = Memory(shape=8, depth=4, init=self._init)
        write = words.write_port(granularity=self._granularity)
        read = words.read_port(transparent_for=[write] if self._transparent else [])
        m.d.sync += [write.addr.eq(write.addr + 1), write.en.eq(~write.en), write.data.eq(read.data)]
        m.d.comb += self.o.eq(read.data)
        return m


def test_a_memory_is_an_instance():
    text, _ = to_verilog(Queue(8, 3), "queue")
    assert modules(text) == ["queue", "kiwicha_memory"]
    for parameter in ("WIDTH(32'd8)", "DEPTH(32'd3)", "LATENCY(32'd0)", "READS(32'd1)"):
        assert f".{parameter}" in text
    text, _ = to_verilog(WithMemory(), "top", memory_module=False)
    assert modules(text) == ["top"] and ".LATENCY(32'd1)" in text


@pytest.mark.parametrize("options, why", [
    ({"init": [0, 5]}, "words has initial words"),
    ({"granularity": 4}, "words has ports"),
    ({"transparent": True}, "words has ports"),
])
def test_a_memory_of_another_kind_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        to_verilog(WithMemory(**options), "top")


class Fields(wiring.Component):
    """Of one register's fields, and of one array's elements, some are read as they are."""

    i: In(PAIR)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        held = Signal(PAIR)
        line = Signal(data.ArrayLayout(unsigned(4), 3))
        m.d.sync += [held.eq(self.i), line[0].eq(held.low), line[1].eq(line[0])]
        m.d.comb += self.o.eq(Mux(held.high == 3, held.as_value(), line.as_value()))
        return m


def test_fields_that_nothing_reads_are_no_wires():
    text, names = to_verilog(Fields(), "top")
    wires = set(re.findall(r"^  (?:wire|reg) (?:\[\d+:0\] )?\\?(\S+?) *(?:=.*)?;", text, re.MULTILINE))
    assert {"held", "line"} <= wires and {"held", "line"} <= set(names.values())
    assert not any("." in wire or "[" in wire for wire in wires)
    # What is read stays: here is a field of which only RTLIL's text knows.
    netlist = ("module \\top\n  wire width 4 \\a\n\n  wire width 2 \\a.x\n\n  wire width 2 \\a.y\n\n"
               "  wire width 2 output 0  \\o\n\nconnect \\a.x \\a [1:0]\nconnect \\a.y \\a [3:2]\n"
               "connect \\o \\a.y\nend\n")
    assert without_unread_fields(netlist) == netlist.replace("  wire width 2 \\a.x\n\n", "").replace(
        "connect \\a.x \\a [1:0]\n", "")
