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
from typing import Any

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
from kiwicha_host.language.model import LlamaConfig
from kiwicha_host.models import DIGITS_CONV, DIGITS_MLP
from tb.chip.programs import random_job

from .decoder import step_program

__all__ = ["CONFIGS", "LATENCIES", "Case", "cases", "chip", "compare", "predicted", "unit_cases"]

#: Configurations, some with another bus width behind a colon.
CONFIGS = ("tiny", "tiny:128", "small", "ulx3s_85f", "ulx3s_85f:64", "wide")
LATENCIES = (10, 30, 100)
MOST_MEAN, MOST_WORST = 0.01, 0.03
_SHAPES = ((1, 1, 1), (1, 64, 64), (1, 512, 512), (64, 1, 64), (3, 5, 7), (33, 65, 127), (100, 10, 300))
#: A layer of a language model, and the number of its program.
_MODEL = LlamaConfig(layers=1, width=192, heads=3, kv_heads=1, head_size=64, ffn=512, vocabulary=1000, context=64,
                     tied_head=True)
_DECODER = 25
_CUBES = {"tiny": (64, 128), "small": (64, 128), "ulx3s_85f": (64, 128, 256, 512), "wide": (64, 128, 256)}


def chip(name: str) -> ChipConfig:
    """A configuration by its name, or ``name:bus_width``, or ``name+functions+indices+top_k+block_scales`` or some
    of these."""
    base, *switches = name.split("+")
    if switches:
        on: dict[str, Any] = dict.fromkeys(switches, True)
        return dataclasses.replace(ChipConfig.preset(base), name=name.replace("+", "_"), **on)
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


def _gemm(config: ChipConfig, spec: GemmSpec, latency: int) -> Job:
    """The job of a GEMM; its operands are zeros, for cycles do not depend on them."""
    compiled = compile_gemm(config, spec, memory_latency=latency)
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


