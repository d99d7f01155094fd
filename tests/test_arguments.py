"""Every public function: a bad argument is refused in one line that names it and its value."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tiny_llama

import kiwicha_host
from kiwicha import ChipConfig
from kiwicha.isa import ErrorCode, OutFormat, Unit
from kiwicha_host import (
    GemmRequest,
    Job,
    Result,
    assembler,
    compiler,
    cycles,
    golden,
    inference,
    load_model,
    metrics,
    models,
    open_device,
    quantize,
    report,
    verilog,
)
from kiwicha_host.cli.time_line import time_line
from kiwicha_host.compiler import CompiledGemm, GemmSpec, compile_gemm, compile_onnx
from kiwicha_host.devices import Device
from kiwicha_host.devices.golden import GoldenDevice
from kiwicha_host.devices.serial import SerialDevice
from kiwicha_host.devices.verilated import VerilatedDevice
from kiwicha_host.golden import block, numerics
from kiwicha_host.language import generate, gguf_file, model, reference, tokenizer, vocabulary
from kiwicha_host.trace import SPAN, Trace

CHIP = ChipConfig.preset("small")
A, B = np.ones((3, 40), np.int8), np.ones((40, 5), np.int8)
E = np.ones((3, 40), ml_dtypes.float8_e4m3fn)
X = np.ones((3, 40), np.float32)
ONE = {"a_scale": np.full((3, 2), 127, np.uint8), "b_scale": np.full((2, 5), 127, np.uint8)}
REQUEST = {"a": A, "b": B, "block": 32, **ONE, "bias": np.zeros(5, np.float32), "out_scale": 0.5}
SPEC = GemmSpec(m=3, n=5, k=40)
PROGRAM = compile_gemm(CHIP, SPEC)
JOB = {"memory": np.zeros(4096, np.uint8), "program_address": 0, "program_count": 1, "window": (0, 4095),
       "base": 0, "constant": 0}
WORK, RESULT = metrics.Work(105, 100), Result(10, {}, 0.1)


@functools.cache
def network():
    return compile_onnx(CHIP, models.DIGITS_MLP)


def tiny_vocabulary():
    names = tiny_llama.tokens()
    return vocabulary.Vocabulary("gpt2", "gpt-2", tuple(names), (vocabulary.TokenKind.NORMAL,) * len(names))


#: What is no such thing. A masked array is none, anywhere.
MASKED = np.ma.masked_array(np.ones((3, 40), np.int8), np.zeros((3, 40), bool))
INTEGER = [1.5, "3", None, True, [3], np.array([3]), np.array(3), np.float32(3), 3j]
NO = {"integer": INTEGER, "optional integer": [item for item in INTEGER if item is not None],
      "size": [*INTEGER, 0, -1, np.int64(-5)], "count": [*INTEGER, -1],
      "boolean": ["no", 1, 0, None, [], np.array([True])],
      "number": ["3", None, True, [3.0], np.array(3.0), float("nan"), float("inf"), -1.0, 3j],
      "name": [5, None, ["e4m3"], b"e4m3", "nonsense"], "optional name": [5, ["e4m3"], b"e4m3", "nonsense"],
      "array": [MASKED, None, "x", {}, [[1], [1, 2]], np.array([[{}]])],
      "optional array": [MASKED, "x", {}, [[1], [1, 2]], np.array([[{}]])],
      "chip": ["small", None, 5], "path": [None, 5, b"x", ["x"]], "model": [None, 5, ["x"], np.zeros(3)],
      "plain array": [MASKED, [[1], [1, 2]], np.array([[{}]])], "object": ["x", 5, [1]],
      "index": [1.5, "3", None, [3], 3j], "thing": ["x", None, 5, [], np.zeros(3)]}


@dataclass
class Public:
    """A call that is good, and what each of its arguments is."""
    call: Callable[..., Any]
    good: dict[str, Any]
    kinds: dict[str, str] = field(default_factory=dict)


def device_call(name):
    def call(**arguments):
        with open_device("golden", CHIP) as device:
            return getattr(device, name)(**arguments)
    return call


def network_call(name):
    return lambda **arguments: getattr(network(), name)(**arguments)


OPTIONS = {"a": "array", "b": "array", "a_scale": "optional array", "b_scale": "optional array",
           "block": "integer", "bias": "optional array", "out": "optional name", "out_scale": "optional array",
           "out_zero_point": "integer", "relu": "boolean", "out_block": "integer", "scale_rule": "name"}
IMAGES = {"images": 2}
SCALED = {"fmt": "name", "rule": "name"}
PUBLIC = {
    "open_device": Public(open_device, {"name": "golden", "config": CHIP}, {"name": "name", "config": "model"}),
    "GemmRequest": Public(GemmRequest, REQUEST, OPTIONS),
    "Device.gemm": Public(device_call("gemm"), REQUEST, OPTIONS),
    "Device.run": Public(device_call("run"), {"job": PROGRAM.job(A, B)}, {"job": "thing"}),
    "Device.compute": Public(device_call("compute"), {"request": GemmRequest(A, B)}, {"request": "thing"}),
    "GoldenDevice": Public(GoldenDevice, {"config": CHIP, "latency": 3}, {"config": "chip", "latency": "count"}),
    # Only what is refused: a good call would build a chip, or want a board.
    "VerilatedDevice": Public(VerilatedDevice, {"config": CHIP}, {
        "config": "chip", "latency": "count", "trace": "boolean", "trace_limit": "size", "max_cycles": "size"}),
    "SerialDevice": Public(SerialDevice, {"config": CHIP, "port": "/dev/none"}, {
        "config": "chip", "baud": "size", "timeout_s": "number", "run_limit_s": "number"}),
    "Job": Public(Job, JOB, {"memory": "array", "program_address": "integer", "program_count": "count",
                             "base": "count", "window": "thing", "constant": "count"}),
    "Job.instruction": Public(Job(**JOB).instruction, {"index": 0}, {"index": "integer"}),
    "Result": Public(Result, {}, {"cycles": "optional integer", "counters": "path", "wall_s": "number",
                                  "predicted": "boolean"}),
    "DeviceError": Public(kiwicha_host.DeviceError, {"code": ErrorCode.FIELD, "unit": Unit.LOAD, "index": 0},
                          {"index": "integer", "address": "integer"}),
    "Machine": Public(golden.Machine, {"config": CHIP}, {"config": "chip"}),
    "Machine.run": Public(golden.Machine(CHIP).run, {"job": PROGRAM.job(A, B)}, {"job": "thing"}),
    "gemm_int": Public(golden.gemm_int, {"a": A, "b": B}, {"a": "array", "b": "array"}),
    "gemm_block": Public(golden.gemm_block, {"a": A, "b": B, **ONE, "block": 32}, {
        "a": "array", "b": "array", "a_scale": "array", "b_scale": "array", "block": "size",
        "acc": "optional array"}),
    "quantize_block": Public(golden.quantize_block, {"x": X, "fmt": "e4m3", "block": 16},
                             {"x": "array", "block": "size", **SCALED}),
    "block_scales": Public(block.block_scales, {"amax": X, "fmt": "e4m3"}, {"amax": "array", **SCALED}),
    "decode": Public(block.decode, {"elements": E}, {"elements": "array"}),
    "decode_scales": Public(block.decode_scales, {"codes": ONE["a_scale"]}, {"codes": "array"}),
    "round_elements": Public(block.round_elements, {"x": X, "scales": np.zeros(X.shape, np.uint8), "fmt": "e4m3"},
                             {"x": "array", "scales": "array", "fmt": "name"}),
    "spread": Public(block.spread, {"scales": ONE["a_scale"], "shape": (3, 40), "block": 32},
                     {"scales": "array", "block": "size"}),
    "clamp": Public(numerics.clamp, {"x": X, "low": 0, "high": 1},
                    {"x": "array", "low": "array", "high": "array"}),
    "epilogue": Public(golden.epilogue, {"acc": np.ones((2, 3), np.int32)},
                       {"acc": "array", "bias": "optional array", "out_format": "thing"}),
    "epilogue to int8": Public(golden.epilogue, {"acc": np.ones((2, 3), np.int32), "out_format": OutFormat.INT8},
                               {"scale": "optional array", "zero_point": "integer"}),
    "numerics.quantize": Public(numerics.quantize, {"x": X}, {"x": "array", "zero_point": "integer"}),
    "pairwise_sum": Public(numerics.pairwise_sum, {"x": X}, {"x": "array"}),
    "top": Public(numerics.top, {"x": X, "count": 3}, {"x": "array", "count": "integer"}),
    "requantize_scale": Public(numerics.requantize_scale, {"x_scale": 1., "w_scale": 1., "y_scale": 1.},
                               {"x_scale": "array", "w_scale": "array", "y_scale": "array"}),
    "to_bf16": Public(golden.to_bf16, {"x": X}, {"x": "array"}),
    "to_fp32": Public(numerics.to_fp32, {"acc": X}, {"acc": "array", "scale": "optional array"}),
    "total_order": Public(numerics.total_order, {"x": X}, {"x": "array"}),
    **{name: Public(getattr(golden.functions, name), {"x": X}, {"x": "array"})
       for name in golden.functions.__all__},
    "quantize": Public(quantize.quantize, {"x": X, "fmt": "e4m3", "block": 16},
                       {"x": "array", "block": "size", **SCALED}),
    "quantize_weights": Public(quantize.quantize_weights, {"w": X, "fmt": "e4m3", "block": 16},
                               {"w": "array", "block": "size", "square": "boolean", **SCALED}),
    "dequantize": Public(quantize.dequantize, {"elements": E, "scales": ONE["a_scale"], "block": 32},
                         {"elements": "array", "scales": "array", "block": "size"}),
    "GemmSpec": Public(GemmSpec, {"m": 1, "n": 1, "k": 1}, {
        "m": "size", "n": "size", "k": "size", "a_format": "name", "b_format": "name", "block": "integer",
        "out": "name", "bias": "boolean", "zero_point": "integer", "relu": "boolean", "out_block": "integer",
        "scale_rule": "name"}),
    "GemmSpec to fp32": Public(GemmSpec, {"m": 1, "n": 1, "k": 1, "out": "fp32"}, {"scale": "optional array"}),
    "CompiledGemm": Public(CompiledGemm, {"config": CHIP, "spec": SPEC}, {"config": "chip", "spec": "thing"}),
    "CompiledGemm.job": Public(PROGRAM.job, {"a": A, "b": B}, {
        "a": "array", "b": "array", "bias": "optional array", "scale": "optional array"}),
    "CompiledGemm.output": Public(PROGRAM.output, {"job": PROGRAM.job(A, B)}, {"job": "thing"}),
    "compile_gemm": Public(compile_gemm, {"config": CHIP, "spec": SPEC},
                           {"config": "chip", "spec": "thing", "memory_limit": "optional integer"}),
    "compile_onnx": Public(compile_onnx, {"config": CHIP, "model": models.DIGITS_MLP},
                           {"config": "chip", "model": "model"}),
    "load_model": Public(load_model, {"model": models.DIGITS_MLP, "config": CHIP, "device": "golden"},
                         {"model": "model", "dims": "object", "strict": "boolean"}),
    "Model.run": Public(load_model(models.DIGITS_MLP, CHIP, "golden").run,
                        {"inputs": {"image": models.digits_test()[0][:1]}}, {"inputs": "thing"}),
    "CompiledNetwork.batch_job": Public(network_call("batch_job"), {"inputs": models.digits_test()[0][:1]},
                                        {"inputs": "plain array"}),
    "CompiledNetwork.check": Public(network_call("check"), {"inputs": models.digits_test()[0][:1]},
                                    {"inputs": "plain array"}),
    "CompiledNetwork.images_per_job": Public(network_call("images_per_job"), {"images": 2, "memory_limit": None},
                                             {"images": "size", "memory_limit": "optional integer"}),
    "CompiledNetwork.outputs": Public(network_call("outputs"), {
        "job": functools.partial(lambda: network().batch_job(models.digits_test()[0][:1]))()}, {"job": "thing"}),
    **{f"CompiledNetwork.{name}": Public(network_call(name), IMAGES, {"images": "size"}) for name in (
        "macs", "compulsory_bytes", "layer_works", "instructions", "instruction_layers", "memory_bytes")},
    "encode": Public(assembler.encode, {"unit": Unit.LOAD, "rows": 1}, {"unit": "thing", "rows": "index"}),
    "decode instruction": Public(assembler.decode, {"code": assembler.encode(Unit.LOAD)}, {"code": "thing"}),
    "disassemble": Public(assembler.disassemble, {"code": bytes(64)}, {"code": "thing"}),
    "predict": Public(cycles.predict, {"config": CHIP, "program": PROGRAM.program}, {
        "config": "chip", "program": "thing", "latency": "count", "address": "count"}),
    "infer": Public(inference.infer, {"device": open_device("golden", CHIP), "network": network(),
                                      "images": models.digits_test()[0][:1]},
                    {"device": "thing", "network": "thing", "images": "plain array"}),
    "Work": Public(metrics.Work, {"macs": 1, "compulsory_bytes": 1},
                   {"macs": "count", "compulsory_bytes": "count"}),
    "gemm_work": Public(metrics.gemm_work, {"m": 1, "n": 1, "k": 1}, {
        **dict.fromkeys(("m", "n", "k", "a_per_byte", "b_per_byte", "out_bits"), "size"), "scale_bytes": "count"}),
    "request_work": Public(metrics.request_work, {"request": GemmRequest(A, B)}, {"request": "thing"}),
    "figures": Public(metrics.figures, {"device": "golden", "config": CHIP, "work": WORK, "result": RESULT}, {
        "device": "path", "config": "chip", "work": "thing", "result": "thing"}),
    "counters_by_cause": Public(metrics.counters_by_cause, {"result": RESULT}, {"result": "thing"}),
    "write_report": Public(report.write_report, {"folder": "/dev/null/x", "config": CHIP, "work": WORK,
                                                 "result": RESULT},
                           {"config": "chip", "work": "thing", "result": "thing", "figures": "object",
                            "layers": "object"}),
    "LlamaConfig": Public(tiny_llama.config, {}, {
        **dict.fromkeys(("layers", "width", "heads", "kv_heads", "head_size", "ffn", "vocabulary", "context"),
                        "size"),
        "rope_base": "number", "norm_epsilon": "number", "tied_head": "boolean", "rope_pairs": "name"}),
    "LlamaModel": Public(model.LlamaModel, {"config": tiny_llama.config(),
                                            "tensors": tiny_llama.weights(tiny_llama.config())},
                         {"config": "thing"}),
    "find_gguf": Public(gguf_file.find_gguf, {"path": "/dev/none.gguf"}, {"path": "path"}),
    "read_gguf": Public(gguf_file.read_gguf, {"path": "/dev/none.gguf"}, {"path": "path"}),
    "Tokenizer": Public(tokenizer.Tokenizer, {"vocabulary": tiny_vocabulary()}, {"vocabulary": "thing"}),
    "Tokenizer.encode": Public(tokenizer.Tokenizer(tiny_vocabulary()).encode, {"text": "the"}, {"text": "path"}),
    "TextStream.push": Public(tokenizer.TextStream(tokenizer.Tokenizer(tiny_vocabulary())).push, {"token": 3},
                              {"token": "count"}),
    "reference.Decoder": Public(reference.Decoder, {"model": tiny_llama.model()}, {"model": "thing"}),
    "macs of a model": Public(generate.macs, {"model": tiny_llama.config(), "prompt": 1, "steps": 0},
                              {"model": "thing", "prompt": "size", "steps": "count"}),
    "figures of a model": Public(generate.figures, {
        "device": "golden", "config": CHIP, "model": tiny_llama.config(),
        "done": generate.Completion("", (1,), 1, "", 0, 0, 0, 0, 0, 0.)},
        {"device": "path", "config": "chip", "model": "thing", "done": "thing"}),
    "time_line": Public(time_line, {"trace": Trace(np.empty(0, SPAN), 0, 0, b"")},
                        {"trace": "thing", "columns": "size"}),
    "Trace.of": Public(Trace(np.empty(0, SPAN), 0, 0, b"").of, {"unit": Unit.LOAD}, {"unit": "thing"}),
    "write_verilog": Public(verilog.write_verilog, {"config": CHIP, "folder": "/dev/null/x"},
                            {"config": "chip", "folder": "path", "initial_values": "boolean"}),
    "write_smoke": Public(verilog.write_smoke, {"config": CHIP, "folder": "/dev/null/x"},
                          {"config": "chip", "folder": "path", **dict.fromkeys(("m", "n", "k"), "size")}),
    "lint_waivers": Public(verilog.lint_waivers, {"config": CHIP}, {"config": "chip"}),
}
#: Good calls that need what a quick test has not.
DEAR = {"VerilatedDevice", "SerialDevice", "find_gguf", "read_gguf", "write_report", "write_smoke",
        "write_verilog"}


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in DEAR])
def test_good_arguments(name):
    PUBLIC[name].call(**PUBLIC[name].good)


@pytest.mark.parametrize("name, argument", [(name, argument) for name, item in PUBLIC.items()
                                            for argument in item.kinds])
def test_bad_arguments(name, argument):
    public = PUBLIC[name]
    for value in NO[public.kinds[argument]]:
        with pytest.raises((TypeError, ValueError)) as caught:
            public.call(**public.good | {argument: value})
            pytest.fail(f"{argument}={value!r} was taken")
        message = str(caught.value)
        assert "\n" not in message
        assert re.search(rf"(?<![a-z_]){argument}(?![a-z_])", message, re.IGNORECASE), (value, message)
        assert shown(value, message), (value, message)


def shown(value, message):
    """Whether a message tells the value: arrays by their type, or that they have a mask."""
    if isinstance(value, np.ma.MaskedArray):
        return "mask" in message
    if isinstance(value, np.ndarray) and str(value.dtype) in message:
        return True
    return any(text in message for text in (repr(value), str(value), str(np.asarray(value).dtype)
                                            if not isinstance(value, list) else repr(value)))


@pytest.mark.parametrize("module", [kiwicha_host, golden, golden.block, golden.functions, golden.numerics,
                                    quantize, compiler, metrics, verilog, inference])
def test_every_public_function_is_here(module):
    called = {item.call for item in PUBLIC.values()} | {Device}
    results = {kiwicha_host.BlockScaled, kiwicha_host.GemmResult}
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and value not in results and not (isinstance(value, type)
                                                             and issubclass(value, compiler.CompileError)):
            assert value in called, f"{module.__name__}.{name} is not tested"


def test_numpys_scalars_are_numbers():
    scalars = {"block": np.int64(32), "relu": np.bool_(True), "out_zero_point": np.int8(0)}
    request = GemmRequest(**REQUEST | scalars)
    assert (request.block, request.relu, request.spec.block) == (32, True, 32)
    assert type(request.block) is int and type(request.relu) is bool
    assert open_device("golden", CHIP, latency=np.uint8(3)).gemm(A, B).sum() == 3 * 5 * 40


def test_beyond_fp32():
    for function in (lambda x: quantize.quantize(x, "e4m3", 16), lambda x: golden.quantize_block(x, "e4m3", 16),
                     lambda x: quantize.quantize_weights(x, "e4m3", 16)):
        with pytest.raises(ValueError, match=r"must be within FP32's range, not 1e\+39"):
            function(np.array([[1.0, 1e39]]))
        # An infinity is one in FP32, too: its block's scale is NaN, by the contract.
        assert function(np.array([[1.0, np.inf]]))[1].tolist() in ([[255]], [[0, 255]], [[119, 255]])


def test_a_scale_rule_needs_scales():
    with pytest.raises(ValueError, match="a scale rule is for e4m3, e2m1, mxint8 outputs, not int32"):
        GemmRequest(A, B, scale_rule="floor")


def test_results_are_typed():
    with open_device("golden", CHIP) as device:
        plain = device.gemm(A, B)
        scaled = device.gemm(**REQUEST | {"bias": None}, out="e4m3", out_block=32)
        result = device.compute(GemmRequest(A, B))
    assert type(plain) is np.ndarray and (plain == 40).all()
    elements, scales = scaled
    assert (scaled.elements is elements) and scaled.scales is scales and scales.dtype == np.uint8
    assert (result.c == plain).all() and result.c_scale is None and result.run is device.last_result
    assert result.value is result.c and result.codes is result.c


def test_an_unknown_option_is_named():
    with open_device("golden", CHIP) as device, pytest.raises(TypeError, match="'frobnicate'"):
        device.gemm(A, B, frobnicate=1)
    with pytest.raises(TypeError, match="'frobnicate'"):
        open_device("golden", CHIP, frobnicate=1)
