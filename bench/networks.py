"""Whole networks on the compiled chip: ``python -m bench.networks`` writes the tables of docs/performance.md.

Each is quantized by ONNX Runtime on random pictures; its outputs are compared with ONNX Runtime's, its cycles
counted, and predicted by the cycle model. Cycles are exact and repeatable; seconds are of CPU time here. Those on
`wide` run a second time as a model that has a QuantizeLinear nowhere but before products; ONNX Runtime's numbers
are near the chip's then.
"""

import json
import tempfile
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

from .float_nets import mobilenet, mobilenet_v1, quantized_before_products, random_inputs, resnet, separable, vgg

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
#: On `wide`, in both forms.
WIDE: dict[str, Callable[[], onnx.ModelProto]] = {
    "ResNet-18, 64x64": NETWORKS["ResNet-18, 64x64"],
    "blocks of MobileNetV2, 96x96": lambda: mobilenet(2, 96),
}


def measure(networks: dict[str, Callable[[], onnx.ModelProto]], config: str = CONFIG, *,
            before_products: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each network; `before_products` is the form of its quantization."""
    chip = ChipConfig.preset(config)
    with open_device("verilated", chip) as device, open_device("golden", chip) as golden:
        for name, make in networks.items():
            model, rng = make(), np.random.default_rng(0)
            data = _before_products(model) if before_products else quantize_model(
                model, random_inputs(model, rng, 2))
            began = time.process_time()
            compiled = compile_model(chip, data, strict=True, memory_latency=device.memory_latency)
            compile_s = time.process_time() - began
            inputs = random_inputs(model, rng, 1)
            session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            expected = session.run(None, inputs)
            run, predicted = (run_model(item, compiled, inputs) for item in (device, golden))
            if any(not (np.allclose(a, b, atol=0.05 * np.abs(b).max()) if before_products else (a == b).all())
                   for a, b in zip(run.outputs.values(), expected, strict=True)):
                raise SystemExit(f"{name}: the result is not ONNX Runtime's")
            cycles = run.result.cycles
            assert cycles is not None and predicted.result.cycles is not None
            yield {"network": name, "macs": run.work.macs,
                   "share": run.work.macs / (run.work.macs + run.host_macs),
                   "cycles": cycles, "predicted": predicted.result.cycles, "compile_s": round(compile_s, 1),
                   "roofline_fraction": sum(work.bound_cycles(chip) for work in run.works) / cycles,
                   "utilization": run.work.macs / chip.peak_macs_per_cycle / cycles}


def _before_products(model: onnx.ModelProto) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return quantized_before_products(model, Path(folder), per_channel=True).read_bytes()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| network | MACs | of them on the chip | cycles | predicted | MACs used | of the roofline, "
             "by layer | compiled in |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {row['network']} | {row['macs']:,} | {row['share']:.1%} | {row['cycles']:,} | "
              f"{row['predicted'] / row['cycles'] - 1:+.2%} | {row['utilization']:.1%} | "
              f"{row['roofline_fraction']:.1%} | {row['compile_s']} s |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    rows, wide = list[dict[str, Any]](), list[dict[str, Any]]()
    for row in measure(NETWORKS):
        print(row, flush=True)
        rows.append(row)
    for form, what in ((False, ""), (True, ", quantized before products")):
        for row in measure(WIDE, "wide", before_products=form):
            wide.append(row | {"network": row["network"] + what})
            print(wide[-1], flush=True)
    RESULTS.write_text(json.dumps({"config": CONFIG, "networks": rows, "wide": wide}, indent=1) + "\n",
                       encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    tables = f"{table(rows)}\n\nOn `wide`:\n\n{table(wide)}"
    PAGE.write_text(f"{before}{START}\n\n{tables}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
