"""What each switch of a configuration costs: that all are counted, in the units that they change, and shown."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import pytest
from amaranth.back import rtlil
from click.testing import CliRunner

from bench import area
from fpga import build, report, switches
from kiwicha.bus.arbiter import ReadArbiter
from kiwicha.config import ChipConfig
from kiwicha.dma.index import IndexReader
from kiwicha.dma.load import LoadUnit
from kiwicha.dma.store import StoreUnit
from kiwicha.matmul.unit import MatmulUnit
from kiwicha.memory.accumulator import Accumulator
from kiwicha.memory.scratchpad import Scratchpad
from kiwicha.vector.unit import VectorUnit
from kiwicha_host.cli import commands

SMALL = dataclasses.replace(ChipConfig.preset("tiny"), rows=2, columns=2, vector_lanes=1, queue_depth=1,
                            bank_lines=64, accumulator_lines=64)
SWITCHES = {item.name for item in dataclasses.fields(ChipConfig) if isinstance(item.default, bool)}


def test_every_switch_of_a_configuration_was_counted():
    """A new switch needs a row of `area.UNITS`, and `python -m bench.area --switches --keep`."""
    kept = json.loads(switches.FILE.read_text(encoding="utf-8"))
    assert set(kept) == set(area.UNITS) == SWITCHES
    for name, cost in kept.items():
        assert list(cost) == ["lut", "ff", "dsp", "bram"]
        assert all(isinstance(value, int) for value in cost.values())
        assert cost["lut"] > 0 and cost["ff"] > 0, name


def test_the_documents_have_the_costs_that_are_kept():
    text = (Path(__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)`[^|]* \| [A-Za-z, ]+ \| (.*) \|$", text, re.MULTILINE))
    for name, cost in json.loads(switches.FILE.read_text(encoding="utf-8")).items():
        assert rows[name].split(" | ") == [f"{value:,}" for value in cost.values()], name


@functools.cache
def netlist_of(unit, config):
    return rtlil.convert(unit(config), emit_src=False)


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_a_switch_changes_the_units_that_are_counted_and_no_others(name):
    """But control, where it is a bit of a register; and the reader of indices, which is there with them alone."""
    without = dataclasses.replace(SMALL, functions=name == "top_k")
    units = (LoadUnit, StoreUnit, MatmulUnit, VectorUnit, Scratchpad, Accumulator, ReadArbiter)
    changed = {unit for unit in units
               if netlist_of(unit, without) != netlist_of(unit, dataclasses.replace(without, **{name: True}))}
    assert changed == set(area.UNITS[name]) - {IndexReader}


def test_a_switch_costs_what_its_units_take_more_with_it():
    def count(unit):
        config = unit.config if isinstance(unit, LoadUnit | StoreUnit) else getattr(unit, "_config", None)
        if config is None:
            assert isinstance(unit, IndexReader)
            return report.Usage(lut=5, ff=7, dsp=0, bram=1)
        scale = 1 + config.indices + 2 * config.functions + 4 * config.top_k
        return report.Usage(lut=10 * scale, ff=100 * scale, dsp=scale, bram=2 * scale)

    assert area.switch_cost("indices", count) == {"lut": 25, "ff": 207, "dsp": 2, "bram": 5}
    assert area.switch_cost("functions", count) == {"lut": 20, "ff": 200, "dsp": 2, "bram": 4}
    assert area.switch_cost("top_k", count) == {"lut": 40, "ff": 400, "dsp": 4, "bram": 8}


@pytest.mark.parametrize("terminal, as_json, shown", [
    (True, False, True), (True, True, False), (False, False, False)])
def test_people_see_the_switches_and_scripts_the_report_alone(monkeypatch, capsys, terminal, as_json, shown):
    config = dataclasses.replace(SMALL, indices=True)
    made = {"switches": switches.table(config), "switches_note": switches.NOTE}
    monkeypatch.setattr(build, "synthesise", lambda *arguments, **options: made)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    commands.synth.callback(board="ulx3s_85f", config=None, seed=None, as_json=as_json)
    out, err = capsys.readouterr()
    assert json.loads(out) == made
    lines = [[cell.strip(" │┃") for cell in line.split("│")[1:4]] for line in err.splitlines() if "│" in line]
    if shown:
        assert [line[:2] for line in lines] == [[name, "yes" if name == "indices" else "no"]
                                                for name in switches.names()]
        assert f"{made['switches']['indices']['lut']:,}" in lines[switches.names().index("indices")]
    assert (switches.NOTE in err) == shown


@pytest.mark.parametrize("arguments, message", [
    ([], "give the name of a component, or --switches"), (["float_add", "--switches"], "or --switches"),
    (["float_add", "--keep"], "--keep is for --switches")])
def test_what_is_counted_must_be_said(arguments, message):
    done = CliRunner().invoke(area.main, arguments)
    assert done.exit_code == 2 and message in done.output
