"""How many lane-cycles the vector unit takes for an element: ``python -m bench.rates``.

Models of one operator of int8 codes on `wide`, from memory to memory: cycles of the compiled chip, or, with
``--device golden``, the cycle model's, times the lanes, for each element of the result. Results are held against
ONNX Runtime's: no code may differ by more than one, and of a sum none. Fails if one takes more than its limit.
"""

import sys
from typing import NamedTuple

import click
import numpy as np
import onnx
from onnx import helper

from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.compiler import compile_onnx
from kiwicha_host.devices import Device
from kiwicha_host.inference import infer

from .one_step import model_of, onnxruntime_says

__all__ = ["RATES", "Rate", "measure"]

_INT8 = {"s0": np.float32(0.05), "z0": np.int8(3), "s1": np.float32(0.031), "z1": np.int8(-7), "z2": np.int8(5)}


class Rate(NamedTuple):
    """An operator of codes: what it takes, the result's scale, its shape, passes over all elements, of which a
    lane takes one in a cycle, and lane-cycles an element at most."""
    op: str
    operands: tuple[str, ...]
    scale: float
    shape: tuple[int, ...]
    passes: int
    most: float


#: A sum is to take 0.95 of what lanes can do.
RATES = {"sum": Rate("QLinearAdd", ("x", "s0", "z0", "y0", "s1", "z1"), 0.06, (512, 512), 1, 1 / 0.95),
         "softmax": Rate("QLinearSoftmax", ("x", "s0", "z0"), 1 / 256, (512, 512), 3, 3.3),
         "RMS norm": Rate("RMSNormalization", ("x", "s0", "z0"), 0.03, (512, 512), 2, 2.3)}


def measure(name: str, device: Device) -> float:
    """Lane-cycles for an element of one of :data:`RATES`."""
    rate, rng = RATES[name], np.random.default_rng(0)
    arrays = {item: rng.integers(-128, 128, (1, *rate.shape)).astype(np.int8) for item in ("x", "y0")
              if item in rate.operands}
    model = _model(name, rate, rng, arrays)
    network = compile_onnx(device.config, model, memory_latency=device.memory_latency)
    outputs, result = infer(device, network, arrays)
    differences = np.abs(outputs["y"].astype(int) - onnxruntime_says(model, arrays))
    if differences.max() > (name != "sum"):
        raise SystemExit(f"{name}: a result is {differences.max()} codes off")
    return result.cycles * device.config.vector_lanes / outputs["y"].size


def _model(name: str, rate: Rate, rng: np.random.Generator, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    constants = _INT8 | {"s2": np.float32(rate.scale)}
    if rate.op.startswith("QLinear"):
        attributes = {"axis": -1, "opset": 13} if rate.op == "QLinearSoftmax" else {}
        nodes = [helper.make_node(rate.op, [*rate.operands, "s2", "z2"], ["y"], domain="com.microsoft",
                                  **attributes)]
    else:
        constants |= {"gain": rng.uniform(0.5, 2, rate.shape[-1]).astype(np.float32)}
        nodes = [helper.make_node("DequantizeLinear", rate.operands, ["a"]),
                 helper.make_node(rate.op, ["a", "gain"], ["b"], axis=-1),
                 helper.make_node("QuantizeLinear", ["b", "s2", "z2"], ["y"])]
    used = {key: item for key, item in constants.items() if any(key in node.input for node in nodes)}
    return model_of(name, nodes, {item: [1, *rate.shape] for item in arrays}, used, np.int8)


@click.command()
@click.option("--config", default="wide", show_default=True)
@click.option("--device", default="verilated", show_default=True, help="verilated or golden.")
def main(config: str, device: str) -> None:
    """Lane-cycles an element, a line for each operator."""
    slow = False
    with open_device(device, ChipConfig.load(config)) as opened:
        for name, rate in RATES.items():
            found = measure(name, opened)
            slow |= found > rate.most
            print(f"{name} of {'x'.join(map(str, rate.shape))}: {found:.3f} lane-cycles an element, at most "
                  f"{rate.most:.3f}", flush=True)
    sys.exit(slow)


if __name__ == "__main__":
    main()
