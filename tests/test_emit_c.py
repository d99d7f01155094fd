"""Models as C: the driver, compiled and run against the chip's own RTL."""

import json
import re
import subprocess

import numpy as np
import pytest
from code_nets import Between
from commands import GOLDEN, fails
from onnx import TensorProto

from bench.float_nets import NETS, quantized, random_inputs
from kiwicha import ChipConfig
from kiwicha_host import load_model, models
from kiwicha_host.devices.compiled_chip import build_library
from kiwicha_host.emit_c import c_sources

#: Registers by calls into the compiled chip; memory at an address of its own, which is not the host's.
IO = """
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
uint32_t sim_read(uint32_t offset);
void sim_write(uint32_t offset, uint32_t value);
#ifdef __cplusplus
}
#endif
#define KIWICHA_READ(chip, offset) ((void)(chip), sim_read(offset))
#define KIWICHA_WRITE(chip, offset, value) ((void)(chip), sim_write((offset), (value)))
#define KIWICHA_ADDRESS(pointer) ((void)(pointer), UINT64_C(0x42000))
#define KIWICHA_REGISTERS 0
#define KIWICHA_PATIENCE 1000
"""
SIMULATION = """
#include <cstdlib>
#include <dlfcn.h>
#include "kiwicha_model.h"

static void *library, *device;
template <class T> static T function(const char *name) { return reinterpret_cast<T>(dlsym(library, name)); }

static void *chip()
{
    if (device) return device;
    library = dlopen(getenv("KIWICHA_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
    device = function<void *(*)(uint64_t)>("kiwicha_open")(30);
    function<void (*)(void *, uint8_t *, uint64_t, uint64_t)>("kiwicha_memory")(
        device, kiwicha_model.memory, 0x42000, kiwicha_model.bytes - atoi(getenv("KIWICHA_MISSING")));
    return device;
}

uint32_t sim_read(uint32_t offset)
{
    uint32_t value;
    void *there = chip();
    if (offset == KIWICHA_REG_STATUS) function<int (*)(void *, uint64_t)>("kiwicha_run")(there, 20000);
    if (function<int (*)(void *, uint32_t, uint32_t *)>("kiwicha_read")(there, offset, &value)) abort();
    return value;
}

void sim_write(uint32_t offset, uint32_t value)
{
    if (function<int (*)(void *, uint32_t, uint32_t)>("kiwicha_write")(chip(), offset, value)) abort();
}
"""
STRICT = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-DKIWICHA_IO=\"io.h\""]


def gxx(*arguments):
    subprocess.run(["g++", *arguments], check=True, timeout=300)


def build(folder):
    """The program, its C as C99 and as C++."""
    sources = [folder / name for name in ("main.c", "kiwicha_model.c", "kiwicha_driver.c")]
    (folder / "io.h").write_text(IO, encoding="utf-8")
    (folder / "sim.cpp").write_text(SIMULATION, encoding="utf-8")
    for source in sources:
        gxx("-x", "c", "-std=c99", "-fsyntax-only", *STRICT, source)
    gxx("-x", "c++", "-std=c++17", *STRICT, "-Wno-cast-function-type", *sources, folder / "sim.cpp", "-ldl", "-o",
        folder / "program")
    return folder / "program"


def run_program(program, missing=0):
    library = build_library(ChipConfig.preset("tiny"))
    return subprocess.run([program], timeout=120, env={"KIWICHA_LIBRARY": str(library),
                                                      "KIWICHA_MISSING": str(missing)}).returncode


