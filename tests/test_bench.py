"""The roofline benchmark: its formulas, its baseline, and its smallest entries on the chip."""

import json

import pytest

from bench import rates, transformer
from bench.__main__ import README, tables
from bench.problems import CONVOLUTIONS, GEMMS, Convolution, Gemm
from bench.roofline import (
    BASELINE,
    PLAN,
    RESULTS,
    Run,
    geometric_mean,
    measure,
    os_cycles,
    regressions,
    runs,
    update_results,
    ws_cycles,
)
from kiwicha import ChipConfig
from kiwicha_host import open_device


def test_the_readme_shows_the_kept_results():
    results = {name: json.loads(RESULTS.with_name(f"{name}.json").read_text(encoding="utf-8"))
               for name in ("gemms", "digits", "speed", "synth")}
    assert tables(results) in README.read_text(encoding="utf-8")


def test_scale_sims_formulas():
    """One fold, and several, counted by hand: 2 R + C + M - 2 cycles a fold, and R + C + K - 2."""
    assert ws_cycles(4, 4, m=10, n=4, k=4) == 2 * 4 + 4 + 10 - 2 - 1
    assert ws_cycles(4, 8, m=10, n=9, k=5) == 4 * (2 * 4 + 8 + 10 - 2) - 1
    assert os_cycles(4, 4, m=4, n=4, k=10) == 4 + 4 + 10 - 2 - 1
    assert os_cycles(4, 8, m=5, n=17, k=10) == 6 * (4 + 8 + 10 - 2) - 1


def test_the_work_of_problems():
    gemm = Gemm(3, 5, 7)
    assert (gemm.work.macs, gemm.work.compulsory_bytes) == (105, 21 + 35 + 60)
    scaled = Gemm(2, 4, 64, "", "e2m1", "e4m3", 32)
    assert scaled.work.compulsory_bytes == 64 + 256 + 32 + 2 * 2 + 4 * 2
    convolution = Convolution(5, 3, 2)
    assert convolution.work.macs == 25 * 2 * 27
    assert convolution.work.compulsory_bytes == 75 + 54 + 16 + 50


def test_the_plan_covers_what_it_should():
    assert {setting.config for setting in PLAN} >= {"small", "ulx3s_85f", "wide"}
    for config in ("small", "ulx3s_85f", "wide"):
        mine = [setting for setting in PLAN if setting.config == config]
        assert {setting.latency for setting in mine} == {10, 30, 100}
        assert {setting.bus for setting in mine} == {64, 128}
    whole = {run.problem for run in runs() if (run.config, run.bus, run.latency) == ("ulx3s_85f", 128, 30)}
    assert whole == {*GEMMS, *CONVOLUTIONS}
    assert len({run.key for run in runs()}) == len(list(runs()))


def test_a_transformer():
    """A small one: its products and their part of the cycles."""
    row = transformer.measure(1, "golden", "small")
    assert row["macs"] > 17 * 12 * 12 * 12 and row["macs"] / 64 < row["cycles"]
    assert 0 < row["roofline_fraction"] < row["by_layer"] < 1


def test_regressions():
    assert regressions({"a": 1000, "b": 100}, {"a": 1010, "b": 50}) == []
    (line,) = regressions({"a": 1000}, {"a": 1011})
    assert line == "a: 1,011 cycles, +1.10%; the baseline has 1,000"
    assert "was not measured" in regressions({"a": 1}, {})[0]


def test_the_baseline_is_of_the_plan():
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    assert set(baseline) == {run.key for run in runs()}
    assert min(baseline.values()) > 0


def test_results_are_kept_while_the_plan_has_them(tmp_path):
    key = next(runs()).key
    kept = update_results({key: {"cycles": 1}, "gone": {"cycles": 2}}, tmp_path / "some" / "roofline.json")
    assert kept == {key: {"cycles": 1}}
    assert json.loads((tmp_path / "some" / "roofline.json").read_text(encoding="utf-8")) == kept


def test_geometric_mean():
    assert geometric_mean([0.5, 2.0, 1.0]) == pytest.approx(1.0)


@pytest.mark.parametrize("problem", [Gemm(33, 65, 127), Gemm(9, 20, 64), Convolution(6, 5, 7)],
                         ids=lambda problem: problem.name)
def test_measured_on_the_chip(problem):
    """Right, within bounds, and the same cycles again."""
    run = Run("tiny", ChipConfig.preset("tiny").bus_width, 30, problem)
    (_, row), = measure([run])
    assert row["cycles"] == next(measure([run]))[1]["cycles"]
    assert row["macs"] == problem.work.macs
    assert 0 < row["roofline_fraction"] <= 1


@pytest.mark.parametrize("name", rates.RATES)
def test_rates_of_the_vector_unit(name):
    """By the cycle model: no more than one element each lane and cycle and pass, and nearly that."""
    with open_device("golden", config="wide") as device:
        rate = rates.RATES[name]
        assert rate.passes < rates.measure(name, device) <= rate.most
