"""The report's script in a JavaScript engine, with a canvas that remembers: the picture is the trace."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import quickjs

from kiwicha import ChipConfig
from kiwicha.isa import Activity, Unit
from kiwicha_host import metrics
from kiwicha_host.compiler import GemmSpec, compile_gemm
from kiwicha_host.devices import open_device
from kiwicha_host.report.page import html_page

TINY = ChipConfig.preset("tiny")
#: Pixels: left of the time line, above it, and of a unit's two rows.
LEFT, AXIS, DOING, ROW = 84, 24, 24, 54


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(4)
    a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((9, 14), (14, 6)))
    with open_device("verilated", config=TINY, trace=True) as device:
        return device.run(compile_gemm(TINY, GemmSpec(m=9, n=6, k=14)).job(a, b))


@pytest.fixture
def send(result):
    """Sends an event to the page, whose time line has one pixel for each cycle; returns what came of it."""
    work = metrics.gemm_work(9, 6, 14)
    page = html_page(TINY, work, metrics.figures("verilated", TINY, work, result), result.trace)
    data, script = (part.partition("</script>")[0] for part in page.split("<script")[1:])
    browser = Path(__file__).with_name("browser.js").read_text()
    context = quickjs.Context()
    context.set_time_limit(60)
    context.eval(browser.replace("DATA", json.dumps(data.partition(">")[2]))
                 .replace("WIDTH", str(LEFT + result.cycles)) + script.partition(">")[2])
    return lambda name=None, **event: json.loads(context.eval(f"send({json.dumps(name)}, {json.dumps(event)})"))


def columns(painted, unit):
    """The activity in each cycle of a unit's upper row, from a picture with a pixel for each cycle."""
    top = AXIS + ROW * list(Unit).index(unit)
    names = {each.name.lower() for each in Activity}
    found = {}
    for colour, x, y, width, height in painted:
        if colour in names and top <= y < top + DOING:
            assert (y, width, height) == (top, 1, DOING) and x not in found
            found[round(x) - LEFT] = colour.upper()
    return found


def test_each_cycle_has_the_colour_of_what_its_unit_did(result, send):
    painted = send()["painted"]
    for unit in Unit:
        spans = result.trace.of(unit)
        expected = {cycle: Activity(span["activity"]).name for span in spans if span["activity"]
                    for cycle in range(span["start"], span["end"])}
        assert columns(painted, unit) == expected
        counted = Counter(expected.values())
        assert all(counted[name] == count for name, count in result.counters[unit.name].items() if name != "IDLE")


def test_the_pointer_is_told_what_it_is_on(result, send):
    send()
    unit = list(Unit).index(Unit.MATMUL)
    span = next(span for span in result.trace.of(Unit.MATMUL) if Activity(span["activity"]).name == "BUSY")
    found = send("pointermove", clientX=LEFT + int(span["start"]), clientY=AXIS + unit * ROW + 2)
    assert not found["hidden"] and found["tip"][0].startswith("MATMUL, BUSY")
    assert found["tip"][1] == (f"{span['end'] - span['start']:,} cycles: {span['start']:,} to {span['end'] - 1:,}")
    assert f"instruction #{span['instruction']}" in found["tip"]
    assert send("pointermove", clientX=LEFT - 1, clientY=AXIS + 2)["hidden"]


def test_keys_and_the_wheel_zoom_and_come_back(send):
    whole = send()["painted"]
    closer = send("keydown", key="+")
    assert closer["stopped"] and closer["painted"] != whole
    assert send("keydown", key="ArrowRight")["painted"] not in (whole, closer["painted"])
    assert send("keydown", key="0")["painted"] == whole
    assert not send("keydown", key="x")["stopped"]
    wheel = send("wheel", deltaY=-300, deltaMode=0, offsetX=LEFT + 50, clientX=LEFT + 50, clientY=AXIS)
    assert wheel["stopped"] and wheel["painted"] != whole
    assert send("dblclick")["painted"] == whole
