"""Whole networks on the compiled chip: ``python -m bench.networks`` writes the table of docs/performance.md.

Each is quantized by ONNX Runtime on random pictures; its outputs are compared with ONNX Runtime's, its cycles
counted, and predicted by the cycle model. Cycles are exact and repeatable; seconds are of CPU time here.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from kiwicha import ChipConfig
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.model import compile_model
from kiwicha_host.devices import open_device
from kiwicha_host.model import run_model

from .float_nets import mobilenet_v1, random_inputs, resnet, separable, vgg

__all__ = ["NETWORKS", "measure", "table"]

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "networks.json", HERE.parent / "docs" / "performance.md"
START, END = "<!-- networks: python -m bench.networks -->", "<!-- end of networks -->"
CONFIG = "ulx3s_85f"
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "ResNet-18, 64x64": lambda: resnet(64, (64, 128, 256, 512), 2),
    "VGG, 8 convolutions, 64x64": lambda: vgg(64, (64, 128, 256, 512, 512), (1, 1, 2, 2, 2), 512, softmax=False),
    "MobileNetV1-0.25, 96x96": mobilenet_v1,
    "1x1 and depthwise 3x3, 128 channels, 28x28": separable,
}


def measure(networks: dict[str, Callable[[], onnx.ModelProto]], config: str = CONFIG) -> Iterator[dict[str, Any]]:
    """A row for each network."""
    chip = ChipConfig.preset(config)
    with open_device("verilated", chip) as device, open_device("golden", chip) as golden:
        for name, make in networks.items():
            model, rng = make(), np.random.default_rng(0)
            data = quantize_model(model, random_inputs(model, rng, 2))
            began = time.process_time()
            compiled = compile_model(chip, data, memory_latency=device.memory_latency)
            compile_s = time.process_time() - began
            inputs = random_inputs(model, rng, 1)
            session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            expected = session.run(None, inputs)
            run, predicted = (run_model(item, compiled, inputs) for item in (device, golden))
            if any((a != b).any() for a, b in zip(run.outputs.values(), expected, strict=True)):
                raise SystemExit(f"{name}: the result is not ONNX Runtime's")
            cycles = run.result.cycles
            assert cycles is not None and predicted.result.cycles is not None
            yield {"network": name, "macs": run.work.macs,
                   "share": run.work.macs / (run.work.macs + run.host_macs),
                   "cycles": cycles, "predicted": predicted.result.cycles, "compile_s": round(compile_s, 1),
                   "roofline_fraction": sum(work.bound_cycles(chip) for work in run.works) / cycles,
                   "utilization": run.work.macs / chip.peak_macs_per_cycle / cycles}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| network | MACs | of them on the chip | cycles | predicted | MACs used | of the roofline, "
             "by layer | compiled in |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {row['network']} | {row['macs']:,} | {row['share']:.1%} | {row['cycles']:,} | "
              f"{row['predicted'] / row['cycles'] - 1:+.2%} | {row['utilization']:.1%} | "
              f"{row['roofline_fraction']:.1%} | {row['compile_s']} s |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    rows = []
    for row in measure(NETWORKS):
        print(row, flush=True)
        rows.append(row)
    RESULTS.write_text(json.dumps({"config": CONFIG, "networks": rows}, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(f"{before}{START}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
