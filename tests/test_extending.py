"""docs/extending.md names every place: a copy of the sources, changed only there, has a dummy of each."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RTL, HOST = "rtl/kiwicha", "host/kiwicha_host"


def section(title):
    """The text of one section of the page."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)[1]


def listed(title):
    """The source files that a section's numbered list says are to be changed."""
    places = re.findall(r"^\d+\. `([^`]+)`", section(title), re.MULTILINE)
    return {place for place in places if not place.startswith(("tb/", "tests/"))}


def again(name, new, *more):
    """A change that repeats the line with `name`, whose other words become others."""
    def change(text):
        line = re.search(rf"^.*\b{name}\b.*\n", text, re.MULTILINE)[0]
        copy = line
        for old, replacement in ((name, new), *more):
            copy, count = re.subn(rf"\b{re.escape(old)}\b", replacement, copy)
            assert count, f"{old!r} is not in {line!r}"
        return text.replace(line, line + copy, 1)
    return change


def instead(old, new):
    """A change that puts `new` where `old` is."""
    def change(text):
        assert text.count(old) == 1, f"{text.count(old)} times {old!r}"
        return text.replace(old, new)
    return change


def write(content):
    return lambda text: content


def checked(folder, changes, script):
    """What `script` prints with a copy of our sources in which `changes` were made: {file: list of changes}."""
    for package in (RTL, HOST, "fpga"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "models"))
    for name, steps in changes.items():
        path = folder / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for step in steps:
            text = step(text)
        path.write_text(text, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(folder / name) for name in ("rtl", "host", ""))}
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=folder, env=env, timeout=300,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert done.returncode == 0, done.stdout
    return done.stdout


# A multiplier: one for any technology, with a register more.

MULTIPLIER = {
    f"{RTL}/array/multiplier.py": [
        instead("_VARIANTS = {", """class DummyMultiplier(Multiplier):
    columns, latency = CELLS["dummy"]

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.p[0].eq(delay(m, self.a * self.b[0], "product", 2))
        return m


_VARIANTS = {"dummy": DummyMultiplier, """),
        instead('if config.multiplier == "portable":', 'if config.multiplier in ("portable", "dummy"):')],
    f"{RTL}/config.py": [instead('MULTIPLIERS = ("portable", ', 'MULTIPLIERS = ("portable", "dummy", ')],
    f"{RTL}/timing.py": [instead('CELLS = {', 'CELLS = {"dummy": Cell(1, 2), ')],
    f"{RTL}/vector/lane.py": [instead('multiplier != "portable"', 'multiplier not in ("portable", "dummy")')],
    "fpga/floorplan.py": [instead('multiplier == "portable"', 'multiplier in ("portable", "dummy")')],
}
MULTIPLIER_SCRIPT = """
import dataclasses
import numpy as np
from amaranth.back import rtlil
from amaranth.sim import Simulator
from fpga.floorplan import array_sites
from kiwicha import ChipConfig
from kiwicha.array.multiplier import multiplier, simulation_models
from kiwicha.vector.lane import Lane
from kiwicha_host import open_device

portable = ChipConfig.preset("tiny")
config = dataclasses.replace(portable, multiplier="dummy")
assert ChipConfig.from_toml(config.to_toml()) == config
assert simulation_models(config) == [] and array_sites(config, "LFE5U-25F") == {}
assert "MULT18X18D" not in rtlil.convert(Lane(config))

ones = np.ones((9, 9), np.int8)
cycles = []
for each in (portable, config):
    with open_device("golden", each) as device:
        device.gemm(ones, ones)
        cycles.append(device.last_result.cycles)
assert cycles[1] > cycles[0], cycles        # the cycle model knows its latency

unit = multiplier(config)
async def multiply(context):
    for a, b in ((-128, -128), (127, -128), (5, -3)):
        context.set(unit.a, a)
        context.set(unit.b[0], b)
        await context.tick().repeat(unit.latency)
        assert context.get(unit.p[0]) + context.get(unit.carry) == a * b
simulator = Simulator(unit)
simulator.add_clock(1e-6)
simulator.add_testbench(multiply)
simulator.run()
print("all there")
"""


def test_a_multiplier(tmp_path):
    assert listed("A multiplier") == set(MULTIPLIER)
    assert checked(tmp_path, MULTIPLIER, MULTIPLIER_SCRIPT).endswith("all there\n")


# A format: INT2, an element to a byte.

