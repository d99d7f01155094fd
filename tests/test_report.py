"""Reports: the same figures in every file, a page that needs nothing, and one line for what is wrong."""

import dataclasses
import itertools
import json
import math
import os
import re
from collections import Counter, defaultdict
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest

from bench.float_nets import NETS, quantized, random_inputs
from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, Activity, Unit
from kiwicha_host import devices, metrics, models, report
from kiwicha_host.assembler import decode
from kiwicha_host.compiler import GemmSpec, compile_gemm, compile_onnx
from kiwicha_host.devices import open_device
from kiwicha_host.files import FileProblem
from kiwicha_host.inference import infer
from kiwicha_host.job import Result
from kiwicha_host.metrics import Work
from kiwicha_host.report import Layers, write_report
from kiwicha_host.report import page as page_module
from kiwicha_host.report.roofline import Point, roofline_svg

TINY = ChipConfig.preset("tiny")
FILES = ["figures.json", "report.html", "trace.json"]
HOSTILE = "</script><script>alert('&\"')</script><!--"
M, N, K = 21, 10, 19
WORK = metrics.gemm_work(M, N, K)
VOID = {"meta"}


class Page(HTMLParser):
    """The elements of a page: closed in order, with their texts; what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.count, self.fetched = [], defaultdict(list), Counter(), []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.count[tag] += 1
        self.fetched += [(tag, name, value) for name, value in attributes
                         if name in ("src", "href", "srcset", "data", "action", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    @property
    def data(self):
        return json.loads(self.texts["script"][0])


def read(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((M, K), (K, N)))
    with open_device("verilated", config=TINY, trace=True) as device:
        return device.run(compile_gemm(TINY, GemmSpec(m=M, n=N, k=K)).job(a, b))


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    assert write_report(folder, TINY, WORK, result) == [folder / name for name in FILES]
    assert sorted(os.listdir(folder)) == FILES
    return folder


# The files.

def test_chrome_trace(result, folder):
    trace = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    assert trace["otherData"] == {"config": "tiny", "time": "1 us of ts is 1 clock cycle",
                                  "cycles": result.cycles, "cycles_traced": result.cycles}
    threads, events = {}, defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "M" and event["name"] == "thread_name":
            threads[event["tid"]] = event["args"]["name"]
        elif event["ph"] == "X":
            events[threads[event["tid"]]].append(event)
    assert {event["pid"] for event in trace["traceEvents"]} == {1}
    program = result.trace.program
    for unit in Unit:
        done, had = events[f"{unit.name} activity"], events[unit.name]
        for before, after in (*itertools.pairwise(done), *itertools.pairwise(had)):
            assert before["ts"] + before["dur"] <= after["ts"]
        sums = Counter()
        for event in done:
            assert event["dur"] > 0
            sums[event["name"]] += event["dur"]
        expected = {name: count for name, count in result.counters[unit.name].items() if count}
        assert sums["IDLE"] == 0
        assert {**sums, "IDLE": result.cycles - sum(sums.values())} == {"IDLE": 0, **expected}
        numbers = [i for i in range(len(program) // INSTRUCTION_BYTES)
                   if unit == Unit.FETCH or program[i * INSTRUCTION_BYTES] == unit.value]
        assert [event["args"]["index"] for event in had] == numbers
        for event in had:
            assert event["name"] == Unit(program[event["args"]["index"] * INSTRUCTION_BYTES]).name
            assert event["args"]["disassembly"].startswith(event["name"] + " ")


def test_the_page_needs_nothing(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = read(folder)
    assert page.count["script"] == 2 and page.count["link"] == page.count["img"] == page.count["iframe"] == 0
    assert page.fetched == []
    assert not re.search(r"https?:|@import|url\(|\bimport\s*\(|fetch\s*\(|XMLHttpRequest", text)
    assert len(text) < 200_000


def test_the_page_has_the_figures(result, folder):
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert figures == metrics.figures("verilated", TINY, WORK, result)
    page = read(folder)
    shown = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert shown == {"cycles": f"{result.cycles:,}", "MACs": f"{M * N * K:,}", "peak MACs/cycle": "16",
                     "utilization of the array": f"{figures['utilization']:.1%}",
                     "of the roofline": f"{figures['roofline_fraction']:.1%}", "bound": figures["bound"],
                     "bytes, once each": f"{WORK.compulsory_bytes:,}"}
    cells = [int(re.match(r"[\d,]+", cell)[0].replace(",", "")) for cell in re.findall(
        r"<td>(.*?)</td>", (folder / "report.html").read_text(encoding="utf-8").replace("<small>", " "))]
    assert cells == [value for row in figures["counters"].values() for value in (*row.values(), result.cycles)]


def test_the_time_line_is_the_trace(result, folder):
    data = read(folder).data
    assert data["shown"] == result.cycles and data["layers"] == []
    assert data["activities"] == [item.name for item in Activity]
    assert [unit["name"] for unit in data["units"]] == [unit.name for unit in Unit]
    for unit, row in zip(Unit, data["units"], strict=True):
        spans = result.trace.of(unit)
        assert row["activities"] == spans["activity"].tolist()
        assert list(itertools.accumulate(row["lengths"])) == spans["end"].tolist()
        assert list(itertools.accumulate(row["steps"], initial=-1))[1:] == spans["instruction"].tolist()
    assert data["instructions"] == [result.trace.describe(i) for i in range(result.trace.program_count)]


def test_a_long_trace_is_cut_and_the_page_says_so(result, tmp_path, monkeypatch):
    starts = np.sort(result.trace.spans["start"])
    first_store = int(np.flatnonzero(result.trace.units() == Unit.STORE.value)[0])
    for name, limit, shown in (
            ("SPAN_LIMIT", 50, starts[50]),
            ("INSTRUCTION_LIMIT", first_store, result.trace.instructions(Unit.FETCH)["start"][first_store])):
        with monkeypatch.context() as patch:
            patch.setattr(page_module, name, limit)
            write_report(tmp_path, TINY, WORK, result)
        page = read(tmp_path)
        assert page.data["shown"] == shown < result.cycles
        assert {sum(unit["lengths"]) for unit in page.data["units"]} == {shown}
        spans = sum(len(unit["lengths"]) for unit in page.data["units"])
        assert spans <= 50 if name == "SPAN_LIMIT" else len(page.data["instructions"]) <= first_store
        assert any(f"the first {shown:,} of {result.cycles:,} cycles" in text for text in page.texts["p"])
        # The file for other programs has all.
        assert len(json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]) > spans


def test_a_trace_that_was_full(result, tmp_path):
    trace = result.trace
    half = trace.cycles // 2
    spans = trace.spans[trace.spans["start"] < half].copy()
    spans["end"] = np.minimum(spans["end"], half)
    cut = dataclasses.replace(trace, spans=spans, covered=half)
    layers = Layers(["one"], [WORK], np.zeros(trace.program_count, int))
    write_report(tmp_path, TINY, WORK, dataclasses.replace(result, trace=cut), layers=layers)
    page = read(tmp_path)
    assert any(f"full after the first {half:,} of {trace.cycles:,} cycles" in text for text in page.texts["p"])
    assert page.data["shown"] == half and page.count["circle"] == 1     # no point of a layer
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["otherData"]["cycles_traced"] == half


def test_hostile_names(result, tmp_path):
    figures = metrics.figures("verilated", TINY, WORK, result) | {"config": HOSTILE, "bound": HOSTILE}
    layers = Layers([HOSTILE], [WORK], np.zeros(result.trace.program_count, int))
    write_report(tmp_path, TINY, WORK, result, figures=figures, layers=layers)
    page = read(tmp_path)
    assert page.count["script"] == 2 and "alert" not in page.texts["script"][1]
    assert page.data["layers"] == [HOSTILE]
    assert page.texts["h1"] == [f"Kiwicha run on {HOSTILE}"] and HOSTILE in page.texts["dd"]
    assert f"1: {HOSTILE}" in page.texts["th"] and f"1: {HOSTILE}" in page.texts["circle"]
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["config"] == HOSTILE


def test_a_report_needs_a_trace(tmp_path):
    with pytest.raises(ValueError, match="a report needs a trace: open the device verilated with trace=True"):
        write_report(tmp_path / "r", TINY, WORK, Result(100))
    assert not (tmp_path / "r").exists()


def test_a_failed_write_leaves_the_old_files(result, tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).write_text("old", encoding="utf-8")

    def broken(*_):
        yield '{"traceEvents":['
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(report, "chrome_trace", broken)
    with pytest.raises(FileProblem, match="trace.json: No space left on device"):
        write_report(tmp_path, TINY, WORK, result)
    assert (tmp_path / "trace.json").read_text(encoding="utf-8") == "old"
    assert sorted(os.listdir(tmp_path)) == FILES


# The roofline.

def lines_and_circles(svg):
    lines = [tuple(map(float, found)) for found in re.findall(
        r'class="roof" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', svg)]
    circles = [tuple(map(float, found)) for found in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    return lines, circles


@pytest.mark.parametrize("name", ["tiny", "ulx3s_85f", "wide"])
@pytest.mark.parametrize("intensity", [0.02, 0.7, 40, 90_000])
@pytest.mark.parametrize("fraction", [1.0, 0.3, 1e-4])
def test_a_point_is_below_its_roof_by_its_fraction(name, intensity, fraction):
    config = ChipConfig.preset(name)
    rate = fraction * min(config.peak_macs_per_cycle, config.bus_bytes * intensity)
    svg = roofline_svg(config, [Point(intensity, rate, "run", "run")])
    (slope, flat), [(x, y)] = lines_and_circles(svg)
    assert slope[2:] == flat[:2] and flat[1] == flat[3]
    # Where the roof is above the point; its slope is 1 on equal decades.
    roof = flat[1] if x >= flat[0] else slope[1] + (x - slope[0]) * (slope[3] - slope[1]) / (slope[2] - slope[0])
    grid = sorted({float(y) for y, other in re.findall(r'class="grid".*?y1="([\d.]+)".*?y2="([\d.]+)"', svg)
                   if y == other})
    decade = (grid[-1] - grid[0]) / (len(grid) - 1)
    assert y - roof == pytest.approx(-math.log10(fraction) * decade, abs=0.3)
    assert 64 <= x <= 720 - 24 and 20 <= y <= 430 - 52


def test_labels_do_not_cover_each_other():
    points = [Point(10 * (1 + i % 3), 15.9, str(i), f"layer {i}", "layer") for i in range(24)]
    svg = roofline_svg(TINY, points)
    labels = [(float(x), float(y)) for x, y, text in
              re.findall(r'<text x="([\d.]+)" y="([\d.]+)" >(\d+)</text>', svg)]
    assert len(labels) >= 20
    for (x0, y0), (x1, y1) in itertools.combinations(labels, 2):
        assert abs(x0 - x1) >= 7 or abs(y0 - y1) >= 12
    assert svg.count("<circle") == 24


def test_a_run_without_arithmetic_has_no_point():
    assert "<circle" not in roofline_svg(TINY, [Point(0, 0, "this run", "this run")])


# Layers.

@pytest.mark.parametrize("model, images", [(models.DIGITS_MLP, 7), (models.DIGITS_CONV, 4)])
def test_layers(model, images, tmp_path):
    network = compile_onnx(TINY, model)
    with open_device("verilated", config=TINY, trace=True) as device:
        _, result = infer(device, network, models.digits_test()[0][:images])
    trace, works = result.trace, network.layer_works(images)
    assert sum(work.macs for work in works) == network.macs(images)
    assert sum(work.compulsory_bytes for work in works) == network.compulsory_bytes(images)
    of_instruction = network.instruction_layers(images)
    assert len(of_instruction) == trace.program_count
    layers = Layers([layer.name for layer in network.layers], works, of_instruction)
    runs = layers.runs(trace)
    spans = trace.instructions(Unit.MATMUL)
    assert sum(run.cycles for run in runs) == (spans["end"] - spans["start"]).sum() <= result.cycles
    assert all(0 < run.utilization(TINY) <= 1 for run in runs)
    # Weights are in memory layer by layer, and what the array was busy with is at most half padding.
    ends = np.cumsum([plan.weight_lines * TINY.line_bytes for plan in network.plans])
    for number, layer in enumerate(of_instruction.tolist()):
        unit, fields = decode(trace.instruction(number))
        if unit == Unit.LOAD and not fields["fill_only"] and fields["address"] < ends[-1]:
            assert layer == np.searchsorted(ends, fields["address"], "right"), number
    busy = trace.of(Unit.MATMUL)
    busy = busy[busy["activity"] == Activity.BUSY.value]
    sums = np.bincount(of_instruction[busy["instruction"]], busy["end"] - busy["start"])
    # A span has the oldest instruction, so the next one's first cycles, until the pipeline is empty, are not its.
    late = 20 * (np.count_nonzero(np.diff(of_instruction[spans["instruction"]])) + 1)
    for work, cycles in zip(works, sums, strict=True):
        assert cycles / 2 - late <= work.macs / TINY.peak_macs_per_cycle <= cycles + late
    work = Work(network.macs(images), network.compulsory_bytes(images))
    write_report(tmp_path, TINY, work, result, layers=layers)
    page = read(tmp_path)
    assert page.count["circle"] == len(runs) + 1
    assert [f"{i}: {run.name}" in page.texts["th"] for i, run in enumerate(runs, 1)] == [True] * len(runs)
    assert page.data["layer_of"] == of_instruction.tolist()


# The command.

@pytest.fixture
def run(run):
    """Calls the command in an empty folder with good A, B and X; returns (status, stdout, stderr)."""
    rng = np.random.default_rng(0)
    np.save("a.npy", rng.integers(-128, 128, (M, K), np.int8))
    np.save("b.npy", rng.integers(-128, 128, (K, N), np.int8))
    np.save("x.npy", models.digits_test()[0][:3])
    return run


COMMANDS = {"gemm": ["gemm", "a.npy", "b.npy"], "run": ["run", models.DIGITS_MLP, "x.npy"]}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_option(run, tmp_path, command):
    status, plain, err = run(*command, "--config", "tiny", "--json")
    assert (status, err) == (0, "")
    status, out, err = run(*command, "--config", "tiny", "--report", "r/s", "--json")
    assert (status, err) == (0, "")
    assert sorted(os.listdir("r/s")) == FILES
    assert (tmp_path / "r/s/figures.json").read_text(encoding="utf-8") == out
    timed = {"wall_s": 0, "simulated_cycles_per_second": 0}
    assert json.loads(out) | timed == json.loads(plain) | timed
    page = read(tmp_path / "r/s")
    assert page.texts["dd"][0] == f"{json.loads(out)['cycles']:,}"
    assert page.count["circle"] == (4 if command[0] == "run" else 1)
    assert run(*command, "--config", "tiny", "--report", "r/s")[0] == 0     # again, over the old


def test_a_model_in_parts(run, tmp_path):
    """One time line for all programs, a row for each layer of any, and what the host did."""
    model = NETS["vit"]()
    path = quantized(model, tmp_path)
    for name, array in random_inputs(model, np.random.default_rng(0)).items():
        np.save(f"{name}.npy", array)
    status, out, err = run("run", path, "x.npy", "--config", "tiny", "--report", "r", "--json")
    assert (status, err) == (0, "")
    figures, page = json.loads(out), read(tmp_path / "r")
    # The roofline has those that multiply, and the whole run.
    assert sum(layer["macs"] > 0 for layer in figures["layers"]) == page.count["circle"] - 1 > 8
    assert {"QLinearConv", "QLinearMatMul"} <= {layer["op"] for layer in figures["layers"]}
    assert sum(layer["macs"] for layer in figures["layers"]) == figures["macs"]
    assert any("needs a chip with functions; configuration 'tiny' has none" in text for text in page.texts["td"])
    # The graph: a box for each part and both edges; each part is fed by others.
    html = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    boxes = re.findall(r'<g class="(chip|host|edge)"><title>(\w+): ([^<]*)</title>', html)
    assert [kind for kind, *_ in boxes].count("edge") == 2
    assert "Softmax" in " ".join(ops for kind, _, ops in boxes if kind == "host")
    assert sum(kind == "chip" for kind, *_ in boxes) >= 6 and html.count('class="tensor"') >= len(boxes) - 1
    trace = json.loads((tmp_path / "r/trace.json").read_text(encoding="utf-8"))
    ends = [event["ts"] + event["dur"] for event in trace["traceEvents"] if event.get("ph") == "X"]
    assert max(ends) <= figures["cycles"]


def test_nothing_to_report(run, no_device):
    """A float model is the host's."""
    onnx.save(NETS["lenet"](), "float.onnx")
    np.save("x.npy", np.zeros((1, 1, 12, 12), np.float32))
    status, out, err = run("run", "float.onnx", "x.npy", "--report", "r")
    assert (status, out) == (1, "") and not os.path.exists("r")
    assert err == "kiwicha: nothing of the model runs on the chip, so that there is nothing to report\n"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("options, status, message", [
    ("--report a.npy", 1, "cannot write to {here}/a.npy: it is not a folder"),
    ("--report a.npy/r", 1, "cannot make {here}/a.npy/r: {here}/a.npy is not a folder"),
    ("--report full", 1, "cannot write {here}/full/report.html: it is a folder"),
    ("--report r --device golden", 2, "--report needs --device verilated, not golden."),
    ("--device serial:/dev/null --report r", 2, "--report needs --device verilated, not serial:/dev/null."),
])
def test_what_is_wrong_is_one_line_before_the_chip_is_built(run, tmp_path, monkeypatch, command, options, status,
                                                            message):
    monkeypatch.setattr(devices, "open_device", lambda *a, **k: pytest.fail("a device was opened"))
    (tmp_path / "full/report.html").mkdir(parents=True)
    before = sorted(os.listdir())
    got, out, err = run(*command, *options.split())
    assert (got, out) == (status, "") and err.startswith("kiwicha: ") and err.count("\n") == 1
    assert message.format(here=tmp_path.resolve()) in err
    assert sorted(os.listdir()) == before
