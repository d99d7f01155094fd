"""What `make sim` does, on a few images, and that it tells when a result is wrong."""

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.isa import Activity, Unit
from kiwicha_host import models
from kiwicha_host.cli import demo
from kiwicha_host.cli.time_line import time_line
from kiwicha_host.devices import open_device
from kiwicha_host.models import reference
from kiwicha_host.trace import SPAN, Trace

CONFIG = "ulx3s_85f"


@pytest.mark.minutes
def test_the_default_chip_classifies_digits(capsys):
    """On the compiled chip: every logit is that of the golden machine, of numpy and of ONNX Runtime."""
    assert demo.main(["--images", "10", "--config", CONFIG]) == 0
    out, err = capsys.readouterr()
    out = " ".join(out.split())
    assert not err
    assert out.count("every logit equals that of the golden machine, numpy and ONNX Runtime") == 2
    assert out.endswith("Every result is right, bit for bit.")
    for m, n, k in demo.GEMMS:
        assert f"{m} x {n} x {k} │ exact" in out
    for unit in Unit:
        assert f" {unit.name.lower()} " in out


def test_utilization_of_a_large_product():
    """512 x 512 x 512, bus 128 bits, memory latency 30 cycles: at least 0.90, loads and stores included."""
    with open_device("verilated", config=CONFIG, latency=30) as device:
        a, b = (np.full((512, 512), value, np.int8) for value in (-128, 127))
        assert (device.gemm(a, b) == 512 * -128 * 127).all()
        assert device.config.bus_width == 128
        assert 512 ** 3 / (device.config.peak_macs_per_cycle * device.last_result.cycles) >= 0.90


@pytest.mark.parametrize("what", ["codes", "logits"])
def test_a_wrong_result_fails(what, monkeypatch, capsys):
    right = reference.run

    def wrong(model, images):
        values = dict(right(model, images))
        name = "logits" if what == "logits" else model.graph.node[-1].input[0]
        values[name] = values[name].copy()
        values[name][2, 7] += 1
        return values

    monkeypatch.setattr(reference, "run", wrong)
    assert demo.main(["--images", "3", "--config", "tiny", "--device", "golden"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"demo: 1 of 30 {what} differ from numpy, the first at [2, 7]: ")
    assert err.count("\n") == 1 and "Every result is right" not in out


def test_a_bad_configuration_is_one_line(capsys):
    assert demo.main(["--config", "nowhere.toml", "--device", "golden"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def small_trace():
    """LOAD is busy for 3 of 8 cycles, STORE waits for memory in the last 2, and nothing else happens."""
    rows = [(unit.value, Activity.IDLE.value, -1, 0, 8) for unit in Unit if unit not in (Unit.LOAD, Unit.STORE)]
    rows += [(Unit.LOAD.value, Activity.BUSY.value, 0, 0, 3), (Unit.LOAD.value, Activity.IDLE.value, -1, 3, 8),
             (Unit.STORE.value, Activity.IDLE.value, -1, 0, 6), (Unit.STORE.value, Activity.MEMORY.value, 1, 6, 8)]
    return Trace(np.array(sorted(rows, key=lambda row: row[0]), SPAN), 8, 8, b"")


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "open_device", interrupted)
    assert demo.main([]) == 1
    assert capsys.readouterr().err == "demo: interrupted\n"


def test_shares_of_a_trace():
    """Parts of a run need not end where spans do."""
    shares = small_trace().shares(4)
    assert shares.shape == (len(Unit), len(Activity), 4)
    np.testing.assert_array_equal(shares[Unit.LOAD.value, Activity.BUSY.value], [1, 0.5, 0, 0])
    np.testing.assert_array_equal(shares[Unit.STORE.value, Activity.MEMORY.value], [0, 0, 0, 1])
    np.testing.assert_array_equal(shares.sum(axis=1), 1)


def test_time_line():
    *lines, legend = (line.plain for line in time_line(small_trace(), columns=8))
    assert lines == [
        "  fetch     ········  busy 0%, idle 100%",
        "  load      ███·····  busy 38%, idle 62%",
        "  matmul    ········  busy 0%, idle 100%",
        "  epilogue  ········  busy 0%, idle 100%",
        "  store     ······mm  busy 0%, idle 75%",
    ]
    assert all(f" {activity.name.lower()} " in legend for activity in Activity)


def test_shares_add_up_to_the_counters():
    config = ChipConfig.preset("tiny")
    with open_device("verilated", config, trace=True) as device:
        device.run(demo.compile_onnx(config, models.DIGITS_MLP).batch_job(models.digits_test()[0][:2]))
    trace = device.last_result.trace
    sums = trace.shares(7).mean(axis=2) * trace.cycles
    for unit in Unit:
        counted = [device.last_result.counters[unit.name][activity.name] for activity in Activity]
        np.testing.assert_allclose(sums[unit.value], counted, atol=1e-6 * trace.cycles)
