"""How a language model's speed follows array, bus and memory latency: ``python -m bench.scaling``.

By the cycle model; no weights are needed. Of SmolLM2-135M the program of a step, of DeepSeek-V3 the products of
its linear layers, E4M3 with E8M0 scales for 128 elements along K: as many products of :data:`COLUMNS` output
channels as it has, one after the other. (Sizes: SmolLM2's GGUF file; DeepSeek-V3, arXiv 2412.19437, section 4.2.)
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from kiwicha import ChipConfig
from kiwicha_host.compiler import CompileError, GemmSpec, compile_gemm
from kiwicha_host.cycles import predict
from kiwicha_host.metrics import Work, gemm_work

from .decoder import CHIPS, MODEL, take

__all__ = ["COLUMNS", "DEEPSEEK", "PAGE", "RESULTS", "Matrix", "decoder_rows", "deepseek_rows", "keep", "tables"]

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "scaling.json", HERE.parent / "docs" / "language.md"
START, END = "<!-- scaling: python -m bench.scaling -->", "<!-- end of scaling -->"

ARRAYS = {"8x8": CHIPS["wide, 8x8"], "16x16": CHIPS["wide"], "32x32": CHIPS["wide, 32x32"]}
BUSES, LATENCIES = (64, 128), (10, 30, 100)
#: (tokens at a time, position of the first).
STEPS = ((1, 31), (16, 112))
#: Tokens at a time of DeepSeek's products, and chips: array and bus.
TOKENS = (1, 8, 64)
DEEPSEEK_CHIPS = (("16x16", 64), ("16x16", 128), ("32x32", 128))
COLUMNS = 1024


class Matrix(NamedTuple):
    """Weights [N, K], and how many such there are in a dense layer and, for one token, in one with experts."""
    name: str
    n: int
    k: int
    dense: int
    experts: int


#: DeepSeek-V3's linear layers but gate and head, which are not in FP8. A token gets eight experts and a shared
#: one.
DEEPSEEK = (Matrix("queries' and latent vectors", 2112, 7168, 1, 1), Matrix("queries", 24576, 1536, 1, 1),
            Matrix("keys and values", 32768, 512, 1, 1), Matrix("output of attention", 7168, 16384, 1, 1),
            Matrix("dense, gate and up", 18432, 7168, 2, 0), Matrix("dense, down", 7168, 18432, 1, 0),
            Matrix("expert, gate and up", 2048, 7168, 0, 18), Matrix("expert, down", 7168, 2048, 0, 9))
_DENSE_LAYERS, _EXPERT_LAYERS = 3, 58


def chip(array: str, bus: int) -> ChipConfig:
    """With as many lanes as a line of the scratchpad has words for."""
    base = ARRAYS[array]
    lanes = min(base.vector_lanes, max(base.rows, base.columns, bus // 8) // 4)
    return dataclasses.replace(base, bus_width=bus, vector_lanes=lanes, name=f"scaling_{array}_{bus}")


def decoder_rows(arrays: Sequence[str] = tuple(ARRAYS), steps: Sequence[tuple[int, int]] = STEPS,
                 latencies: Sequence[int] = LATENCIES) -> Iterator[dict[str, Any]]:
    """SmolLM2's steps; cycles are None where one does not fit the chip."""
    for array in arrays:
        for bus in BUSES:
            for tokens, position in steps:
                for latency in latencies:
                    row = {"array": array, "bus": bus, "latency": latency, "tokens": tokens, "position": position}
                    try:
                        taken = take(chip(array, bus), MODEL, tokens, position, latency)
                    except CompileError:
                        yield row | {"cycles": None, "tokens_per_million_cycles": None}
                        continue
                    yield row | {"cycles": taken.cycles, "tokens_per_million_cycles": 1e6 * tokens / taken.cycles}


def deepseek_rows(chips: Sequence[tuple[str, int]] = DEEPSEEK_CHIPS, matrices: Sequence[Matrix] = DEEPSEEK,
                  tokens: Sequence[int] = TOKENS) -> Iterator[dict[str, Any]]:
    """Products of DeepSeek-V3, with memory of 30 cycles."""
    for array, bus in chips:
        config = chip(array, bus)
        for matrix in matrices:
            for m in tokens:
                cycles = _columns_cycles(config, m, matrix.k) * matrix.n / COLUMNS
                yield {"array": array, "bus": bus, "matrix": matrix.name, "n": matrix.n, "k": matrix.k,
                       "tokens": m, "cycles": round(cycles),
                       "roofline_fraction": _work(m, matrix.n, matrix.k).bound_cycles(config) / cycles}


