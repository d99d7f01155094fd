"""What `make sim` does, on a few images, and that it tells when a result is wrong."""

import re
import sys

import numpy as np
import pytest
from rich.console import Console

from kiwicha import ChipConfig
from kiwicha.isa import Activity, Unit
from kiwicha_host import load_model, models
from kiwicha_host.cli import demo
from kiwicha_host.cli.demo import digits, file_types, products, words
from kiwicha_host.cli.demo.digits import show_residual
from kiwicha_host.cli.time_line import time_line
from kiwicha_host.compiler.errors import CompileError
from kiwicha_host.compiler.network import compile_onnx
from kiwicha_host.devices import open_device
from kiwicha_host.extras import MissingExtra
from kiwicha_host.models import reference
from kiwicha_host.trace import SPAN, Trace

CONFIG = "ulx3s_85f"
GOLDEN = ["--config", "tiny", "--device", "golden", "--images", "3"]


def text(capsys):
    """What was printed, and that nothing else was."""
    out, err = capsys.readouterr()
    assert not err
    return " ".join(out.split())


def plain():
    return Console(highlight=False, width=200)


@pytest.fixture
def short(monkeypatch):
    """Without what takes long on a small chip."""
    monkeypatch.setattr(products, "GEMMS", products.GEMMS[:2])
    monkeypatch.setattr(demo, "show_file_types", lambda console, device: None)
    monkeypatch.setattr(demo, "show_words", lambda console, device, count: None)


@pytest.mark.minutes
def test_the_default_chip_classifies_digits(monkeypatch, capsys):
    """On the compiled chip: every logit is that of the golden machine, of numpy and of ONNX Runtime."""
    monkeypatch.setattr(demo, "show_file_types", lambda console, device: None)      # takes as long as all else
    monkeypatch.setattr(demo, "_WORDS", 3)
    assert demo.main(["--images", "10", "--config", CONFIG]) == 0
    out = text(capsys)
    assert out.count("every logit equals that of the golden machine, numpy and ONNX Runtime") == 2
    assert out.endswith("Every result is right, bit for bit.")
    assert "The following methods are defined by the every logit equals that of numpy" in out
    assert out.count("every logit equals that of ONNX Runtime and that of the golden machine") == 1
    for m, n, k in products.GEMMS:
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


def test_the_residual_network_says_where_its_operators_run(monkeypatch, capsys):
    images = models.digits_test()[0][:4]
    with open_device("golden", "tiny") as device, load_model(models.DIGITS_RESIDUAL, device=device) as model:
        monkeypatch.setattr(digits, "BATCH", 3)
        show_residual(plain(), device, len(images))
        out = text(capsys)
        ran = {place: [row.op for row in model.placement if row.place == place] for place in ("chip", "host")}
    assert "digits_residual.onnx: residual blocks, quantized" in out and "4/4" in out
    assert ("4 of 4 right (100.0%); every logit equals that of ONNX Runtime "
            "and for the first 3 images that of the golden machine") in out
    chip, host = out[out.index("on the chip"):].split(" on the host ")
    assert f"{ran['chip'].count('QLinearConv')} QLinearConv" in chip and "100.0% of the multiply-acc" in chip
    for op in set(ran["host"]) - {"QuantizeLinear", "DequantizeLinear"}:
        assert f"{ran['host'].count(op)} {op}" in host


def test_a_published_model_with_its_own_code(capsys):
    """Magika, on the golden machine: right, as ONNX Runtime has it, and nearly as sure as the float model."""
    with open_device("golden", CONFIG) as device:
        file_types.show_file_types(plain(), device)
    out = text(capsys)
    kind, chip, published = re.search(r"(\w+) +([\d.]+)% +([\d.]+)% +<- JPEG image data", out).groups()
    assert kind == "jpeg" and float(chip) > 99 and float(published) > 99
    assert "every probability equals that of the golden machine and ONNX Runtime" in out
    assert "100.0% of the multiply-accumulates" in out and re.search(r"on the host .*\d+ Reshape", out)


