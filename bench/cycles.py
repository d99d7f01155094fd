"""The cycle model against the compiled chip: ``python -m bench.cycles`` (``--units`` for its constants).

Fails if the mean error is above 1 % or one program's above 3 %.
"""

import dataclasses
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, Unit
from kiwicha_host.assembler import encode
from kiwicha_host.compiler import CompileError, GemmSpec, compile_gemm
from kiwicha_host.compiler.network import compile_onnx
from kiwicha_host.cycles import predict
from kiwicha_host.devices.verilated import VerilatedDevice
from kiwicha_host.job import Job
from kiwicha_host.models import DIGITS_CONV, DIGITS_MLP
from programs import random_job

__all__ = ["CONFIGS", "LATENCIES", "Case", "cases", "chip", "compare", "predicted"]

#: Configurations, some with another bus width behind a colon.
CONFIGS = ("tiny", "tiny:128", "small", "ulx3s_85f", "ulx3s_85f:64", "wide")
LATENCIES = (10, 30, 100)
MOST_MEAN, MOST_WORST = 0.01, 0.03
_SHAPES = ((1, 1, 1), (1, 64, 64), (1, 512, 512), (64, 1, 64), (3, 5, 7), (33, 65, 127), (100, 10, 300))
_CUBES = {"tiny": (64, 128), "small": (64, 128), "ulx3s_85f": (64, 128, 256, 512), "wide": (64, 128, 256)}


def chip(name: str) -> ChipConfig:
    """A configuration by its name, or ``name:bus_width``."""
    base, _, width = name.partition(":")
    config = ChipConfig.preset(base)
    return dataclasses.replace(config, bus_width=int(width), name=f"{base}_b{width}") if width else config


@dataclass(frozen=True)
class Case:
    """One job, and which kind it is of."""
    kind: str
    name: str
    job: Job


def predicted(config: ChipConfig, job: Job, latency: int) -> int:
    """Cycles that the model says."""
    start = job.program_address - job.base
    code = job.memory[start:start + job.program_count * INSTRUCTION_BYTES].tobytes()
    return predict(config, code, latency=latency, address=job.program_address).cycles


def _gemm(config: ChipConfig, spec: GemmSpec) -> Job:
    """The job of a GEMM; its operands are zeros, for cycles do not depend on them."""
    compiled = compile_gemm(config, spec)
    memory = np.zeros(compiled.memory_bytes, np.uint8)
    where = compiled._program
    memory[where.base:where.base + len(compiled.program)] = np.frombuffer(compiled.program, np.uint8)
    return Job(memory, where.base, compiled.instructions)


def _random_spec(config: ChipConfig, rng: random.Random, shape: tuple[int, int, int]) -> GemmSpec:
    m, n, k = shape
    if config.block_scaled and rng.random() < 0.6:
        blocks = [block for block in (16, 32, 64, 128) if block >= config.rows]
        out = rng.choice(("fp32", "bf16", "e4m3"))
        return GemmSpec(m=m, n=n, k=k, a_format=rng.choice(config.formats), b_format=rng.choice(config.formats),
                        block=rng.choice(blocks), out=out, out_block=32 if out == "e4m3" else 0)
    out = rng.choice(("int32", "int8", "fp32"))
    return GemmSpec(m=m, n=n, k=k, b_format=rng.choice(("int8", "int4")), out=out, bias=rng.random() < 0.5,
                    scale=None if out == "int32" else rng.choice((0.5, "column")))


def _shape(rng: random.Random) -> tuple[int, int, int]:
    m, n, k = (int(2 ** rng.uniform(0, 7.5)) for _ in range(3))
    return (1 if rng.random() < 0.15 else m), n, k


def cases(name: str, count: int, seed: int) -> Iterator[Case]:
    """About `count` random programs, GEMMs and networks for the chip `name`, always the same."""
    config, rng = chip(name), random.Random(f"{seed}/{name}")
    for number in range(count):
        choice = number % 10
        if choice < 4:
            yield Case("random", f"{number}", random_job(config, rng, rng.choice((5, 20, 40, 80))))
            continue
        if choice == 9 and number < 30:
            yield _network(config, 1 + number // 10, DIGITS_CONV if number % 20 == 9 else DIGITS_MLP)
            continue
        fixed = number % 3 == 0
        cubes = [(size,) * 3 for size in _CUBES[name.partition(":")[0]]]
        shape = rng.choice([*_SHAPES, *cubes]) if fixed else _shape(rng)
        spec = _random_spec(config, rng, shape)
        try:
            yield Case("GEMM, scaled" if spec.block else "GEMM, integer", f"{spec}", _gemm(config, spec))
        except CompileError:
            continue


def _network(config: ChipConfig, images: int, model: Path) -> Case:
    network = compile_onnx(config, model)
    inputs = np.zeros((images, *network.graph.input_shape), np.float32)
    return Case("network", f"{model.stem} {images}", network.batch_job(inputs))


def compare(name: str, latency: int, items: Iterator[Case]) -> Iterator[tuple[Case, int, int, float]]:
    """Each case with the chip's cycles, the model's, and the seconds that the model took."""
    config = chip(name)
    with VerilatedDevice(config, latency=latency) as device:
        for case in items:
            began = time.perf_counter()
            model = predicted(config, case.job, latency)
            took = time.perf_counter() - began
            measured = device.run(case.job).cycles
            assert measured is not None
            yield case, measured, model, took


if __name__ == "__main__":
    pass
