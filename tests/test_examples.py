"""What docs/examples shows runs, on the golden device."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SCRIPTS = sorted((DOCS / "examples").glob("*.py"))
generate = runpy.run_path(str(DOCS / "generate.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script(script, monkeypatch, capsys):
    """Each asserts that what it shows is right."""
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    assert re.search(r"\d+ cycles", capsys.readouterr().out)


@pytest.mark.parametrize("name", generate["NOTEBOOKS"], ids=lambda name: Path(name).stem)
def test_a_notebook_prints_what_it_shows(name):
    """Figures move with the compiler; all else must be as it was committed."""
    def words(page):
        return [re.sub(r" *[\d,.]+", " #", "".join(text)) for cell in page["cells"]
                for text in ([output["text"] for output in cell.get("outputs", ())] or [cell["source"]])]
    committed = json.loads((DOCS / name).read_text(encoding="utf-8"))
    assert words(json.loads(generate["notebook"](name))) == words(committed), "run 'make docs'"
    assert sum(bool(cell.get("outputs")) for cell in committed["cells"]) >= 5


def test_examples_are_named_where_people_look():
    page = (DOCS / "examples" / "README.md").read_text(encoding="utf-8")
    assert all(f"]({path.name})" in page for path in (*SCRIPTS, *map(Path, generate["NOTEBOOKS"])))
