"""The accumulators that bench/accuracy.py compares, by hand; and that its kept figures are what it measures."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from bench import accuracy


def dot(run, x, y, *options):
    a, b = (np.array(item, ml_dtypes.float8_e4m3fn) for item in (x, y))
    return float(run(a[None], b[:, None], *options)[0, 0])


def test_what_is_cut_off():
    """One product of 2^13 and 31 a little below 1, which is the last bit kept."""
    x, y = [128] + [.9375] * 31, [64] + [1] * 31
    assert dot(accuracy.tensor_core, x, y, None) == 2 ** 13
    assert dot(accuracy.tensor_core, x, [64] + [-1] * 31, None) == 2 ** 13
    assert dot(accuracy.tensor_core, [128] + [1] * 31, y, None) == 2 ** 13 + 31
    assert dot(accuracy.on_chip, x, y) == dot(accuracy.in_fp32, x, y) == 2 ** 13 + 31 * .9375


def test_what_promotion_saves():
    """The accumulator of 2^13 meets later products only without promotion."""
    x, y = [128] + [0] * 127 + [.9375] * 32, [64] * 128 + [1] * 32
    assert dot(accuracy.tensor_core, x, y, None) == 2 ** 13
    assert dot(accuracy.tensor_core, x, y, 128) == 2 ** 13 + 30


def test_kept_figures():
    path = Path(accuracy.__file__).parent / "results" / "accuracy.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    again = accuracy.measure((32, 256))
    places = [results["k"].index(k) for k in again["k"]]
    for name, errors in again["errors"].items():
        for method, values in errors.items():
            assert values == [results["errors"][name][method][place] for place in places]