def cases(name: str, count: int, seed: int, latency: int) -> Iterator[Case]:
    """About `count` random programs, GEMMs and networks for the chip `name` and its memory, always the same."""
    config, rng = chip(name), random.Random(f"{seed}/{latency}/{name}")
    for number in range(count):
        choice = number % 10
        if choice < 4:
            yield Case("random", f"{number}", _random_job(config, rng, rng.choice((5, 20, 40, 80))))
            continue
        if choice == 9 and number < 30:
            yield _network(config, 1 + number // 10, DIGITS_CONV if number % 20 == 9 else DIGITS_MLP, latency)
            continue
        if number == _DECODER and config.functions:
            yield _decoder(config)
            continue
        fixed = number % 3 == 0
        cubes = [(size,) * 3 for size in _CUBES[name.partition(":")[0]]]
        shape = rng.choice([*_SHAPES, *cubes]) if fixed else _shape(rng)
        spec = _random_spec(config, rng, shape)
        try:
            yield Case("GEMM, scaled" if spec.block else "GEMM, integer", f"{spec}", _gemm(config, spec, latency))
        except CompileError:
            continue


def _random_job(config: ChipConfig, rng: random.Random, instructions: int) -> Job:
    return random_job(config, rng, instructions)


def _network(config: ChipConfig, images: int, model: Path, latency: int) -> Case:
    network = compile_onnx(config, model, memory_latency=latency)
    inputs = np.zeros((images, *network.graph.inputs[0].shape), np.float32)
    return Case("network", f"{model.stem} {images}", network.batch_job(inputs))


def _decoder(config: ChipConfig) -> Case:
    """Two tokens of a language model, whose weights are zeros."""
    template, address = step_program(config, _MODEL, 2, 40)
    memory = np.zeros(address + template.code.size, np.uint8)
    memory[address:] = template.code.reshape(-1)
    return Case("language model", "2 tokens", Job(memory, address, len(template.code)))


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


def _function_programs(result: dict) -> dict[str, list[tuple[Unit, dict]]]:
    """The same of what only a chip with functions does."""
    words = result | {"a_source": 2, "a_stride2": 4, "b_use": 1, "b_source": 1, "b_line": 512, "b_stride2": 4}
    row = result | {"a_source": 1, "row": 1, "count2": 6, "count3": 5, "a_stride3": 6}
    function = result | {"a_source": 2, "out_format": 2, "float": 1, "function": 1, "count2": 12}
    sums = row | {"a_source": 0, "float": 1, "reduce": 1, "out_format": 2}
    squares = words | {"b_use": 2, "row": 1, "float": 1, "reduce": 1, "out_format": 2, "function": 3, "count2": 30,
                       "count3": 2}
    itself = squares | {"b_source": 3}
    bf16 = words | {"float": 1, "out_format": 2, "a_bf16": 1, "b_bf16": 1, "count2": 40, "a_stride2": 2,
                    "b_stride2": 2}
    rescaled = words | {"b_use": 2, "float": 1, "scale_mode": 1, "out_format": 2}
    kinds = {"words": words, "BF16": bf16, "BF16 and words": bf16 | {"b_bf16": 0, "b_stride2": 4},
             "words and BF16": bf16 | {"a_bf16": 0, "a_stride2": 4},
             "BF16 alone": bf16 | {"b_use": 0, "b_bf16": 0},
             "sums of squares of BF16": squares | {"a_bf16": 1, "b_source": 3},
             "function of BF16": function | {"a_bf16": 1, "a_stride2": 2},
             "function of BF16 and BF16": bf16 | {"function": 1, "count2": 12},
             "function of words and BF16": bf16 | {"function": 1, "count2": 12, "a_bf16": 0, "a_stride2": 4},
             "function of BF16 and words": bf16 | {"function": 1, "count2": 12, "b_bf16": 0, "b_stride2": 4},
             "bytes and words": words | {"a_source": 3, "a_stride2": 1, "count2": 21},
             "window of BF16": bf16 | {"count0": 3, "count2": 12},
             "times B and a scale": rescaled,
             "row times B and a scale": rescaled | {"row": 1, "reduce": 1, "function": 3, "count3": 2}, "row": row,
             "function": function,
             "row with function": row | {"out_format": 2, "function": 2},
             "function of a window": function | {"count0": 3}, "sums of squares": squares,
             "sums of squares of A": itself, "A plus A": words | {"b_source": 3},
             **{f"sums of {count} lines": sums | {"count2": count} for count in (1, 2, 3, 5, 40)}}
    programs = {f"VECTOR, {name}": [(Unit.VECTOR, fields)] for name, fields in kinds.items()}
    return programs | {
        "VECTOR, in turn": [(Unit.VECTOR, fields) for fields in (row, row, function, words, row)],
        "VECTOR, once and twice": [(Unit.VECTOR, fields) for fields in (words, rescaled, rescaled, words)],
        "VECTOR, sums in turn": [(Unit.VECTOR, sums | {"count2": count}) for count in (9, 16, 5, 1, 17)]
        + [(Unit.VECTOR, fields) for fields in (row, sums, squares, itself, function)]}


def _top_programs(result: dict) -> dict[str, list[tuple[Unit, dict]]]:
    """The same of the largest of rows."""
    row = result | {"out_format": 2, "row": 1, "top": 3, "count2": 6, "count3": 5, "a_stride3": 6,
                    "out_line": 1024}
    words = row | {"a_source": 2, "float": 1, "a_stride2": 4}
    kinds = {f"{top} of {count} lines": row | {"top": top, "count2": count}
             for top, count in ((1, 1), (2, 1), (8, 4), (1, 40), (8, 40), (5, 17))}
    kinds |= {"1 row": row | {"count3": 1}, "words": words, "8 of words": words | {"top": 8, "count2": 30},
              "times B": words | {"b_use": 2, "b_source": 1, "b_line": 512, "b_stride2": 4},
              "times B and a scale": row | {"b_use": 2, "b_source": 1, "b_line": 512, "scale_mode": 1},
              "window": words | {"count0": 3}, "window of sums": row | {"count0": 3, "count1": 2}}
    programs = {f"VECTOR, largest, {name}": [(Unit.VECTOR, fields)] for name, fields in kinds.items()}
    shapes = ((2, 3, 1), (8, 40, 2), (1, 2, 7), (4, 9, 1), (8, 5, 3))       # results, lines, rows
    return programs | {
        "VECTOR, largest in turn": [(Unit.VECTOR, row | {"top": top, "count2": count, "count3": rows})
                                    for top, count, rows in shapes],
        "VECTOR, largest and others": [(Unit.VECTOR, fields) for fields in (
            row, row | {"top": 0}, row, result, words, row | {"top": 0, "function": 1}, words)]}


def _index_programs(transfer: dict) -> dict[str, list[tuple[Unit, dict]]]:
    """Of what only a chip with indices does; all indices are 0."""
    programs = {}
    for unit in (Unit.LOAD, Unit.STORE):
        for bound in (1, 1000, (1 << 32) - 1):
            fields = transfer | {"indexed": 1, "index_line": 1800, "index_stride": 64, "index_bound": bound}
            programs[f"{unit.name}, index below {bound}"] = [(unit, fields)]
            programs[f"{unit.name} x 9, index below {bound}"] = [(unit, fields)] * 9
        programs[f"{unit.name}, index, in turn"] = [(unit, transfer if i % 2 else fields) for i in range(8)]
    return programs


def _scale_programs(product: dict, bank: int) -> dict[str, list[tuple[Unit, dict]]]:
    """Of block-scaled products: A's scales, A and weights in the same bank of `bank` lines, or not."""
    scaled = product | {"scaled": 1, "block_tiles": 2, "count2": 8, "a_stride2": 1, "w_stride2": 8,
                        "w_scale_line": 7, "w_scale_stride2": 1, "a_scale_stride2": 16}
    banks = {"one bank": (0, 0, 0), "scales beside A": (0, 0, 1), "scales beside weights": (0, 1, 1),
             "three banks": (0, 1, 2)}
    return {f"MATMUL, scaled, {name}, {vectors} of {lines} lines": [(Unit.MATMUL, scaled | {
                "count0": lines, "count1": vectors // lines, "a_line": a * bank, "a_scale_line": scale * bank + 64,
                "w_line": w * bank + 200})] * 2
            for name, (a, scale, w) in banks.items() for vectors, lines in ((1, 1), (3, 3), (40, 40), (12, 2))}


def unit_programs(config: ChipConfig) -> dict[str, list[tuple[Unit, dict]]]:
    """Programs of one or a few instructions, which show each constant of the model alone."""
    transfer = {"address": 65536, "row_bytes": 64, "rows": 1, "planes": 1, "segment_bytes": config.line_bytes,
                "segment_line_stride": 1}
    product = {"count0": 8, "count1": 1, "count2": 1, "count3": 1, "a_stride0": 1, "acc_stride0": 1,
               "w_line": 1500, "w_stride2": 8}
    result = {"count0": 1, "count1": 1, "count2": 8, "count3": 1, "a_stride2": 1, "out_stride2": 8,
              "out_step": 1, "out_format": 1}
    kinds = {Unit.LOAD: transfer, Unit.MATMUL: product, Unit.VECTOR: result, Unit.STORE: transfer}
    programs: dict[str, list[tuple[Unit, dict]]] = {"nothing": []}
    for unit, fields in kinds.items():
        programs[unit.name] = [(unit, fields)]
        programs[f"{unit.name} x 9"] = [(unit, fields)] * 9
    for unit in (Unit.LOAD, Unit.STORE):
        for name, change in (("long", {"row_bytes": 16384}), ("strided rows", {"rows": 30, "row_stride": 100}),
                             ("merged rows", {"rows": 9, "row_stride": 64}),
                             ("unaligned", {"address": 65537, "rows": 20, "row_stride": 61, "row_bytes": 33}),
                             ("small segments", {"row_bytes": 2048, "segment_bytes": 4})):
            programs[f"{unit.name}, {name}"] = [(unit, transfer | change)]
    # The fetch and LOAD want the bus at once, and LOAD waits for bursts in flight.
    short = transfer | {"row_bytes": 16, "row_stride": 100}
    programs["LOAD x 40, short"] = [(Unit.LOAD, short)] * 40
    programs["LOAD x 9, short rows"] = [(Unit.LOAD, short | {"rows": 3})] * 9
    programs["LOAD, fill"] = [(Unit.LOAD, transfer | {"fill_only": 1})]
    if config.indices:
        programs |= _index_programs(transfer)
    programs["MATMUL, 1 vector, 8 tiles"] = [(Unit.MATMUL, product | {"count0": 1, "count2": 8})]
    programs["MATMUL, 64 vectors, 5 tiles"] = [(Unit.MATMUL, product | {"count0": 64, "count2": 5})]
    programs["MATMUL, one bank"] = [(Unit.MATMUL, product | {"count0": 16, "count2": 5, "w_line": 64})]
    programs["VECTOR, parameters"] = [(Unit.VECTOR, result | {"bias": 1, "scale_mode": 2, "out_format": 0})]
    operands = {"a_source": 1, "load_a": 1, "load_b": 1, "b_use": 1, "b_line": 64, "b_stride2": 1, "out_format": 0}
    programs["VECTOR, operands"] = [(Unit.VECTOR, result | operands | {"count2": 100})]
    programs["VECTOR, loads tables"] = [(Unit.VECTOR, result), (Unit.VECTOR, result | operands)]
    programs["VECTOR x 5, operands"] = [(Unit.VECTOR, result | operands | {"load_a": i == 0, "load_b": i == 0})
                                        for i in range(5)]
    programs["VECTOR, window"] = [(Unit.VECTOR, result | operands | {"b_use": 0, "count0": 3, "count1": 4,
                                                                     "reduce": 1})]
    programs["VECTOR, operand B"] = [(Unit.VECTOR, result | operands | {
        "a_source": 0, "count2": 60, "load_a": 0, "load_b": 0})]
    # Both operands wait for the same weights.
    programs["VECTOR, operands in the weights' bank"] = [
        (Unit.MATMUL, product | {"count0": 1, "count2": 200, "a_line": config.bank_lines, "w_line": 8,
                                 "w_stride2": 0, "acc_stride2": 1}),
        (Unit.VECTOR, result | operands | {"count2": 2, "load_a": 0, "load_b": 0})]
    if config.block_scaled:
        programs |= _scale_programs(product, config.bank_lines)
    if config.functions:
        programs |= _function_programs(result)
    if config.top_k:
        programs |= _top_programs(result)
    programs["all four"] = [(unit, fields | {"signal": 1 << i, "wait": 1 << i >> 1 if i else 0})
                            for i, (unit, fields) in enumerate(kinds.items())]
    return programs


def unit_cases(config: ChipConfig) -> Iterator[Case]:
    """:func:`unit_programs` as jobs."""
    for name, program in unit_programs(config).items():
        code = b"".join(encode(unit, **fields) for unit, fields in program)
        memory = np.zeros(1 << 17, np.uint8)
        memory[:len(code)] = np.frombuffer(code, np.uint8)
        yield Case("unit", name, Job(memory, 0, len(program)))


def _show_units(names: tuple[str, ...]) -> None:
    for name in names:
        for latency in LATENCIES:
            off = [(case.name, model - measured)
                   for case, measured, model, _ in compare(name, latency, unit_cases(chip(name)))]
            wrong = ", ".join(f"{program} {error:+d}" for program, error in off if error)
            print(f"{name}, latency {latency}: {sum(not error for _, error in off)} of {len(off)} exact"
                  + (f"; cycles off: {wrong}" if wrong else ""), flush=True)


@click.command()
@click.option("--programs", default=500, show_default=True, help="Programs in all.")
@click.option("--config", "names", multiple=True, default=CONFIGS, show_default=True, metavar="NAME[:BUS]")
@click.option("--seed", default=1, show_default=True)
@click.option("--units", is_flag=True, help="Programs of one instruction, which show each constant's error.")
def main(programs: int, names: tuple[str, ...], seed: int, units: bool) -> None:
    """Compare predicted with simulated cycles."""
    if units:
        _show_units(names)
        return
    each = -(-programs // (len(names) * len(LATENCIES)))
    errors: defaultdict[str, list[float]] = defaultdict(list)
    worst, seconds, instructions = (0.0, ""), 0.0, 0
    for name in names:
        for latency in LATENCIES:
            for case, measured, model, took in compare(name, latency, cases(name, each, seed, latency)):
                error = abs(model - measured) / measured
                errors[case.kind].append(error)
                worst = max(worst, (error, f"{name}, latency {latency}, {case.name}: {measured} cycles, "
                                           f"predicted {model}"))
                seconds, instructions = seconds + took, instructions + case.job.program_count
            print(f"{name}, latency {latency}: done", file=sys.stderr, flush=True)
    everything = [error for kind in errors.values() for error in kind]
    print(f"seed {seed}\n| programs | number | mean error | worst |\n| --- | --- | --- | --- |")
    for kind, values in [*sorted(errors.items()), ("all", everything)]:
        print(f"| {kind} | {len(values)} | {np.mean(values):.3%} | {max(values):.2%} |")
    print(f"worst: {worst[1]}\n{1e6 * seconds / instructions:.0f} us per instruction")
    sys.exit(np.mean(everything) > MOST_MEAN or worst[0] > MOST_WORST)


if __name__ == "__main__":
    main()
