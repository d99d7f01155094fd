"""The committed pages are those that the sources make."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]


@pytest.mark.parametrize("name", PAGES)
def test_up_to_date(name):
    assert (DOCS / name).read_text() == PAGES[name](), f"docs/{name} is stale; run 'make docs'"


def test_the_api_pages_build_without_a_warning(tmp_path):
    done = subprocess.run([sys.executable, DOCS / "api.py", tmp_path], cwd=DOCS.parent, timeout=600, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    pages = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.html")}
    modules = {path.relative_to(DOCS.parent / folder).with_suffix("")
               for folder, package in (("rtl", "kiwicha"), ("host", "kiwicha_host"), (".", "fpga"))
               for path in (DOCS.parent / folder / package).rglob("*.py")}
    modules = {path.parent if path.name == "__init__" else path for path in modules if path.name != "__main__"}
    assert pages == modules | {Path("index")}
