"""A vision transformer of width 192 on `wide`: ``python -m bench.transformer``.

197 tokens, three heads, random weights, quantized by ONNX Runtime to pairs of uint8; all of it on the chip, one
picture at a time. Cycles are those of the compiled chip, or, with ``--device golden``, the cycle model's.
"""

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from onnxruntime.quantization import QuantType

from kiwicha import ChipConfig
from kiwicha_host.compiler.model import compile_model
from kiwicha_host.devices import open_device
from kiwicha_host.model import run_model

from .float_nets import class_token, quantized, random_inputs

__all__ = ["measure"]


def measure(layers: int, device: str, config: str = "wide", **shape: int) -> dict[str, Any]:
    """Cycles, and two fractions of the roofline: by the multiply-accumulates of all, and layer by layer."""
    model = class_token(layers=layers, **shape)
    with tempfile.TemporaryDirectory() as folder, open_device(device, ChipConfig.preset(config)) as opened:
        path = quantized(model, Path(folder), activation_type=QuantType.QUInt8)
        compiled = compile_model(opened.config, path, strict=True, memory_latency=opened.memory_latency)
        run = run_model(opened, compiled, random_inputs(model, np.random.default_rng(6), 1))
        cycles, chip = run.result.cycles, opened.config
        assert cycles is not None
        return {"layers": layers, "macs": run.work.macs, "cycles": cycles,
                "roofline_fraction": round(run.work.bound_cycles(chip) / cycles, 3),
                "by_layer": round(sum(work.bound_cycles(chip) for work in run.works) / cycles, 3)}


@click.command()
@click.option("--layers", default=(1, 2), multiple=True, type=click.IntRange(1), show_default=True,
              help="Of the transformer.")
@click.option("--device", default="verilated", show_default=True, help="verilated or golden.")
def main(layers: tuple[int, ...], device: str) -> None:
    """Cycles of a vision transformer, a line for each number of layers."""
    for count in layers:
        print(measure(count, device, size=224, patch=16, width=192, heads=3, classes=10), flush=True)


if __name__ == "__main__":
    main()
