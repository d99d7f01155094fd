"""The measurements. Each returns a JSON-able dict; cycles are exact and repeatable, seconds are not."""

import time
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha_host.compiler import compile_onnx
from kiwicha_host.devices import open_device
from kiwicha_host.inference import infer
from kiwicha_host.memory_latency import MEMORY_LATENCY
from kiwicha_host.metrics import figures, gemm_work
from kiwicha_host.models import DIGITS_CONV, digits_test

__all__ = ["digits", "gemms", "speed"]

LATENCY = MEMORY_LATENCY
SHAPES = ((1, 1, 1), (3, 5, 7), (64, 64, 64), (33, 65, 127), (1, 1024, 1024), (197, 768, 768), (512, 512, 512))
CONFIGS = ("small", "ulx3s_85f", "wide")


def gemms(configs: tuple[str, ...] = CONFIGS) -> dict[str, Any]:
    """INT8 GEMMs with int32 results, memory to memory: each is checked and its cycles are counted."""
    rows = []
    for name in configs:
        config = ChipConfig.preset(name)
        with open_device("verilated", config=config, latency=LATENCY) as device:
            for m, n, k in SHAPES:
                rng = np.random.default_rng(m * n * k)
                a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((m, k), (k, n)))
                result = device.gemm(a, b)
                if (result != a.astype(np.int32) @ b.astype(np.int32)).any():
                    raise SystemExit(f"{name} {m}x{n}x{k}: the result is wrong")
                row = figures("verilated", config, gemm_work(m, n, k), device.last_result)
                rows.append({"config": name, "m": m, "n": n, "k": k, **{key: row[key] for key in (
                    "cycles", "utilization", "roofline_fraction", "bound")}})
    return {"latency": LATENCY, "gemms": rows}


def digits(config: str = "ulx3s_85f") -> dict[str, Any]:
    """The digits' test split through the convolutional network: accuracy, and cycles per image."""
    images, labels = digits_test()
    network = compile_onnx(ChipConfig.preset(config), DIGITS_CONV, memory_latency=LATENCY)
    with open_device("verilated", config=config, latency=LATENCY) as device:
        logits, result = infer(device, network, images)
    right = int((logits.argmax(axis=1) == labels).sum())
    return {"config": config, "images": len(labels), "accuracy": right / len(labels), "cycles": result.cycles,
            "cycles_per_image": result.cycles / len(labels)}


def speed(config: str = "ulx3s_85f", runs: int = 5) -> dict[str, Any]:
    """Simulated cycles per CPU second with the array busy: a 512x512x512 GEMM.

    The fastest of `runs`: what else runs on the machine takes caches and clock away, and gives nothing.
    """
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 128, (512, 512), dtype=np.int8) for _ in range(2))
    with open_device("verilated", config=config, latency=LATENCY) as device:
        device.gemm(a, b)       # the compiler's time is not the simulation's
        seconds = []
        for _ in range(runs):
            began = time.process_time()
            device.gemm(a, b)
            seconds.append(time.process_time() - began)
        cycles = device.last_result.cycles
        return {"config": config, "cycles": cycles, "runs": runs, "cycles_per_cpu_second": cycles / min(seconds)}
