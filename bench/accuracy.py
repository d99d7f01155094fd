"""Accuracy of E4M3 dot products against K, as docs/figures/accuracy.svg: ``python -m bench.accuracy``

All see the same elements, whose scales are 1, so the error is that of the addition alone:

- this chip: blocks of 128 summed exactly, blocks added in FP32;
- FP32: products added one after the other;
- a tensor core as DeepSeek-V3 (arXiv 2412.19437, section 3.5.2) found the H800's: 32 products and the accumulator
  are aligned to the largest of their exponents, 14 bits of each are kept and the rest is cut off; either for all
  of K, or with its sums added up in FP32 every 128 elements, which is that paper's remedy.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kiwicha_host.golden import gemm_block

__all__ = ["in_fp32", "measure", "on_chip", "tensor_core"]

HERE = Path(__file__).resolve().parent
FIGURE = HERE.parent / "docs" / "figures" / "accuracy.svg"
LENGTHS = tuple(2 ** i for i in range(5, 15))       # K, 32 to 16384
SIZE = 48                                           # M and N
KEPT = 14                                           # bits of an aligned product, the leading one included
ONE = 127                                           # E8M0 code of 1


def on_chip(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 [M, N] of E4M3 [M, K] and [K, N], by the golden model."""
    blocks = -(-a.shape[1] // 128)
    return gemm_block(a, b, np.full((len(a), blocks), ONE, np.uint8), np.full((blocks, b.shape[1]), ONE, np.uint8),
                      128)


def in_fp32(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same, products added one after the other in FP32."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    c = np.zeros((len(x), y.shape[1]), np.float32)
    for k in range(x.shape[1]):
        c += x[:, k, None] * y[k]       # a product has 8 significant bits
    return c


def tensor_core(a: np.ndarray, b: np.ndarray, promote: int | None) -> np.ndarray:
    """The same, with an accumulator of 14 bits that goes to FP32 every `promote` elements, or never."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    c, acc = np.zeros((len(x), y.shape[1]), np.float32), np.zeros((len(x), y.shape[1]))
    for k in range(0, x.shape[1], 32):
        products = x[:, k:k + 32, None] * y[None, k:k + 32]
        terms = np.concatenate([acc[:, None], products], axis=1)
        acc = _keep(_keep(terms, np.abs(terms).max(axis=1, keepdims=True)).sum(axis=1))
        if promote and (k + 32) % promote == 0:
            c, acc = c + acc.astype(np.float32), np.zeros_like(acc)
    return c + acc.astype(np.float32)


def _keep(x: np.ndarray, largest: np.ndarray | None = None) -> np.ndarray:
    """`x` cut off at 14 bits from the leading bit of `largest`, or of itself."""
    quantum = 2. ** (np.frexp(x if largest is None else largest)[1] - KEPT)
    return np.trunc(x / quantum) * quantum


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "this chip": on_chip,
    "FP32, one after the other": in_fp32,
    "14-bit tensor core, FP32 every 128": lambda a, b: tensor_core(a, b, 128),
    "14-bit tensor core": lambda a, b: tensor_core(a, b, None),
}
#: Where elements come from, before they are scaled to E4M3's range.
INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform from 0 to 1": lambda rng, shape: rng.random(shape),
}


def _elements(x: np.ndarray) -> np.ndarray:
    """`x` times a power of two that brings it just into E4M3's range."""
    return (x * 2. ** np.floor(np.log2(448 / np.abs(x).max()))).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)


def measure(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """Root mean square of the error, as a part of the exact results': per input and method, a list over K."""
    errors: dict[str, dict[str, list[float]]] = {}
    for name, make in INPUTS.items():
        errors[name] = {method: [] for method in METHODS}
        for k in lengths:
            rng = np.random.default_rng(k)
            a, b = _elements(make(rng, (SIZE, k))), _elements(make(rng, (k, SIZE)))
            # Multiples of 2^-18 below 2^32: exact in float64.
            exact = a.astype(np.float64) @ b.astype(np.float64)
            for method, run in METHODS.items():
                error = run(a, b) - exact
                errors[name][method].append(float(f"{np.sqrt((error ** 2).sum() / (exact ** 2).sum()):.3g}"))
    return {"m": SIZE, "n": SIZE, "k": list(lengths), "errors": errors}


def draw(results: dict[str, Any], target: Path = FIGURE) -> None:
    """The figure as SVG, the same bytes each time."""
    from matplotlib import pyplot

    pyplot.switch_backend("svg")
    style = {"svg.hashsalt": "kiwicha", "svg.fonttype": "none", "font.size": 10, "axes.grid": True,
             "grid.alpha": 0.3}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(1, len(results["errors"]), figsize=(9.5, 4.4), sharey=True)
        for axis, (name, errors) in zip(axes, results["errors"].items(), strict=True):
            for (method, values), mark in zip(errors.items(), "osv^", strict=True):
                axis.plot(results["k"], values, marker=mark, markersize=4, label=method)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(results["k"][::2], [str(k) for k in results["k"][::2]])
            axis.minorticks_off()
            axis.set_xlabel("K")
            axis.set_title(f"elements: {name}", fontsize=10)
        axes[0].set_ylabel("relative error (root mean square)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=9, frameon=False)
        figure.tight_layout(rect=(0, 0.06, 1, 1))
        figure.savefig(target, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def main() -> None:
    results = measure()
    (HERE / "results" / "accuracy.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results)


if __name__ == "__main__":
    main()