FORMAT = {
    f"{RTL}/formats.py": [again("E2M1 = 5", "INT2 = 6"),
                          instead("    Format(ElementFormat.INT4, 4, 0, 3, 0, 8),\n",
                                  "    Format(ElementFormat.INT4, 4, 0, 3, 0, 8),\n"
                                  "    Format(ElementFormat.INT2, 2, 0, 1, 0, 2),\n")],
    f"{HOST}/operands.py": [
        instead('("int4", ml_dtypes.int4)', '("int4", ml_dtypes.int4), ("int2", ml_dtypes.int2)')],
}
FORMAT_SCRIPT = """
import dataclasses, pathlib
import ml_dtypes
import numpy as np
from amaranth.sim import Simulator
from kiwicha import ChipConfig, isa
from kiwicha.array.decode import EdgeDecoder
from kiwicha.formats import ElementFormat
from kiwicha_host import golden, open_device
from kiwicha_host.assembler import c_header, reference_markdown
from kiwicha_host.cli import main
from kiwicha_host.quantize import quantize, quantize_weights

config = dataclasses.replace(ChipConfig.preset("small"), name="dummy", formats=("int8", "int4", "e4m3", "int2"))
rng = np.random.default_rng(0)
a = rng.integers(-2, 2, (5, 19)).astype(ml_dtypes.int2)
b = rng.integers(-128, 128, (19, 7), np.int8)
with open_device("golden", config) as device:
    assert (device.gemm(a, b) == a.astype(np.int32) @ b.astype(np.int32)).all()
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 70), (70, 7)))
    (a, p), (b, q) = quantize(x, "int2", 32), quantize_weights(w, "e4m3", 32)
    assert a.dtype == ml_dtypes.int2 and len(set(a.astype(int).flat)) == 3
    assert (device.gemm(a, b, block=32, a_scale=p, b_scale=q) == golden.gemm_block(a, b, p, q, 32)).all()

pathlib.Path("dummy.toml").write_text(config.to_toml())
np.save("a.npy", rng.integers(-2, 2, (3, 4), np.int8))
for array, status in (([[1, -2]], 0), ([[2, 0]], 1)):
    np.save("b.npy", np.array(array, np.int8).T)
    np.save("a.npy", np.array([[1, 1]], np.int8))
    try:
        main(["gemm", "a.npy", "b.npy", "--b-format", "int2", "--config", "dummy.toml", "--device", "golden"])
    except SystemExit as end:
        assert end.code == status

decoder = EdgeDecoder(config, 1)
async def decode(context):
    context.set(decoder.format, ElementFormat.INT2)
    for code, value in enumerate((0, 1, -2, -1)):
        context.set(decoder.i, code)
        await context.tick().repeat(decoder.latency)
        o = context.get(decoder.o[0])
        magnitude, sign = o & (1 << config.operand_width - 1) - 1, o >> config.operand_width - 1
        assert (-magnitude if sign else magnitude) == value, (code, o)
simulator = Simulator(decoder)
simulator.add_clock(1e-6)
simulator.add_testbench(decode)
simulator.run()

assert "#define KIWICHA_ELEMENT_FORMAT_INT2 6u" in c_header()
assert "`int2`" in reference_markdown() and "int2" in isa.REGISTERS["FORMATS"].doc
print("all there")
"""


def test_a_format(tmp_path):
    assert listed("A format") == set(FORMAT)
    assert checked(tmp_path, FORMAT, FORMAT_SCRIPT).endswith("all there\n")


# An ONNX operator: Min with a constant.

OPERATOR = {
    f"{HOST}/compiler/legalize/fused.py": [
        instead("def max_constant(", """def min_constant(value: Value, node: Node) -> None:
    _clamp(value, node, -128, int(node.scalar(1, "the constant")))


def max_constant(""")],
    f"{HOST}/compiler/legalize/to_layers.py": [
        instead('    "MaxPool":', '    "Min": fused.min_constant,\n    "MaxPool":')],
}
OPERATOR_SCRIPT = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.compiler import compile_onnx
from kiwicha_host.inference import infer

rng = np.random.default_rng(0)
constants = {"x_scale": np.float32(0.1), "zero": np.int8(0), "weights": rng.integers(-128, 128, (6, 5), np.int8),
             "w_scale": np.float32(0.01), "y_scale": np.float32(0.1), "limit": np.int8(20)}
