"""The report of a language model's step: which part of it each unit was in, and what a token cost."""

import contextlib
import dataclasses
import itertools
import json
import os
from pathlib import Path

import pytest
import tiny_llama
from commands import fails
from test_report import FILES, Page

from kiwicha import ChipConfig
from kiwicha.isa import Unit
from kiwicha_host import devices
from kiwicha_host.assembler import decode
from kiwicha_host.language.decoder import open_decoder
from kiwicha_host.language.deepseek import stored
from kiwicha_host.language.report import step_layers, write_step_report

LEAN = dataclasses.replace(ChipConfig.preset("tiny"), functions=True, block_scales=True, bank_lines=4096,
                           accumulator_lines=256, name="lean")
SIZES = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "head_size": 16, "ffn": 32, "context": 32}
PARTS = ["embedding", "layer 0, attention", "layer 0, feed-forward", "layer 1, attention", "layer 1, feed-forward",
         "head"]
CHIP = """rows = 4
columns = 4
formats = ["int8", "int4"]
bus_width = 64
functions = true
block_scales = true
bank_lines = 4096
accumulator_lines = 256
vector_lanes = 2
queue_depth = 2
reads_in_flight = 4
writes_in_flight = 4
"""


@pytest.fixture(scope="module")
def step():
    """The second step of a decoder, and the decoder."""
    with_trace = open_decoder(tiny_llama.model(**SIZES), config=LEAN, context=8, trace=True)
    with_trace.prefill([5, 9, 70])
    first = with_trace.last
    with_trace.step(3)
    with_trace.close()
    assert with_trace.last is not first and first.step.length == 3
    return with_trace.last, with_trace


def test_each_instruction_belongs_to_a_part(step):
    run, decoder = step
    layers, memory = step_layers(LEAN, run), decoder.memory
    assert layers.names == PARTS
    assert len(layers.of_instruction) == len(run.template.code) == run.result.trace.program_count
    # What is streamed says where it belongs, however early it is brought.
    matrices = [*itertools.chain(*memory.layers), memory.head]
    parts = [*(part for part in PARTS[1:-1] for _ in range(3 if part.endswith("attention") else 2)), "head"]
    regions = {matrix.region.base: (matrix.region.base + matrix.region.size, part)
               for matrix, part in zip(matrices, parts, strict=True)}
    seen = set()
    for number, code in zip(layers.of_instruction, run.template.code, strict=True):
        unit, fields = decode(code.tobytes())
        for base, (end, part) in regions.items():
            if unit == Unit.LOAD and not fields["fill_only"] and base <= fields["address"] < end:
                assert layers.names[number] == part
                seen.add(part)
    assert seen == set(PARTS[1:])
    # Of one unit nothing but loads runs ahead.
    for unit in (Unit.MATMUL, Unit.VECTOR):
        numbers = [number for number, code in zip(layers.of_instruction, run.template.code, strict=True)
                   if code[0] == unit.value]
        assert numbers == sorted(numbers)


def test_a_deepseek_model_has_parts_too():
    chip = ChipConfig.preset("wide")
    with contextlib.closing(open_decoder(stored.load().model, device="golden", config=chip, context=8)) as decoder:
        decoder.step(3)
        layers = step_layers(chip, decoder.last)
    assert layers.names == ["embedding", *(f"layer {number}, {part}" for number in range(3)
                                           for part in ("attention", "feed-forward")), "head"]
    # Whichever experts are chosen, they are as many.
    macs = dict(zip(layers.names, (work.macs for work in layers.works), strict=True))
    assert macs["layer 1, feed-forward"] == macs["layer 2, feed-forward"] > 0
    assert macs["layer 0, attention"] == macs["layer 1, attention"] == macs["layer 2, attention"] > 0


def test_works_are_those_of_the_instructions(step):
    run, _ = step
    layers = step_layers(LEAN, run)
    assert sum(work.compulsory_bytes for work in layers.works) == run.template.moved
    busy = run.result.counters["MATMUL"]["BUSY"]
    assert sum(work.macs for work in layers.works) == busy * LEAN.rows * LEAN.columns
    assert [work.macs > 0 for work in layers.works] == [False, True, True, True, True, True]
    assert sum(item.cycles for item in layers.runs(run.result.trace)) <= run.result.cycles


