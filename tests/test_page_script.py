"""The report's script in a JavaScript engine, with a canvas that remembers: the picture is the trace."""

import json
from pathlib import Path

import numpy as np
import pytest
import quickjs

from kiwicha import ChipConfig
from kiwicha.isa import Activity, Unit
from kiwicha_host import metrics
from kiwicha_host.compiler import GemmSpec, compile_gemm
from kiwicha_host.devices import open_device
from kiwicha_host.report import Layers
from kiwicha_host.report.page import html_page

TINY = ChipConfig.preset("tiny")
#: Pixels: left of the time line, above it, of a unit's two rows, and from unit to unit.
LEFT, AXIS, DOING, WORK, ROW = 84, 24, 24, 18, 54
ACTIVITIES = [each.name.lower() for each in Activity]


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(4)
    a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((9, 14), (14, 6)))
    with open_device("verilated", config=TINY, trace=True) as device:
        return device.run(compile_gemm(TINY, GemmSpec(m=9, n=6, k=14)).job(a, b))


def browser(result, width, layers=None):
    """A page whose time line has `width` pixels; sends it an event and returns what came of it."""
    work = metrics.gemm_work(9, 6, 14)
    page = html_page(TINY, work, metrics.figures("verilated", TINY, work, result), result.trace, layers)
    data, script = (part.partition("</script>")[0].partition(">")[2] for part in page.split("<script")[1:])
    context = quickjs.Context()
    context.set_time_limit(60)
    context.eval(f"const DATA = {json.dumps(data)}, WIDTH = {LEFT + width};\n"
                 + Path(__file__).with_name("browser.js").read_text(encoding="utf-8") + script)
    return lambda name=None, **event: json.loads(context.eval(f"send({json.dumps(name)}, {json.dumps(event)})"))


@pytest.fixture
def send(result):
    """A page with a pixel for each cycle."""
    return browser(result, result.cycles)


def top(unit):
    return AXIS + ROW * list(Unit).index(unit)


def upper_row(painted, unit):
    """(column, height, distance from the row's foot) of each of its rectangles, by the activity they stand for."""
    found = {name: [] for name in ACTIVITIES}
    for colour, x, y, width, height in painted:
        if colour in found and -0.01 < y - top(unit) < DOING:
            assert width == 1
            found[colour].append((round(x) - LEFT, height, top(unit) + DOING - y - height))
    return found


def test_each_cycle_has_the_colour_of_what_its_unit_did(result, send):
    painted = send()["painted"]
    for unit in Unit:
        drawn = upper_row(painted, unit)
        for name in ACTIVITIES:
            expected = [] if name == "idle" else [
                (cycle, DOING, 0) for span in result.trace.of(unit) if ACTIVITIES[span["activity"]] == name
                for cycle in range(span["start"], span["end"])]
            assert drawn[name] == expected
            assert name == "idle" or len(drawn[name]) == result.counters[unit.name][name.upper()]


def test_a_pixel_shows_how_much_of_its_cycles_each_activity_has(result):
    columns = int(result.cycles / 2.5)
    per = result.cycles / columns
    painted = browser(result, columns)()["painted"]
    edges = np.arange(columns + 1) * per
    for unit in Unit:
        drawn, foot = upper_row(painted, unit), np.zeros(columns)
        for name in ACTIVITIES[1:]:
            heights = np.zeros(columns)
            for span in result.trace.of(unit):
                if ACTIVITIES[span["activity"]] == name:
                    overlap = np.minimum(span["end"], edges[1:]) - np.maximum(span["start"], edges[:-1])
                    heights += np.maximum(overlap, 0) / per * DOING
            picture, feet = np.zeros(columns), foot.copy()
            for column, height, distance in drawn[name]:
                picture[column], feet[column] = height, distance
            assert np.allclose(picture, heights, atol=1e-6) and np.allclose(feet, foot, atol=1e-6)
            foot += heights


def test_the_lower_row_has_the_instructions(result, send):
    painted = send()["painted"]
    for unit in Unit:
        drawn = [(round(x) - LEFT, round(x + width) - LEFT, colour) for colour, x, y, width, height in painted
                 if colour in ("work", "work2") and y == top(unit) + DOING + 1 and height == WORK - 2]
        expected = [(had["start"], had["end"], "work2" if number % 2 else "work")
                    for number, had in enumerate(result.trace.instructions(unit))]
        assert drawn == expected


