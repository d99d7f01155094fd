"""exp2, reciprocal and rsqrt: the golden model against float64, and the function pipe against the golden model.

``python -m bench.functions`` (part of ``make campaign``) takes all 2^32 operands of each and fails if one result
is not right: at most one unit of the last place (ulp) from the exact one, equal to it if FP32 has it, in order, of
the right sign, NaN where it should be and nowhere else; and the same bits from the compiled hardware. float64's
own error is below 2^-26 ulp: its exp2 is taken to be right to four units of its last place, and division and
square root are correctly rounded.
"""

import ctypes
import functools
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from kiwicha.functions import Function
from kiwicha.timing import FLOAT_FUNCTION
from kiwicha_host.golden import functions as golden

__all__ = ["Outcome", "check", "hardware"]

GOLDEN: dict[Function, Callable[[np.ndarray], np.ndarray]] = {
    Function.EXP2: golden.exp2, Function.RECIPROCAL: golden.reciprocal, Function.RSQRT: golden.rsqrt}
_EXACT: dict[Function, Callable[[np.ndarray], np.ndarray]] = {
    Function.EXP2: np.exp2, Function.RECIPROCAL: lambda x: 1 / x, Function.RSQRT: lambda x: 1 / np.sqrt(x)}
_NAN, _SIGN, _INFINITE = 0x7FC00000, 1 << 31, 2. ** 128
#: Operands at a time: their arrays fit into a processor's cache.
_CHUNK = 1 << 14
#: Operands of one task.
_BLOCK = 1 << 24


class Outcome(NamedTuple):
    """Of some operands: how many, the largest error in ulp, and how many results are wrong, by what is wrong."""
    operands: int
    error: float
    wrong: dict[str, int]


def check(function: Function, first: int, count: int, stride: int = 1,
          pipe: Callable[[Function, np.ndarray], np.ndarray] | None = None) -> Outcome:
    """Check the golden model, and `pipe`, on every `stride`-th of `count` operands from the bits `first` on, which
    all have one sign."""
    total, error, wrong = 0, 0., dict.fromkeys(("too far", "not exact", "out of order", "sign", "NaN", "pipe"), 0)
    for start in range(first, first + count, _CHUNK * stride):
        stop = min(start + _CHUNK * stride, first + count)
        # One operand more, to compare with in order; after the last one of a sign there is none.
        bits = np.arange(start, min(stop + stride, (start & _SIGN) + _SIGN), stride, np.int64).astype(np.uint32)
        inside = -(-(stop - start) // stride)
        results = GOLDEN[function](bits.view(np.float32)).view(np.uint32)
        chunk_error, chunk_wrong = _judge(function, bits, results, inside)
        if pipe is not None:
            chunk_wrong["pipe"] = int((pipe(function, bits[:inside]) != results[:inside]).sum())
        total, error = total + inside, max(error, chunk_error)
        for name, number in chunk_wrong.items():
            wrong[name] += number
    return Outcome(total, error, {name: number for name, number in wrong.items() if number})


def _judge(function: Function, bits: np.ndarray, results: np.ndarray, inside: int) -> tuple[float, dict[str, int]]:
    """The largest error of the first `inside` results, and what is wrong with them."""
    x = bits.view(np.float32)
    nan = np.isnan(x)
    if function == Function.RSQRT:
        nan |= x < 0
    numbers = ~nan[:inside]
    with np.errstate(all="ignore"):
        exact = _EXACT[function](np.where(nan, 1, x).astype(np.float64))[:inside]
        magnitude = np.minimum(np.abs(exact), _INFINITE)
        has_it = magnitude.astype(np.float32) == magnitude
    # What overflows is as good as the power of two above FP32.
    values = np.where(nan, 1, results.view(np.float32))[:inside]
    got = np.minimum(np.abs(values).astype(np.float64), _INFINITE)
    power = (magnitude.view(np.int64) & 0x7FF << 52).view(np.float64)
    errors = np.where(numbers, np.abs(got - magnitude) / (np.maximum(power, 2. ** -126) * 2. ** -23), 0)
    rises = function == Function.EXP2 and not bits[0] & _SIGN
    steps = np.diff((results & _SIGN - 1).astype(np.int64)) * (1 if rises else -1)
    return float(errors.max()), {
        "too far": int((errors > 1).sum()), "not exact": int((errors[has_it] > 0).sum()),
        "out of order": int(((steps < 0) & ~nan[:-1] & ~nan[1:]).sum()),
        "sign": int(((np.signbit(values) != np.signbit(exact)) & numbers).sum()),
        "NaN": int(((results == _NAN) != nan)[:inside].sum() + np.isnan(values).sum())}


def hardware(function: Function, bits: np.ndarray) -> np.ndarray:
    """What the compiled function pipe makes of operands (uint32), a new one in each cycle."""
    bits = np.ascontiguousarray(bits, np.uint32)
    results = np.empty_like(bits)
    pointers = (array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32)) for array in (bits, results))
    _library().function_pipe_run(ctypes.c_uint32(function.value), ctypes.c_uint64(len(bits)), *pointers)
    return results


@functools.cache
def _library() -> ctypes.CDLL:
    from kiwicha.arith.function_pipe import FunctionPipe
    from kiwicha.export import to_verilog
    from kiwicha_host import toolchain
    from kiwicha_host.build_cache import build_root
    from kiwicha_host.verilate import Simulation

    with toolchain.for_amaranth():
        text, _ = to_verilog(FunctionPipe(), "function_pipe")
    return ctypes.CDLL(str(Simulation(
        top="function_pipe", files={"function_pipe.v": text}, main=Path(__file__).with_name("function_pipe.cpp"),
        output="libfunction_pipe.so", flags=("-O3", "--no-timing", "-Wno-fatal", "-Wno-lint"),
        cxx_flags=("-DVL_TIME_CONTEXT",), defines=(f"-DLATENCY={FLOAT_FUNCTION}",), level="-O2",
    ).build(build_root() / "function_pipe")))


def _task(task: tuple[Function, int, int, bool]) -> Outcome:
    function, first, stride, compiled = task
    return check(function, first, _BLOCK, stride, hardware if compiled else None)


def _sum(outcomes: Iterable[Outcome]) -> Outcome:
    total, error, wrong = 0, 0., Counter[str]()
    for outcome in outcomes:
        total, error = total + outcome.operands, max(error, outcome.error)
        wrong.update(outcome.wrong)
    return Outcome(total, error, dict(wrong))


@click.command()
@click.option("--stride", default=1, show_default=True, help="Take one operand in so many.")
@click.option("--golden-only", is_flag=True, help="Leave the hardware out.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Processes.")
def main(stride: int, golden_only: bool, jobs: int) -> None:
    """Check every result of exp2, reciprocal and rsqrt."""
    from rich.progress import track

    if not golden_only:
        hardware(Function.EXP2, np.zeros(1, np.uint32))     # built once, not by each process
    failed = False
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for function in Function:
            tasks = [(function, first, stride, not golden_only) for first in range(0, 1 << 32, _BLOCK)]
            outcome = _sum(track(pool.imap_unordered(_task, tasks), function.name, len(tasks)))
            failed |= bool(outcome.wrong)
            wrong = ", ".join(f"{number} {name}" for name, number in outcome.wrong.items()) or "none"
            print(f"{function.name}: {outcome.operands:,} operands, largest error {outcome.error:.4f} ulp, "
                  f"wrong: {wrong}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