@pytest.fixture
def ask(run):
    tiny_llama.write_gguf("model.gguf", "F32", seed=1, **SIZES)
    Path("lean.toml").write_text(CHIP, encoding="utf-8")
    return lambda *arguments: run("generate", "model.gguf", "--config", "./lean.toml", *arguments)


def test_the_option(ask):
    status, plain, err = ask("--prompt", "the", "--tokens", 3, "--json")
    assert (status, err) == (0, "")
    status, out, err = ask("--prompt", "the", "--tokens", 3, "--json", "--report", "r/s", "--verify")
    assert (status, err) == (0, "")
    assert json.loads(out) | {"wall_s": 0} == json.loads(plain) | {"wall_s": 0}
    assert sorted(os.listdir("r/s")) == FILES
    figures = json.loads(Path("r/s/figures.json").read_text(encoding="utf-8"))
    assert figures["completion"] == json.loads(out)
    step, cycles = figures["step"], figures["cycles"]
    assert step["tokens"] == 1 and step["positions"] == [json.loads(out)["prompt_tokens"] + 1]
    assert step["tokens_per_million_cycles"] == 1e6 / cycles and step["bytes_per_token"] == step["bytes"]
    assert [layer["name"] for layer in figures["layers"]] == PARTS
    assert sum(layer["macs"] for layer in figures["layers"]) == figures["macs"]
    page = Page(Path("r/s/report.html").read_text(encoding="utf-8"))
    shown = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert shown["tokens"] == "1" and shown["tokens per million cycles"] == f"{1e6 / cycles:.3f}"
    assert shown["bytes per token"] == f"{step['bytes']:,}" and 0 < figures["roofline_fraction"] < 1
    assert shown["of the roofline"] == f"{figures['roofline_fraction']:.1%}"
    assert page.data["layers"] == PARTS and page.fetched == []
    assert any("what its instructions move" in text for text in page.texts["p"])
    assert "2: layer 0, attention" in page.texts["th"]


def test_chrome_has_the_parts(ask):
    assert ask("--prompt", "the", "--tokens", 1, "--report", "r")[0] == 0
    events = json.loads(Path("r/trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    for unit in Unit:
        had = [event for event in events if event["ph"] == "X" and names[event["tid"]] == f"{unit.name} layer"]
        assert had and {event["name"] for event in had} <= set(PARTS)
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in itertools.pairwise(had))
        if unit == Unit.MATMUL:
            assert [event["name"] for event in had] == PARTS[1:]


def test_a_batch_is_one_step(ask):
    Path("prompts.txt").write_text("the\nof\n", encoding="utf-8")
    status, out, _ = ask("--batch", "prompts.txt", "--tokens", 2, "--json", "--report", "r")
    figures = json.loads(Path("r/figures.json").read_text(encoding="utf-8"))
    assert status == 0 and figures["completion"] == json.loads(out)
    assert figures["step"]["tokens"] == 2 and len(figures["step"]["positions"]) == 2
    assert figures["step"]["tokens_per_million_cycles"] == pytest.approx(2e6 / figures["cycles"])


@pytest.mark.parametrize("options, status, message", [
    ("--report model.gguf", 1, "model.gguf: it is not a folder"),
    ("--report r --device golden", 2, "--report needs --device verilated, not golden."),
])
def test_what_is_wrong_is_known_before(ask, run, monkeypatch, options, status, message):
    monkeypatch.setattr(devices, "open_device", lambda *a, **k: pytest.fail("a device was opened"))
    fails(run, status, message, "generate", "model.gguf", "--prompt", "a", *options.split())


def test_without_a_trace(tmp_path):
    decoder = open_decoder(tiny_llama.model(**SIZES), config=LEAN, device="golden", context=8)
    decoder.step(3)
    with pytest.raises(ValueError, match="a report needs a trace"):
        write_step_report(tmp_path / "r", LEAN, decoder.last, {})
