"""The bench of scaling: its rows on few chips, its tables, and that the page shows the kept ones."""

import dataclasses
import json

import pytest

from bench import decoder, scaling
from bench.scaling import DEEPSEEK, PAGE, RESULTS, Matrix, decoder_rows, deepseek_rows, keep, tables
from kiwicha_host.language.model import LlamaConfig

TINY = LlamaConfig(layers=3, width=64, heads=4, kv_heads=2, head_size=16, ffn=96, vocabulary=100, context=200,
                   tied_head=True)


def test_the_page_shows_the_kept_results():
    assert tables(json.loads(RESULTS.read_text(encoding="utf-8"))) in PAGE.read_text(encoding="utf-8")


def test_a_step_on_several_chips(monkeypatch):
    monkeypatch.setattr(scaling, "MODEL", TINY)
    rows = list(decoder_rows(["16x16"], [(1, 9)], (10, 100)))
    assert [(row["bus"], row["latency"]) for row in rows] == [(64, 10), (64, 100), (128, 10), (128, 100)]
    narrow, late, wide, _ = (row["cycles"] for row in rows)
    assert narrow < late and wide < narrow
    assert wide == decoder.take(scaling.chip("16x16", 128), TINY, 1, 9, 10).cycles
    assert rows[0]["tokens_per_million_cycles"] == 1e6 / narrow


def test_what_does_not_fit_has_no_cycles(monkeypatch):
    monkeypatch.setattr(scaling, "MODEL", dataclasses.replace(TINY, ffn=1 << 18))
    assert {row["cycles"] for row in decoder_rows(["8x8"], [(1, 9)], (30,))} == {None}


def test_products(monkeypatch):
    monkeypatch.setattr(scaling, "COLUMNS", 64)
    scaling._columns_cycles.cache_clear()
    matrix = Matrix("some", 256, 128, 1, 1)
    [one, many] = deepseek_rows([("16x16", 128)], [matrix], (1, 64))
    scaling._columns_cycles.cache_clear()
    assert one["cycles"] < many["cycles"] and 0 < one["roofline_fraction"] < many["roofline_fraction"] < 1
    assert many["cycles"] >= 256 * 128 * 64 / 256


def test_the_weights_that_a_token_needs():
    """Of 671 billion in all, 37 are active; head, embedding and gates are not among these here."""
    layers = sum(matrix.n * matrix.k * (3 * matrix.dense + 58 * matrix.experts) for matrix in DEEPSEEK)
    assert layers / 1e9 == pytest.approx(37 - 2 * 129280 * 7168 / 1e9, rel=0.02)


def test_kept(tmp_path):
    results = {"smollm2": [{"array": "16x16", "bus": 64, "latency": latency, "tokens": 1, "position": 31,
                            "cycles": cycles, "tokens_per_million_cycles": cycles and 1e6 / cycles}
                           for latency, cycles in ((10, 2000000), (30, None))],
               "deepseek": [{"array": "16x16", "bus": 128, "matrix": matrix.name, "n": matrix.n, "k": matrix.k,
                             "tokens": 1, "cycles": 1_000_000, "roofline_fraction": 0.5} for matrix in DEEPSEEK]}
    page, path = tmp_path / "page.md", tmp_path / "scaling.json"
    page.write_text(f"before\n{scaling.START}\nold\n{scaling.END}\nafter\n", encoding="utf-8")
    keep(results, page, path)
    assert json.loads(path.read_text(encoding="utf-8")) == results
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| 16x16 | 64 | 1, at 31 | 0.500 | does not fit |" in text
    assert "| expert, down | 7168 x 2048 | 1 | 1.00 (0.50) |" in text
    # 4 + 3 million cycles a dense layer, 4 + 27 one with experts.
    assert "| 16x16, 128 bits | 7.0 | 31.0 | 1,819 | 0.550 |" in text
    page.write_text("no place", encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks the line"):
        keep(results, page, path)
