"""What ``make sim`` shows: a network and some matrix products on the chip, each result checked.

``python -m kiwicha_host.cli.demo [--device NAME] [--config NAME|FILE.toml] [--images N]``
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kiwicha import ChipConfig

from .. import models
from ..compiler.network import CompiledNetwork, compile_onnx
from ..devices import Device, open_device
from ..job import Result
from ..models import reference
from .time_line import time_line

__all__ = ["Mismatch", "main"]

GEMMS = ((1, 1, 1), (3, 5, 7), (64, 64, 64), (512, 512, 512))
BATCH = 100
SHADES = " .:-=+*#%@"
#: Images that the time line shows: few enough to see the layers.
DRAWN = 4


class Mismatch(Exception):
    """The chip and a reference differ; the message says where."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kiwicha_host.cli.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="verilated", help="golden, verilated or serial:PORT")
    parser.add_argument("--config", default="ulx3s_85f", help="a preset's name or a .toml file")
    parser.add_argument("--images", type=int, default=500, help="how many test images, 1 to 500")
    options = parser.parse_args(arguments)
    if not 1 <= options.images <= 500:
        parser.error(f"--images must be from 1 to 500, not {options.images}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        config = ChipConfig.load(options.config)
        with console.status(f"Building the chip {config.name!r} for device {options.device!r} ..."):
            device = open_device(options.device, config)
        with device:
            _show_chip(console, device)
            for file in (models.DIGITS_CONV, models.DIGITS_MLP):
                _network(console, device, file, options.images)
                if file == models.DIGITS_CONV and device.name == "verilated":
                    _show_time(console, config, file)
            _gemms(console, device)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"demo: {str(error).strip() or type(error).__name__}".splitlines()[0], file=sys.stderr)
        return 1
    console.print("[bold green]Every result is right, bit for bit.[/]")
    return 0


def _show_chip(console: Console, device: Device) -> None:
    config = device.config
    console.print(f"[bold]Kiwicha[/] {config.name}: {config.rows}x{config.columns} int8 array, "
                  f"{config.peak_macs_per_cycle} multiply-accumulates per cycle, "
                  f"{config.scratchpad_bytes // 1024} KiB scratchpad, {config.bus_width}-bit memory bus; "
                  f"device {device.name}")


# Networks.

def _network(console: Console, device: Device, file: Path, count: int) -> None:
    """Classify the test images, check each logit, and show how."""
    network = compile_onnx(device.config, file, memory_latency=device.memory_latency)
    images, labels = (item[:count] for item in models.digits_test())
    console.print(f"\n[bold]{file.name}[/]: {count} handwritten digits, {network.macs(1):,} "
                  "multiply-accumulates each")
    codes, logits, result = _classify(console, device, network, images)
    got = {"codes": codes, "logits": logits}
    checks = [_check(name, compute(), got) for name, compute in _references(file, network, device, images)]
    if file == models.DIGITS_CONV:
        _show_digit(console, images[0, 0], logits[0], int(labels[0]))
    right = int((logits.argmax(1) == labels).sum())
    console.print(f"  {right} of {count} right ({right / count:.1%}); "
                  f"every logit equals that of {', '.join(checks[:-1])} and {checks[-1]}")
    _show_run(console, device.config, result, network.macs(count), f"{count} images", count)


