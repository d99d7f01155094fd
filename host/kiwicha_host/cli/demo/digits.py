"""Handwritten digits: two networks that run on the chip from end to end, and one that needs the host too."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.text import Text

from kiwicha import ChipConfig

from ... import models
from ...compiler.network import CompiledNetwork, compile_onnx
from ...devices import Device, open_device
from ...job import Result
from ...model import Model, load_model
from ...models import reference
from ..time_line import time_line
from .batches import progress, run_in_batches
from .checks import check, in_onnxruntime
from .figures import shaded, show_placement, show_run

__all__ = ["show_network", "show_residual", "show_time"]

BATCH = 100
#: Images that the time line shows: few enough to see the layers.
DRAWN = 4


def show_network(console: Console, device: Device, file: Path, count: int) -> None:
    """Classify the test images, check each logit, and show how."""
    network = compile_onnx(device.config, file, memory_latency=device.memory_latency)
    images, labels = (item[:count] for item in models.digits_test())
    console.print(f"\n[bold]{file.name}[/]: {count} handwritten digits, {network.macs(1):,} "
                  "multiply-accumulates each")
    codes, logits, result = _classify(console, device, network, images)
    got = {"codes": codes, "logits": logits}
    checks = [check(name, compute(), got) for name, compute in _references(file, network, device, images)]
    if file == models.DIGITS_CONV:
        _show_digit(console, images[0, 0], logits[0], int(labels[0]))
    right = int((logits.argmax(1) == labels).sum())
    console.print(f"  {right} of {count} right ({right / count:.1%}); "
                  f"every logit equals that of {', '.join(checks[:-1])} and {checks[-1]}")
    show_run(console, device.config, result, network.macs(count), count, "image")


def _classify(console: Console, device: Device, network: CompiledNetwork,
              images: np.ndarray) -> tuple[np.ndarray, np.ndarray, Result]:
    """Codes and logits of all images, in batches, and how long the chip took."""
    part = network.images_per_job(min(BATCH, len(images)), device.memory_limit)
    codes, logits, total = [], [], None
    with progress(console) as bar:
        task = bar.add_task("images", total=len(images))
        for first in range(0, len(images), part):
            job = network.batch_job(images[first:first + part])
            result = device.run(job)
            total = result if total is None else total + result
            codes.append(network.codes(job))
            logits.append(network.outputs(job))
            bar.update(task, advance=job.images)
    assert total is not None
    return np.concatenate(codes), np.concatenate(logits), total


def _references(file: Path, network: CompiledNetwork, device: Device,
                images: np.ndarray) -> Iterable[tuple[str, Callable[[], dict[str, np.ndarray]]]]:
    """Other ways to the same numbers: values by tensor name, "codes" before and "logits" after scaling."""
    model = onnx.load(file)
    before = model.graph.node[-1].input[0]

    def on_golden() -> dict[str, np.ndarray]:
        with open_device("golden", device.config) as golden:
            job = network.batch_job(images)
            golden.run(job)
        return {"codes": network.codes(job), "logits": network.outputs(job)}

    def in_numpy() -> dict[str, np.ndarray]:
        values = reference.run(model, images)
        return {"codes": values[before], "logits": values["logits"]}

    def by_onnxruntime() -> dict[str, np.ndarray]:
        model.graph.output.append(onnx.helper.make_tensor_value_info(before, onnx.TensorProto.INT8, None))
        values = in_onnxruntime(model.SerializeToString(), {model.graph.input[0].name: images}, signed=True)
        return {"codes": values[before], "logits": values["logits"]}

    yield "the golden machine", on_golden
    yield "numpy", in_numpy
    yield "ONNX Runtime", by_onnxruntime


def _show_digit(console: Console, image: np.ndarray, logits: np.ndarray, label: int) -> None:
    """One image beside what the chip says of it."""
    best = int(logits.argmax())
    low, high = float(logits.min()), float(logits.max())
    for row in range(max(len(image), len(logits))):
        pixels = shaded(image[row], 2) if row < len(image) else " " * 2 * len(image[0])
        bar = "#" * round(20 * (float(logits[row]) - low) / max(high - low, 1e-9))
        said = f"  <- the chip's answer; it is a {label}" if row == best else ""
        console.print(Text(f"    {pixels}    {row} {logits[row]:8.3f} {bar:20}{said}",
                           style="bold" if row == best else ""))


def show_time(console: Console, config: ChipConfig, file: Path) -> None:
    """What each unit did when, in a small batch."""
    job = compile_onnx(config, file).batch_job(models.digits_test()[0][:DRAWN])
    with open_device("verilated", config, trace=True) as device:
        trace = device.run(job).trace
    assert trace is not None
    console.print(f"  {DRAWN} images in {trace.cycles:,} cycles, from left to right:")
    for line in time_line(trace):
        console.print(line)


def show_residual(console: Console, device: Device, count: int) -> None:
    """Classify the test images with the residual network, and show which operators ran where."""
    file = models.DIGITS_RESIDUAL
    model = load_model(file, device=device)
    images, labels = (item[:count] for item in models.digits_test())
    per_image = sum(row.macs for row in model.placement)
    console.print(f"\n[bold]{file.name}[/]: residual blocks, quantized by ONNX Runtime; "
                  f"{per_image:,} multiply-accumulates each")
    run = run_in_batches(console, model, {"image": images}, BATCH, "images")
    check("ONNX Runtime", in_onnxruntime(file.read_bytes(), {"image": images}), run.outputs)
    with open_device("golden", device.config) as golden:
        expected = Model(model.compiled, golden).run({"image": images[:BATCH]})
    check("the golden machine", expected, {name: values[:BATCH] for name, values in run.outputs.items()})
    right = int((run.outputs["logits"].argmax(1) == labels).sum())
    golden_too = "and" if count <= BATCH else f"and for the first {BATCH} images"
    console.print(f"  {right} of {count} right ({right / count:.1%}); every logit equals that of ONNX Runtime "
                  f"{golden_too} that of the golden machine")
    show_placement(console, model, run)
    show_run(console, device.config, run.result, run.macs, count, "image")
