"""Files and pipes of text say their encoding: what a locale makes of a byte is nobody's business here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for room in ("rtl", "host", "fpga", "tb", "tests", "bench", "docs", "examples")
           for path in sorted((ROOT / room).rglob("*.py"))]
#: Calls that read or write text unless their mode (an argument's position, and its default) has a "b".
MODES = {"open": (1, "r"), "fdopen": (1, "r"), "NamedTemporaryFile": (0, "w+b"), "TemporaryFile": (0, "w+b")}


def opens_text(call: ast.Call) -> bool:
    """Whether `call` turns bytes into text, or text into bytes."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    given = {item.arg: item.value for item in call.keywords}
    if name in ("read_text", "write_text"):
        return True
    if name in ("run", "Popen", "check_output"):
        return "text" in given or "universal_newlines" in given
    if name not in MODES or getattr(getattr(call.func, "value", None), "id", "") in ("os", "wave"):
        return False
    position, default = MODES[name]
    if isinstance(call.func, ast.Attribute) and name == "open":
        position = 0        # a method of Path
    mode = given.get("mode", call.args[position] if len(call.args) > position else ast.Constant(default))
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and set(mode.value) <= set("rwxat+")


def silent(source: str) -> list[int]:
    """Lines of calls that leave the encoding to the locale."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
            and opens_text(node) and "encoding" not in {item.arg for item in node.keywords}]


def test_every_text_says_its_encoding():
    found = [f"{path.relative_to(ROOT)}:{line}" for path in SOURCES
             for line in silent(path.read_text(encoding="utf-8"))]
    assert len(SOURCES) > 100 and not found


@pytest.mark.parametrize("source, found", [
    ("open(name)", True), ("open(name, 'rb')", False), ("path.open('w')", True), ("path.open('wb')", False),
    ("open(name, mode='r', encoding='utf-8')", False), ("os.open(name, flags)", False), ("a.read_text()", True),
    ("a.write_text(x, encoding='utf-8')", False), ("run(x, text=True)", True), ("run(x)", False),
    ("TemporaryFile()", False), ("NamedTemporaryFile('w')", True), ("os.fdopen(3)", False),
])
def test_the_search_finds_them(source, found):
    assert bool(silent(source)) == found
