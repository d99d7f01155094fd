"""How often a result on the chip is the code next to ONNX Runtime's: ``python -m bench.one_step``.

Sums and products of two tensors: all 65,536 pairs of codes. Averages: random codes. Each operator gets random
scales and zero points, of int8 and of uint8 codes in turn. Simple scales are whole multiples of 1/64, so that many
results are at halves; equal ones are one random number, as ONNX Runtime's quantizer gives them to AveragePool. A
softmax's result has a scale of 1/512 to 1/64, a norm's one of 1/64 to 1/16, and simple ones are 1 / n. A batch
normalization has a gain, a bias and a mean for each channel, random or multiples of 1/32. A product's result has a
scale of 50 to 1000 times those of its operands, of which one has 200 rows and the other 100 columns; so has
such a product plus codes, or a function of one, without a QuantizeLinear between.
"""

from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.compiler import compile_onnx
from kiwicha_host.inference import infer

__all__ = ["OPERATORS", "SCALES", "Share", "model_of", "onnxruntime_says", "share"]

SCALES = ("random", "simple", "equal")

#: By name, what is asked: the operator, its attributes, and the shape of its operands.
OPERATORS: dict[str, tuple[str, dict[str, object], tuple[int, ...]]] = {
    "sum": ("QLinearAdd", {}, (16, 64, 64)), "product": ("QLinearMul", {}, (16, 64, 64)),
    "average of 3x3": ("QLinearAveragePool", {"kernel_shape": [3, 3]}, (16, 34, 34)),
    "average of 2x2": ("QLinearAveragePool", {"kernel_shape": [2, 2]}, (16, 33, 33)),
    "global average of 7x7": ("QLinearGlobalAveragePool", {}, (2000, 7, 7)),
    "mean of 7x7": ("ReduceMean", {"axes": [2, 3]}, (2000, 7, 7)),
    "softmax of 197": ("QLinearSoftmax", {"axis": -1, "opset": 13}, (300, 197)),
    "norm of 192": ("LayerNormalization", {"axis": -1}, (300, 192)),
    "batch normalization": ("BatchNormalization", {"epsilon": 0.0}, (16, 64, 64)),
    "RMS norm of 192": ("RMSNormalization", {"axis": -1}, (300, 192)),
    "rotary of 64": ("RotaryEmbedding", {}, (4, 197, 64)),
    "Gemm of 144, float bias": ("Gemm", {}, (144,)), "Conv of 144, float bias": ("Conv", {}, (144, 1, 1)),
    "MatMul of 144, float bias": ("MatMul", {}, (144,)),
    "MatMul of 144, plus codes": ("MatMul", {"then": "Add"}, (144,)),
    "MatMul of 144, then SiLU": ("MatMul", {"then": "Mul"}, (144,))}
#: Those with random weights and a bias of numbers.
_PRODUCTS = ("Conv", "Gemm", "MatMul")


class Share(NamedTuple):
    """Of some sets of scales and zero points: in how many some results differ, the share of these among all
    results, the largest share of one set, and by how many codes at most."""
    sets: int
    differing: int
    mean: float
    largest: float
    codes: int


def share(name: str, sets: int, kind: str = "random", seed: int = 0) -> Share:
    """One of :data:`OPERATORS` with scales of one of the kinds :data:`SCALES`, on the golden machine."""
    rng, config, shares, codes = np.random.default_rng(seed), ChipConfig.preset("wide"), [], 0
    with open_device("golden", config) as device:
        for number in range(sets):
            model, arrays = _case(rng, name, (np.int8, np.uint8)[number % 2], kind)
            outputs, _ = infer(device, compile_onnx(config, model), arrays)
            differences = np.abs(outputs["y"].astype(int) - onnxruntime_says(model, arrays))
            shares.append((differences > 0).mean())
            codes = max(codes, int(differences.max()))
    return Share(sets, int(np.count_nonzero(shares)), float(np.mean(shares)), float(np.max(shares)), codes)


