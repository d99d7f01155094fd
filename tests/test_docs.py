"""The committed pages are those that the sources make."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]


@pytest.mark.parametrize("name", PAGES)
def test_up_to_date(name):
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), f"docs/{name} is stale; run 'make docs'"


def test_the_glossary_points_at_what_exists():
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| **")]
    words = [word for row in rows for word in re.findall(r"\*\*(.+?)\*\*", row[0])]
    assert len(words) > 60 and len(set(words)) == len(words), "a word twice"
    sources = {path: path.read_text(encoding="utf-8") for folder in ("rtl", "host", "fpga")
               for path in (DOCS.parent / folder).rglob("*.py")}
    for row in rows:
        for name in re.findall(r"`([\w/.]+)`", row[-1]):
            if name.endswith((".py", "/")):
                assert any(f"/{path}".endswith(f"/{name}") or f"/{name}" in f"/{path}/" for path in sources), name
            else:
                assert any(re.search(rf"\b{name}\b", text) for text in sources.values()), name


def test_the_api_pages_build_without_a_warning(tmp_path):
    done = subprocess.run([sys.executable, DOCS / "api.py", tmp_path], cwd=DOCS.parent, timeout=600, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert done.returncode == 0, done.stdout
    pages = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.html")}
    modules = {path.relative_to(DOCS.parent / folder).with_suffix("")
               for folder, package in (("rtl", "kiwicha"), ("host", "kiwicha_host"), (".", "fpga"))
               for path in (DOCS.parent / folder / package).rglob("*.py")}
    modules = {path.parent if path.name == "__init__" else path for path in modules if path.name != "__main__"}
    left_out = {Path(*name.split(".")) for name in runpy.run_path(str(DOCS / "api.py"))["LEFT_OUT"]}
    assert left_out < modules and pages == modules - left_out | {Path("index")}


#: What has another name now: the glossary's, which is the field's. (Written so that this line is not found.)
RETIRED = re.compile(r"\b(?:stat[i]ons?|sk[i]ds?|seq[u]encers?|(?:de|re)?quant[i]s\w*|norm[a]lis\w*|"
                     r"fr[e]sh[ _]scales?)\b", re.IGNORECASE)


def test_one_word_for_each_thing():
    pages = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *DOCS.rglob("*.md"), *DOCS.rglob("*.svg")]
    sources = [path for folder in ("rtl", "host", "fpga", "tb", "bench", "tests")
               for path in (DOCS.parent / folder).rglob("*.py")]
    found = [f"{path.name}: {match[0]}" for path in (*pages, *sources)
             for match in RETIRED.finditer(path.read_text(encoding="utf-8"))]
    assert not found, found