def test_the_pointer_is_told_what_it_is_on(result, send):
    send()
    span = next(span for span in result.trace.of(Unit.MATMUL) if Activity(span["activity"]).name == "BUSY")
    found = send("pointermove", clientX=LEFT + int(span["start"]), clientY=top(Unit.MATMUL) + 2)
    assert not found["hidden"] and found["tip"][0].startswith("MATMUL, BUSY")
    assert found["tip"][1] == f"{span['end'] - span['start']} cycles: {span['start']} to {span['end'] - 1}"
    assert f"instruction #{span['instruction']}" in found["tip"]
    had = result.trace.instructions(Unit.STORE)[0]
    found = send("pointermove", clientX=LEFT + int(had["end"]) - 1, clientY=top(Unit.STORE) + DOING + 2)
    assert found["tip"][1] == f"{had['end'] - had['start']} cycles: {had['start']} to {had['end'] - 1}"
    assert found["tip"][-1].startswith("STORE")
    assert send("pointermove", clientX=LEFT - 1, clientY=AXIS + 2)["hidden"]
    send("pointermove", clientX=LEFT + int(span["start"]), clientY=top(Unit.MATMUL) + 2)
    assert send("pointerleave")["hidden"]


def test_a_third_row_has_the_layers(result):
    """Each unit is in the layer of its instruction, of all that follow each other in one at once."""
    count = result.trace.program_count
    work = metrics.gemm_work(9, 6, 14)
    layers = Layers(["first", "second"], [work, work], np.arange(count) * 2 // count)
    send = browser(result, result.cycles, layers)
    painted = send()["painted"]
    for number, unit in enumerate(Unit):
        row = AXIS + (ROW + WORK) * number + DOING + WORK
        drawn = [(round(x) - LEFT, round(x + width) - LEFT, colour) for colour, x, y, width, height in painted
                 if colour in ("work", "work2") and y == row + 1 and height == WORK - 2]
        spans = list(layers.spans(result.trace, unit))
        assert drawn == [(start, end, ("work", "work2")[layer]) for layer, start, end in spans]
        had = result.trace.instructions(unit)
        assert {layer for layer, *_ in spans} == set(layers.of_instruction[had["instruction"]].tolist())
        assert (spans[0][1], spans[-1][2]) == (had["start"][0], had["end"][-1])
        for layer, start, end in spans:
            found = send("pointermove", clientX=LEFT + end - 1, clientY=row + 2)
            assert found["tip"] == [f"{unit.name}, layer {layers.names[layer]}",
                                    f"{end - start} cycles: {start} to {end - 1}"]


def instructions(sent, shift=0.0):
    """Where instructions are drawn, if no edge of the time line cuts them; moved by `shift` pixels."""
    return {(round(x + shift, 3), y, round(width, 3)) for colour, x, y, width, _ in sent["painted"]
            if colour in ("work", "work2") and LEFT + 100 < x < LEFT + 300 and width < 100}


def test_keys_zoom_and_move_and_come_back(result, send):
    whole = send()["painted"]
    closer = send("keydown", key="+")
    assert closer["stopped"] and closer["painted"] != whole
    moved = send("keydown", key="ArrowRight")
    assert instructions(closer) and instructions(closer, -result.cycles / 8) <= {
        (round(x, 3), y, round(width, 3)) for _, x, y, width, _ in moved["painted"]}
    assert send("keydown", key="ArrowLeft")["painted"] == closer["painted"]
    assert send("keydown", key="-")["painted"] == whole
    send("keydown", key="+")
    assert send("keydown", key="0")["painted"] == whole
    assert not send("keydown", key="x")["stopped"]


def test_the_wheel_zooms_around_the_pointer_and_a_drag_moves(result, send):
    whole = send()["painted"]
    had = result.trace.instructions(Unit.MATMUL)[1]
    x = LEFT + int(had["start"])
    wheel = send("wheel", deltaY=-300, deltaMode=0, offsetX=x, clientX=x, clientY=AXIS)
    assert wheel["stopped"]
    rows = [row for row in wheel["painted"] if row[2] == top(Unit.MATMUL) + DOING + 1]
    assert any(abs(row[1] - x) < 1e-6 and row[3] > had["end"] - had["start"] for row in rows)
    dragged = send("pointermove", buttons=1, movementX=10, clientX=x, clientY=AXIS)
    moved = [row for row in dragged["painted"] if row[2] == top(Unit.MATMUL) + DOING + 1]
    assert any(abs(row[1] - x - 10) < 1e-6 for row in moved)
    assert send("dblclick")["painted"] == whole