@functools.lru_cache
def _columns_cycles(config: ChipConfig, m: int, k: int) -> int:
    spec = GemmSpec(m=m, n=COLUMNS, k=k, a_format="e4m3", b_format="e4m3", block=128, out="bf16")
    return predict(config, compile_gemm(config, spec).program).cycles


def _work(m: int, n: int, k: int) -> Work:
    return gemm_work(m, n, k, out_bits=16, scale_bytes=(m + n) * (k // 128))


# The tables.

def tables(results: dict[str, list[dict[str, Any]]]) -> str:
    """As Markdown."""
    return "\n".join([*_decoder_table(results["smollm2"]), "", *_deepseek_table(results["deepseek"]), "",
                      *_whole(results["deepseek"])])


def _decoder_table(rows: list[dict[str, Any]]) -> list[str]:
    latencies = sorted({row["latency"] for row in rows})
    lines = ["| array | bus | tokens, at position | " + " | ".join(f"latency {each}" for each in latencies) + " |",
             "|" + "---|" * (3 + len(latencies))]
    by_key: dict[tuple, dict[int, Any]] = {}
    for row in rows:
        key = row["array"], row["bus"], row["tokens"], row["position"]
        by_key.setdefault(key, {})[row["latency"]] = row["tokens_per_million_cycles"]
    for (array, bus, tokens, position), rates in by_key.items():
        shown = ["does not fit" if rates[each] is None else f"{rates[each]:.3f}" for each in latencies]
        lines.append(f"| {array} | {bus} | {tokens}, at {position} | " + " | ".join(shown) + " |")
    return lines


def _deepseek_table(rows: list[dict[str, Any]]) -> list[str]:
    chips = list(dict.fromkeys((row["array"], row["bus"]) for row in rows))
    lines = ["| weights | N x K | tokens | " + " | ".join(f"{array}, {bus} bits" for array, bus in chips) + " |",
             "|" + "---|" * (3 + len(chips))]
    by_key: dict[tuple, list[str]] = {}
    for row in rows:
        key = row["matrix"], row["n"], row["k"], row["tokens"]
        by_key.setdefault(key, []).append(f"{row['cycles'] / 1e6:.2f} ({row['roofline_fraction']:.2f})")
    return lines + [f"| {name} | {n} x {k} | {tokens} | " + " | ".join(cells) + " |"
                    for (name, n, k, tokens), cells in by_key.items()]


def _whole(rows: list[dict[str, Any]]) -> list[str]:
    """One token through all layers, by chip."""
    lines = ["| one token | million cycles a dense layer | a layer with experts | all 61 layers | "
             "tokens per billion cycles |", "|" + "---|" * 5]
    for array, bus in dict.fromkeys((row["array"], row["bus"]) for row in rows):
        cycles = {row["matrix"]: row["cycles"] for row in rows
                  if (row["array"], row["bus"], row["tokens"]) == (array, bus, 1)}
        dense, experts = (sum(cycles[matrix.name] * getattr(matrix, kind) for matrix in DEEPSEEK)
                          for kind in ("dense", "experts"))
        whole = _DENSE_LAYERS * dense + _EXPERT_LAYERS * experts
        lines.append(f"| {array}, {bus} bits | {dense / 1e6:.1f} | {experts / 1e6:.1f} | {whole / 1e6:,.0f} | "
                     f"{1e9 / whole:.3f} |")
    return lines


def keep(results: dict[str, list[dict[str, Any]]], page: Path = PAGE, path: Path = RESULTS) -> None:
    """Write the results, and the tables into `page`."""
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise SystemExit(f"{page} lacks the line {START if not start else END}; put it where the tables belong")
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page.write_text(f"{before}{START}\n\n{tables(results)}\n\n{END}{after}", encoding="utf-8")


@click.command()
@click.option("--keep", "kept", is_flag=True, help="Write it to bench/results/scaling.json and docs/language.md.")
def main(kept: bool) -> None:
    """Predict SmolLM2's steps and DeepSeek-V3's products on several chips."""
    results: dict[str, list[dict[str, Any]]] = {"smollm2": [], "deepseek": []}
    for name, rows in (("smollm2", decoder_rows()), ("deepseek", deepseek_rows())):
        for row in rows:
            results[name].append(row)
            click.echo(", ".join(f"{key} {value}" for key, value in row.items()), err=True)
    click.echo(tables(results))
    if kept:
        keep(results)


if __name__ == "__main__":
    main()