def test_a_model_that_nobody_asks_is_no_proof():
    class Magika:
        def identify_paths(self, paths):
            return [None for _ in paths]

    with pytest.raises(RuntimeError, match="asked its model about 0 files, not 1"):
        file_types._identify(Magika(), [file_types.PICTURE], lambda inputs: inputs)


def test_words(capsys):
    words.show_words(plain(), "golden", 6)
    out = text(capsys)
    assert "3 layers, 16 experts, FP8 and FP4 weights; chip wide" in out
    assert "The following methods are defined by the same as a every logit equals that of numpy" in out
    assert re.search(r"15 tokens of prompt in [\d,]+ cycles, then [\d,]+ cycles a token", out)


@pytest.mark.parametrize("what", ["logits", "token"])
def test_a_wrong_word_fails(what, monkeypatch):
    class Wrong(words.ExactDecoder if what == "logits" else words.ChipDecoder):
        def prefill(self, *arguments):
            logits = super().prefill(*arguments)
            if what == "token":
                self.chosen = {0: 5}
            return logits + np.float32(what == "logits")

    if what == "logits":
        monkeypatch.setattr(words, "ExactDecoder", Wrong)
    else:
        model = words.stored.load().model
        monkeypatch.setattr(words, "open_decoder", lambda *_, context, **__: Wrong(
            model, open_device("golden", "wide"), context))
    message = {"logits": "1024 of 1024 logits differ from numpy, the first at ",
               "token": "the chip's token is 5, not"}
    with pytest.raises(words.Mismatch, match=message[what]):
        words.show_words(plain(), "golden", 2)


def test_without_the_package_of_tokens_the_rest_is_shown(short, monkeypatch, capsys):
    monkeypatch.setattr(demo, "show_words", words.show_words)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert demo.main(GOLDEN) == 0
    out = text(capsys)
    assert "not shown: a language model: tokenizers is not installed; pip install 'kiwicha[llm]'" in out


@pytest.mark.parametrize("missing", ["magika", "PIL"])
def test_without_the_demos_packages_the_rest_is_shown(missing, short, monkeypatch, capsys):
    monkeypatch.setattr(demo, "show_file_types", file_types.show_file_types)
    monkeypatch.setitem(sys.modules, missing, None)
    assert demo.main(GOLDEN) == 0
    out = text(capsys)
    assert f"not shown: Magika: {missing} is not installed; pip install 'kiwicha[demo]' Matrix products" in out
    assert out.endswith("Every result is right, bit for bit.")


def test_a_file_of_a_package_that_is_not_there():
    for name in ("nowhere/picture.jpg", "matplotlib/nowhere.jpg"):
        with pytest.raises(MissingExtra, match=rf"^{name} is not installed; pip install 'kiwicha\[demo\]'$"):
            file_types._installed(name)


def test_what_does_not_fit_is_one_line(short, monkeypatch, capsys):
    def too_large(console, device):
        raise CompileError("the model needs 9 bytes, the device has 8 [bytes]")

    monkeypatch.setattr(demo, "show_file_types", too_large)
    assert demo.main(GOLDEN) == 0
    assert "not shown: Magika: the model needs 9 bytes, the device has 8 [bytes] Matrix products" in text(capsys)


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
        "  vector    ········  busy 0%, idle 100%",
        "  store     ······mm  busy 0%, idle 75%",
    ]
    assert all(f" {activity.name.lower()} " in legend for activity in Activity)


def test_shares_add_up_to_the_counters():
    config = ChipConfig.preset("tiny")
    with open_device("verilated", config, trace=True) as device:
        device.run(compile_onnx(config, models.DIGITS_MLP).batch_job(models.digits_test()[0][:2]))
    trace = device.last_result.trace
    sums = trace.shares(7).mean(axis=2) * trace.cycles
    for unit in Unit:
        counted = [device.last_result.counters[unit.name][activity.name] for activity in Activity]
        np.testing.assert_allclose(sums[unit.value], counted, atol=1e-6 * trace.cycles)