def _case(rng: np.random.Generator, name: str, dtype: type, kind: str
          ) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one operator, and its operands."""
    op, attributes, shape = OPERATORS[name]
    info, two = np.iinfo(dtype), op in ("QLinearAdd", "QLinearMul")
    scales = rng.integers(1, 20, 3) / 64 if kind == "simple" else np.exp(rng.uniform(-4, 0, 3))
    scales = np.float32(scales if kind != "equal" else [scales[0]] * 3)
    factors = _factors(rng, op, kind, shape, scales)
    zeros = rng.integers(info.min, info.max, 3, dtype, endpoint=True)
    known = {f"{what}{i}": item for what, items in (("s", scales), ("z", zeros)) for i, item in enumerate(items)}
    names = ["x", "s0", "z0", *(["y0", "s1", "z1"] if two else []), "s2", "z2"]
    if op in _PRODUCTS:
        known |= {"w": rng.integers(-127, 128, (100, *shape) if op == "Conv" else (*shape, 100), np.int8),
                  "z1": np.int8(0)}
        names += ["w", "s1", "z1"]
        nodes = _biased(op) if "then" not in attributes else _numbers(attributes["then"])
    elif "QLinear" not in op:
        nodes = [helper.make_node("DequantizeLinear", names[:3], ["a"]),
                 helper.make_node(op, ["a", *factors], ["b"], **attributes),
                 helper.make_node("QuantizeLinear", ["b", "s2", "z2"], ["y"])]
    else:
        nodes = [helper.make_node(op, names, ["y"], domain="com.microsoft", **attributes)]
    codes = np.arange(256).astype(np.uint8).view(dtype)
    arrays = {"x": np.repeat(codes, 256), "y0": np.tile(codes, 256)} if two else {
        "x": rng.integers(info.min, info.max, (200, *shape) if op in _PRODUCTS else shape, dtype, endpoint=True)}
    shapes = dict.fromkeys(arrays, shape)
    if attributes.get("then") == "Add":
        shapes["r"], names = (100,), [*names, "s2", "z2"]
        arrays["r"] = rng.integers(info.min, info.max, (200, 100), dtype, endpoint=True)
    constants = {key: item for key, item in known.items() if key in names}
    used = {item for node in nodes for item in node.input}
    constants |= {key: np.float32(item) for key, item in factors.items() if key in used}
    return model_of(name, nodes, {item: ["N", *shapes[item]] for item in arrays}, constants, dtype), {
        key: item.reshape(-1, *shapes[key]) for key, item in arrays.items()}


def _factors(rng: np.random.Generator, op: str, kind: str, shape: tuple[int, ...], scales: np.ndarray
             ) -> dict[str, np.ndarray]:
    """What an operator takes beside its operand, in order; the result's scale changes to what suits it."""
    factors = {}
    if op == "QLinearMul":
        times = np.float32(rng.uniform(1, 100)) if kind == "random" else rng.integers(1, 100)
        scales[2] = scales[0] * scales[1] * times
    elif op.endswith("Normalization"):
        factors = {"gain": rng.uniform(0.5, 2, shape[-1]), "bias": rng.normal(0, 0.5, shape[-1])}
        scales[2] = np.float32(1 / rng.integers(16, 64) if kind == "simple" else rng.uniform(1 / 64, 1 / 16))
        if op == "RMSNormalization":
            del factors["bias"]
        elif op == "BatchNormalization":
            rows = {key: rng.integers(low, 64, shape[0]) if kind == "simple" else rng.uniform(low, 64, shape[0])
                    for key, low in (("gain", 8), ("bias", -64), ("mean", -64))}
            factors = {**{key: row / 32 for key, row in rows.items()}, "variance": np.ones(shape[0])}
    elif op == "RotaryEmbedding":
        turns = rng.uniform(-200, 200, (1, shape[-2], shape[-1] // 2))
        factors = {"cos": np.cos(turns), "sin": np.sin(turns)}
    elif op in _PRODUCTS:
        times = rng.integers(50, 1000) if kind == "simple" else np.exp(rng.uniform(np.log(50), np.log(1000)))
        scales[2] = scales[0] * scales[1] * np.float32(times)
        factors = {"bias": rng.normal(0, 30 * scales[2], 100)}
    elif op == "QLinearSoftmax":
        scales[2] = np.float32(1 / rng.integers(64, 512) if kind == "simple" else rng.uniform(1 / 512, 1 / 64))
    return factors


def model_of(name: str, nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]],
             constants: dict[str, np.ndarray], dtype: type) -> onnx.ModelProto:
    """A model whose inputs and whose output, "y", are codes of one type."""
    value, element = helper.make_tensor_value_info, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes, name, [value(item, element, shape) for item, shape in inputs.items()], [value("y", element, None)],
        [numpy_helper.from_array(np.asarray(item), key) for key, item in constants.items()])
    version = 23 if any(node.op_type in ("RMSNormalization", "RotaryEmbedding") for node in nodes) else 17
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)])


def _biased(op: str) -> list[onnx.NodeProto]:
    """A product of numbers, plus numbers."""
    last = "MatMul" if op == "MatMul" else ""
    add = [helper.make_node("Add", [last, "bias"], ["c"])] if last else []
    return [helper.make_node("DequantizeLinear", ["x", "s0", "z0"], ["a"]),
            helper.make_node("DequantizeLinear", ["w", "s1", "z1"], ["b"]),
            helper.make_node(op, ["a", "b"] if last else ["a", "b", "bias"], [last or "c"]), *add,
            helper.make_node("QuantizeLinear", ["c", "s2", "z2"], ["y"])]


def _numbers(then: object) -> list[onnx.NodeProto]:
    """A product of numbers, and a function of it or the sum of it and of codes."""
    others = [helper.make_node("Sigmoid", ["p"], ["d"])] if then == "Mul" else [
        helper.make_node("DequantizeLinear", ["r", "s2", "z2"], ["d"])]
    return [helper.make_node("DequantizeLinear", ["x", "s0", "z0"], ["a"]),
            helper.make_node("DequantizeLinear", ["w", "s1", "z1"], ["b"]),
            helper.make_node("MatMul", ["a", "b"], ["p"]), *others,
            helper.make_node(str(then), ["p", "d"], ["c"]),
            helper.make_node("QuantizeLinear", ["c", "s2", "z2"], ["y"])]


def onnxruntime_says(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The output "y" of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]
                                        ).run(["y"], arrays)[0]


def main(sets: int = 200) -> None:
    print("operator                        | scales | sets that differ | of all results | of one set's | codes")
    for kind in SCALES:
        for name in OPERATORS:
            found = share(name, sets, kind)
            print(f"{name:31} | {kind:6} | {found.differing:3} of {found.sets:8} | "
                  f"{found.mean:14.4%} | {found.largest:12.2%} | {found.codes}", flush=True)


if __name__ == "__main__":
    main()
