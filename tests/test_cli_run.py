"""The command ``run``: inputs and outputs by name, dimensions, float models, and what is wrong in one line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from commands import GOLDEN, fails

from bench.float_nets import NETS, quantized, random_inputs
from kiwicha_host import models
from kiwicha_host.cli.run import _causes
from kiwicha_host.compiler.model import Placement
from kiwicha_host.compiler.optimize import STAGES


def test_run_a_network(run):
    images, labels = models.digits_test()
    np.save("x.npy", images[:20])
    status, out, err = run("run", models.DIGITS_MLP, "x.npy", "-o", "y.npy", "--json", *GOLDEN)
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["cycles"] > report["macs"] / report["peak_macs_per_cycle"]
    assert report["macs"] > 0 and report["layers"]
    assert (np.load("y.npy").argmax(axis=1) == labels[:20]).mean() > 0.8


def test_the_compilers_graph_can_be_printed(run):
    np.save("x.npy", models.digits_test()[0][:1])
    for stage in STAGES:
        status, out, err = run("run", models.DIGITS_MLP, "x.npy", "--json", "--dump-after", stage, *GOLDEN)
        assert (status, json.loads(out)["images"]) == (0, 1)
        assert err.startswith("graph(image: float32[N, 1, 8, 8]) -> (logits: float32[N, 10])\n  ")
        assert err.endswith(")\n") and err.count("QLinearMatMul") == 3
    fails(run, 2, "--dump-after: 'nothing' is not one of read, bind_dims, own_products, standard_codes, pairs, "
          "remove_dead, fold_constants, fold_shapes, zero_points, transposed_weights, unsigned_codes, "
          "equal_codes, fold_choices, codes_before_moves, fold_qdq, fold_elementwise, fold_channels, "
          "sink_transposes, unmerge_axes, drop_copies, integer_products, infer_types, keep_batch.",
          "run", models.DIGITS_MLP, "x.npy", "--dump-after", "nothing", *GOLDEN)


def two_inputs(folder="."):
    """A quantized model with two inputs and two outputs, and arrays for it."""
    model = NETS["two_and_two"]()
    quantized(model, Path(folder)).rename(Path(folder) / "model.onnx")
    (Path(folder) / "float.onnx").unlink()
    arrays = random_inputs(model, np.random.default_rng(0), 2)
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    return [item.name for item in model.graph.output], arrays


def test_run_a_model_with_inputs_and_outputs(run):
    names, arrays = two_inputs()
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, arrays)
    for inputs in (["left=left.npy", "right=right.npy"], ["right=right.npy", "left=left.npy"],
                   ["left.npy", "right.npy"], ["right=right.npy", "left.npy"]):
        status, out, err = run("run", "model.onnx", *inputs, "-o", "out", "--json", *GOLDEN)
        assert (status, err) == (0, "")
        for name, array in zip(names, expected, strict=True):
            np.testing.assert_array_equal(np.load(f"out/{name}.npy"), array)
        report = json.loads(out)
        assert report["macs"] == report["macs_chip"] == 2 * (5 * 6 + 7 * 6 + 12 * 4 + 12 * 3)
        assert report["macs_host"] == 0 and report["nodes_host"] == len(report["host"]) > 0
        assert {"node", "op", "why"} == set(report["host"][0]) and all(row["why"] for row in report["host"])
        shutil.rmtree("out")
    status, out, err = run("run", "model.onnx", "left.npy", "right.npy", *GOLDEN)
    assert status == 0 and re.fullmatch(r"kiwicha: \d+ of \d+ operators ran on the host, with 0 of 312 "
                                        r"multiply-accumulates; --json lists them\n  Tanh 'Tanh\d+': no "
                                        r"QuantizeLinear stands behind it\n", err)


def test_run_and_wrong_inputs(run, no_device):
    two_inputs()
    both = ["left.npy", "right.npy"]
    for arguments, status, message in (
            (["left.npy"], 1, "the input 'right' is missing; the model takes float32[N, 7]"),
            ([*both, "left.npy"], 1, "the model takes 2 inputs, 'left', 'right', not 3"),
            (["left=left.npy", "left=left.npy"], 1, "input 'left' is given twice"),
            (["up=left.npy", "right.npy"], 1, "the model has no input 'up'; it takes 'left', 'right'"),
            (["right.npy", "left.npy"], 1, "input 'left': the model takes float32[N, 5], not [2, 7]"),
            (["left=no.npy", "right.npy"], 1, "no such file: no.npy"),
            ([*both, "-o", "a.npy"], 1, "cannot write to"),
            ([*both, "-o", "-"], 1, "-o - has room for one array, but the model has 2 outputs"),
            ([*both, "--strict"], 1, "operators would run on the host, the first of them"),
            ([*both, "--dim", "H=3"], 1, "the model has no dimension 'H'; those without a size are 'N'"),
            ([*both, "--dim", "H"], 2, "'H' is not a dimension's name, '=' and a positive number"),
            ([*both, "--dim", "H=0"], 2, "'H=0' is not a dimension's name, '=' and a positive number"),
            ([*both, "--quantize", "left=left.npy"], 1, "the model is quantized already")):
        fails(run, status, message, "run", "model.onnx", *arguments)
    fails(run, 2, "Missing argument '[NAME=]INPUT.npy", "run", "model.onnx")


def test_why_the_host_runs_something():
    """A line for each reason, those with most products first; not what only follows from other operators."""
    def row(node, op, why, macs=0, place="host"):
        return Placement(node, op, place, macs, why)

    few = [row("a", "Sin", "too round"), row("b", "Cos", "too round"), row("c", "Sin", "too round"),
           row("d", "Tan", "too round"), row("e", "Tanh", "too round"), row("f", "Add", "", place="chip"),
           row("g", "Where", "nothing that it leads to is for the chip"),
           row("h", "Where", "takes numbers, 'g', that the host computes"),
           row("i", "Conv", "Conv 'i': too wide", 7), row("j", "Conv", "Conv 'j': too wide", 7)]
    assert _causes(few) == ["Conv 'i' and 1 more: too wide", "Sin 'a', Cos 'b', Tan 'd' and 2 more: too round"]
    many = [row(f"n{number}", "Sin", f"reason {number}") for number in range(7)]
    assert _causes(many) == [*(f"Sin 'n{number}': reason {number}" for number in range(5)), "and 2 more"]
    assert _causes(few[5:8]) == []


def test_run_a_float_model(run):
    onnx.save(NETS["vgg"](), "float.onnx")
    rng = np.random.default_rng(0)
    np.save("some.npy", rng.normal(0, 1, (6, 3, 8, 8)).astype(np.float32))
    np.save("x.npy", rng.normal(0, 1, (2, 3, 8, 8)).astype(np.float32))
    status, out, _ = run("run", "float.onnx", "x.npy", "-o", "y/", "--quantize", "some.npy", "--dim", "N=2",
                         "--json", *GOLDEN)
    assert status == 0 and json.loads(out)["macs_host"] == 0 < json.loads(out)["macs_chip"]
    [expected] = onnxruntime.InferenceSession("float.onnx", providers=["CPUExecutionProvider"]).run(
        None, {"x": np.load("x.npy")})
    [file] = Path("y").iterdir()
    assert np.abs(np.load(file) - expected).max() < 0.1
    status, out, err = run("run", "float.onnx", "x.npy", "--json", *GOLDEN)
    assert status == 0 and json.loads(out)["macs_chip"] == 0 < json.loads(out)["macs_host"]
    assert err == ("kiwicha: no product of the model is one of codes, so that all ran on the host; --quantize "
                   "SAMPLES.npy quantizes a float model for the chip\n")
    np.save("x64.npy", np.load("some.npy").astype(np.float64))
    fails(run, 1, "the calibration of input 'x' must be float32, not float64", "run", "float.onnx", "x.npy",
          "--quantize", "x64.npy")