def test_a_model_as_c(run, tmp_path):
    np.save("x.npy", models.digits_test()[0][:3])
    status, _, err = run("run", models.DIGITS_CONV, "x.npy", "--config", "tiny", "--emit-c", "c", *GOLDEN)
    assert (status, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "kiwicha.h", "kiwicha_driver.c", "kiwicha_driver.h", "kiwicha_model.c", "kiwicha_model.h", "main.c"]
    program = build(tmp_path / "c")
    assert run_program(program) == 0
    # The last page is missing: BUS_READ or BUS_WRITE, as the reference numbers them.
    assert run_program(program, missing=4096) - 16 in (6, 7)
    text = (tmp_path / "c/kiwicha_model.c").read_text(encoding="utf-8")
    start = text.index("kiwicha_model_expected[KIWICHA_MODEL_RESULTS_BYTES] = {\n") + 57
    first = text[start:text.index(",", start)]
    wrong = text[:start] + str((int(first) + 1) % 256) + text[start + len(first):]
    (tmp_path / "c/kiwicha_model.c").write_text(wrong, encoding="utf-8")
    assert run_program(build(tmp_path / "c")) == 4


def words():
    """A product's codes, numbers and sums."""
    net = Between(np.uint8, x=["N", 3, 4, 4])
    weights = np.random.default_rng(0).integers(-128, 128, (5, 3, 2, 2)).astype(np.int8)
    numbers = net("Conv", net.numbers("x"), net("DequantizeLinear", weights, np.float32(0.01), np.int8(0)))
    sums, codes = net("ConvInteger", "x", weights, np.uint8(7)), net("MaxPool", "x", kernel_shape=[2, 2])
    model = net.model(numbers, sums, codes)
    for item, dtype in zip(model.graph.output, ("FLOAT", "INT32"), strict=False):
        item.type.tensor_type.elem_type = TensorProto.DataType.Value(dtype)
    return model, {"x": np.random.default_rng(1).integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)}


def parts(folder):
    """Parts of one feature map, which lie between each other."""
    model = NETS["shuffled"]()
    return quantized(model, folder), random_inputs(model, np.random.default_rng(0), 2)


@pytest.mark.parametrize("made", [parts, lambda folder: words()], ids=["parts", "words"])
def test_several_outputs(made, tmp_path):
    """The header says where each of them is, and of what."""
    model, inputs = made(tmp_path)
    with load_model(model, "tiny", "golden") as loaded:
        wanted = loaded.run(inputs)
        texts = c_sources(loaded.compiled, inputs)
        [network] = loaded.compiled.networks
    base = int(re.search(r"KIWICHA_MODEL_RESULTS (\d+)u", texts["kiwicha_model.h"])[1])
    numbers = texts["kiwicha_model.c"].rpartition("= {")[2].partition("}")[0].replace("\n", "").rstrip(",")
    results = np.array(numbers.split(","), np.uint8)
    rows = re.findall(r"(\S+): (\w+) (\[[\d, ]+\]), \[image, y, x, channel\], at (\d+), strides (\[[\d, ]+\])",
                      texts["kiwicha_model.h"])
    assert [name for name, *_ in rows] == list(wanted) and len(rows) > 1
    outputs = {item.name: item for item in network.graph.outputs}
    for name, element, shape, address, strides in rows:
        codes = np.ndarray(json.loads(shape), element, results, int(address) - base, json.loads(strides))
        np.testing.assert_array_equal(outputs[name].decode(codes), wanted[name])


def test_models_that_need_the_host(run, tmp_path, no_device):
    model = NETS["vgg"]()
    quantized(model, tmp_path)
    np.save("x.npy", random_inputs(model, np.random.default_rng(0), 1)["x"])
    fails(run, 1, "only a model that is one program can be written as C; ", "run", "quantized.onnx", "x.npy",
          "--emit-c", "c")
    np.save("digit.npy", models.digits_test()[0][:1])
    fails(run, 1, "cannot write to", "run", models.DIGITS_CONV, "digit.npy", "--emit-c", "a.npy")


@pytest.mark.parametrize("value", ["", "-"])
def test_folders(run, value):
    fails(run, 2, "", "run", models.DIGITS_CONV, "a.npy", "--emit-c", value)