def _classify(console: Console, device: Device, network: CompiledNetwork,
              images: np.ndarray) -> tuple[np.ndarray, np.ndarray, Result]:
    """Codes and logits of all images, in batches, and how long the chip took."""
    part = network.images_per_job(min(BATCH, len(images)), device.memory_limit)
    codes, logits, total = [], [], None
    columns = TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("images", total=len(images))
        for first in range(0, len(images), part):
            job = network.batch_job(images[first:first + part])
            result = device.run(job)
            total = result if total is None else total + result
            codes.append(network.codes(job))
            logits.append(network.outputs(job))
            progress.update(task, advance=job.images)
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

    def in_onnxruntime() -> dict[str, np.ndarray]:
        import onnxruntime  # a tool of development: an installed package may lack it
        model.graph.output.append(onnx.helper.make_tensor_value_info(before, onnx.TensorProto.INT8, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                               providers=["CPUExecutionProvider"])
        logits, codes = session.run(["logits", before], {model.graph.input[0].name: images})
        return {"codes": codes, "logits": logits}

    yield "the golden machine", on_golden
    yield "numpy", in_numpy
    yield "ONNX Runtime", in_onnxruntime


def _check(name: str, expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> str:
    for what, values in got.items():
        if expected[what].shape != values.shape:
            raise Mismatch(f"{what} have shape {list(values.shape)}, those of {name} {list(expected[what].shape)}")
        wrong = np.argwhere(expected[what] != values)
        if len(wrong):
            where = tuple(int(i) for i in wrong[0])
            raise Mismatch(f"{len(wrong)} of {values.size} {what} differ from {name}, the first at {list(where)}: "
                           f"{values[where]}, not {expected[what][where]}")
    return name


def _show_digit(console: Console, image: np.ndarray, logits: np.ndarray, label: int) -> None:
    """One image beside what the chip says of it."""
    best = int(logits.argmax())
    low, high = float(logits.min()), float(logits.max())
    for row in range(max(len(image), len(logits))):
        pixels = "".join(2 * SHADES[round(float(pixel) * (len(SHADES) - 1))] for pixel in image[row]) \
            if row < len(image) else " " * 2 * len(image[0])
        bar = "#" * round(20 * (float(logits[row]) - low) / max(high - low, 1e-9))
        said = f"  <- the chip's answer; it is a {label}" if row == best else ""
        console.print(Text(f"    {pixels}    {row} {logits[row]:8.3f} {bar:20}{said}",
                           style="bold" if row == best else ""))


def _show_time(console: Console, config: ChipConfig, file: Path) -> None:
    """What each unit did when, in a small batch."""
    job = compile_onnx(config, file).batch_job(models.digits_test()[0][:DRAWN])
    with open_device("verilated", config, trace=True) as device:
        trace = device.run(job).trace
    assert trace is not None
    console.print(f"  {DRAWN} images in {trace.cycles:,} cycles, from left to right:")
    for line in time_line(trace):
        console.print(line)


# Matrix products.

def _gemms(console: Console, device: Device) -> None:
    console.print("\n[bold]Matrix products[/], int8 x int8 to int32, each against numpy")
    rng = np.random.default_rng(1)
    table = Table("M x N x K", "result", "cycles", "utilization", "simulated cycles/s")
    for m, n, k in GEMMS:
        a, b = (rng.integers(-128, 128, shape, np.int8) for shape in ((m, k), (k, n)))
        c = device.gemm(a, b)
        # float64 holds every sum of these exactly, and is much faster in numpy.
        _check("numpy", {"sums": (a.astype(np.float64) @ b).astype(np.int64)}, {"sums": c})
        result = device.last_result
        assert result is not None
        table.add_row(f"{m} x {n} x {k}", "exact", *_figures(device.config, result, m * n * k))
    console.print(table)


# How it went.

def _figures(config: ChipConfig, result: Result, macs: int) -> tuple[str, str, str]:
    """Cycles, utilization and simulation speed, or dashes where the device has no clock."""
    if not result.cycles:
        return "-", "-", "-"
    speed = result.simulated_cycles_per_second
    return (f"{result.cycles:,}", f"{macs / (config.peak_macs_per_cycle * result.cycles):.1%}",
            f"{speed:,.0f}" if speed else "-")


def _show_run(console: Console, config: ChipConfig, result: Result, macs: int, what: str, count: int) -> None:
    if not result.cycles:
        console.print(f"  {what} in {result.wall_s:.2f} s; this device has no clock")
        return
    cycles, utilization, speed = _figures(config, result, macs)
    console.print(f"  {cycles} cycles, {result.cycles / count:,.0f} per image; utilization {utilization}; "
                  f"{speed} simulated cycles per second")


if __name__ == "__main__":
    sys.exit(main())