inputs = ["x", "x_scale", "zero", "weights", "w_scale", "zero", "y_scale", "zero"]
matmul = helper.make_node("QLinearMatMul", inputs, ["y"], name="product")
least = helper.make_node("Min", ["y", "limit"], ["z"], name="least")
x, results = rng.integers(-128, 128, (4, 6), np.int8), []
for nodes in ([matmul], [matmul, least]):
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.INT8, ["batch", 5])
    graph = helper.make_graph(nodes, "dummy", [helper.make_tensor_value_info("x", TensorProto.INT8, ["batch", 6])],
                              [output], [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()
                                         if any(k in node.input for node in nodes)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    network = compile_onnx(ChipConfig.preset("tiny"), model)
    with open_device("golden", "tiny") as device:
        results.append(infer(device, network, x)[0])
assert results[0].max() > 20 and (results[1] == np.minimum(results[0], 20)).all(), results
print("all there")
"""


def test_an_onnx_operator(tmp_path):
    assert listed("An ONNX operator") == set(OPERATOR)
    assert checked(tmp_path, OPERATOR, OPERATOR_SCRIPT).endswith("all there\n")


# An instruction: NOP, for a unit of its own that does nothing.

INSTRUCTION = {
    f"{RTL}/isa.py": [
        again("STORE = 4", "NOP = 5"),
        instead("INSTRUCTIONS = {", 'NOP = Instruction(Unit.NOP, "Nothing, one item at a time.", '
                '(Field("items", 8, 16, "how often"),))\n\nINSTRUCTIONS = {'),
        instead("(LOAD, MATMUL, VECTOR, STORE)", "(LOAD, MATMUL, VECTOR, STORE, NOP)")],
    f"{RTL}/nop.py": [write('''"""Does nothing."""
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from .control.unit import UnitPort
from .isa import Unit
class NopUnit(wiring.Component):
    control: Out(UnitPort(Unit.NOP))
    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.control.i.ready.eq(1), self.control.quiet.eq(1)]
        m.d.sync += self.control.retire.eq(self.control.i.valid & ~self.control.abort)
        return m
''')],
    f"{RTL}/chip.py": [
        instead("        m.submodules.store = store = ",
                "        from .nop import NopUnit\n        m.submodules.nop = NopUnit()\n"
                "        m.submodules.store = store = ")],
    f"{HOST}/golden/units/__init__.py": [
        instead("Unit.STORE: store}", "Unit.STORE: store, Unit.NOP: lambda state, memory, fields: None}")],
    f"{HOST}/cycles/nop.py": [write('''"""A cycle for each item."""
class NopModel:
    def __init__(self, events):
        self._events, self.busy = events, 0
    def offer(self, time, item, accepted, retire):
        self.busy += item.fields["items"]
        self._events.at(time, accepted)
        self._events.at(time + item.fields["items"], retire)
''')],
    f"{HOST}/cycles/model.py": [
        instead("from .store import", "from .nop import NopModel\nfrom .store import"),
        instead("Unit.STORE: Activity.MEMORY}", "Unit.STORE: Activity.MEMORY, Unit.NOP: Activity.DRAIN}"),
        instead("Unit.VECTOR: vector,", "Unit.VECTOR: vector, Unit.NOP: NopModel(events),")],
    f"{HOST}/compiler/program/builder.py": [
        instead("if a != b]", "if a != b and (Unit.NOP not in (a, b) or "
                              "(a, b) in ((Unit.LOAD, Unit.NOP), (Unit.NOP, Unit.STORE)))]")],
}
INSTRUCTION_SCRIPT = """
import numpy as np
from kiwicha import ChipConfig
from kiwicha.isa import REGISTERS, Unit
from kiwicha_host import Job, open_device
from kiwicha_host.assembler import c_header, decode, disassemble, encode, reference_markdown
from kiwicha_host.compiler.program.builder import ProgramBuilder

code = encode(Unit.NOP, items=3)
assert decode(code)[1]["items"] == 3 and disassemble(code) == "NOP items=3"
assert "#define KIWICHA_UNIT_NOP 5u" in c_header() and "KIWICHA_NOP_ITEMS_OFFSET 64u" in c_header()
assert "## NOP, opcode 5" in reference_markdown() and "NOP_BUSY" in REGISTERS

config = ChipConfig.preset("tiny")
builder = ProgramBuilder()
row = {"row_bytes": 4, "rows": 1, "planes": 1, "segment_bytes": 4}
builder.add(Unit.LOAD, writes="x", address=0, **row)
builder.add(Unit.NOP, reads="x", writes="y", items=7)
builder.add(Unit.STORE, reads="y", address=64, **row)
program = builder.assemble()
assert decode(program[64:128])[1]["wait"] and decode(program[64:128])[1]["signal"]
memory = np.zeros(4096, np.uint8)
memory[:4] = 1, 2, 3, 4
memory[2048:2048 + len(program)] = np.frombuffer(program, np.uint8)
with open_device("golden", config) as device:
    result = device.run(Job(memory, 2048, 3))
assert memory[64:68].tolist() == [1, 2, 3, 4]
assert result.counters["NOP"]["BUSY"] == 7 and sum(result.counters["NOP"].values()) == result.cycles

print("all there")
"""
HARDWARE_SCRIPT = """
from amaranth.hdl import Fragment
from amaranth.sim import Simulator
from kiwicha import Chip, ChipConfig
from kiwicha.control.check import Check, Verdict
from kiwicha.isa import Unit
from kiwicha_host.assembler import encode

config, code = ChipConfig.preset("tiny"), encode(Unit.NOP, items=3)
check = Check(config)
async def arrive(context):
    for place in range(64 // config.bus_bytes):
        context.set(check.beat_valid, 1)
        context.set(check.place, place)
        context.set(check.beat, int.from_bytes(code[place * config.bus_bytes:][:config.bus_bytes], "little"))
        await context.tick()
    context.set(check.beat_valid, 0)
    await context.tick().until(check.valid)
    seen.append((context.get(check.verdict.kind), Unit(context.get(check.verdict.unit))))
seen = []
simulator = Simulator(check)
simulator.add_clock(1e-6)
simulator.add_testbench(arrive)
simulator.run_until(1e-4)
assert seen == [(Verdict.Kind.OKAY, Unit.NOP)], seen

Fragment.get(Chip(config), None)
print("all there")
"""


def test_an_instruction(tmp_path):
    assert listed("An instruction") == {name for name in INSTRUCTION if not name.endswith("/nop.py")}
    assert checked(tmp_path, INSTRUCTION, INSTRUCTION_SCRIPT).endswith("all there\n")


def test_an_instruction_in_hardware(tmp_path):
    assert checked(tmp_path, INSTRUCTION, HARDWARE_SCRIPT).endswith("all there\n")


# A register: SCRATCH, which holds what it is given.

REGISTER = {f"{RTL}/isa.py": [
    instead('    Register("CYCLES", ',
            '    Register("SCRATCH", 0x070, Access.RW, "whatever you like", reset=7),\n    Register("CYCLES", ')]}
REGISTER_SCRIPT = """
from amaranth.sim import Simulator
from kiwicha import ChipConfig, isa
from kiwicha.control.registers import Registers
from kiwicha_host.assembler import c_header, reference_markdown

assert "#define KIWICHA_REG_SCRATCH 0x070u" in c_header() and "`SCRATCH`" in reference_markdown()
registers = Registers(ChipConfig.preset("tiny"))
host = registers.host
async def use(context):
    async def read():
        context.set(host.ar.payload, 0x070)
        context.set(host.ar.valid, 1)
        await context.tick().until(host.ar.ready)
        context.set(host.ar.valid, 0)
        context.set(host.r.ready, 1)
        data, = await context.tick().sample(host.r.p.data).until(host.r.valid)
        return data
    assert await read() == 7
    context.set(host.aw.payload, 0x070)
    context.set(host.w.p.data, 0x12345678)
    context.set(host.w.p.strobe, 15)
    for channel in (host.aw, host.w):
        context.set(channel.valid, 1)
    await context.tick()
    for channel in (host.aw, host.w):
        context.set(channel.valid, 0)
    context.set(host.b.ready, 1)
    await context.tick().until(host.b.valid)
    assert await read() == 0x12345678
    print("all there")
simulator = Simulator(registers)
simulator.add_clock(1e-6)
simulator.add_testbench(use)
simulator.run_until(1e-4)
"""


def test_a_register(tmp_path):
    assert listed("A register") == set(REGISTER)
    assert checked(tmp_path, REGISTER, REGISTER_SCRIPT).endswith("all there\n")


def test_the_places_exist():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:rtl|host|fpga|tb|tests)/[\w/.]+)`", page)
    assert len(places) > 20
    assert not [place for place in places if not (ROOT / place).exists()]
