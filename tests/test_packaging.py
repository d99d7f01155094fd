"""What is installed: the lock file, the extras, and software that needs four packages and no hardware."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kiwicha_host.extras import MissingExtra, extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: What `make setup` does not install, because it is large and only few need it.
LEFT_OUT = {"train"}
ALL = [*PROJECT["dependencies"], *(line for name in EXTRAS.keys() - LEFT_OUT for line in EXTRAS[name])]
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
            if not line.startswith("#"))

#: What can be imported where nothing but the package itself is installed.
PLAIN = ("kiwicha", "kiwicha_host", "fpga", "numpy", "ml_dtypes", "click", "rich", "markdown_it", "mdurl",
         "pygments")
#: What each extra brings that the software imports by itself.
BROUGHT = {"llm": "gguf", "onnx": "onnx", "serial": "serial", "sim": "amaranth", "synth": "amaranth_boards"}
MISSING = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if {condition}:
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)
sys.meta_path.insert(0, Missing())
"""


def without(name):
    """Python in which the package `name` is not installed."""
    return MISSING.format(condition=f"top == {name!r}")


def only_software():
    """Python in which only the software is installed, without extras."""
    return MISSING.format(condition=f"top not in {PLAIN} and top not in sys.stdlib_module_names")


def run(code, *, cwd=ROOT):
    path = os.pathsep.join(str(ROOT / folder) for folder in ("rtl", "host", ""))
    return subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=cwd, timeout=120, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": path}, encoding="utf-8")


def requirements(lines, chosen=""):
    """Of requirements as text, those that hold here for the extra `chosen`."""
    items = map(Requirement, lines or ())
    return [item for item in items if item.marker is None or item.marker.evaluate({"extra": chosen})]


def needed():
    """Every package that `make setup` installs, by its canonical name."""
    found, visited, todo = set(), set(), [(item, item.extras) for item in requirements(ALL)]
    while todo:
        item, extras = todo.pop()
        name = canonicalize_name(item.name)
        lines = None if name == "kiwicha" else importlib.metadata.requires(name)
        for chosen in {"", *extras} - {""} if name == "kiwicha" else {"", *extras}:
            if (name, chosen) not in visited:
                visited.add((name, chosen))
                todo += [(below, below.extras) for below in requirements(lines or EXTRAS.get(chosen), chosen)]
        found.add(name)
    return found - {"kiwicha"}


def test_the_lock_file_is_all_that_is_installed_and_nothing_else():
    assert {canonicalize_name(name) for name in LOCK} == needed(), "run 'make lock'"


def test_the_lock_file_is_within_the_ranges():
    locked = {canonicalize_name(name): version for name, version in LOCK.items()}
    for item in requirements(ALL):
        name = canonicalize_name(item.name)
        assert name == "kiwicha" or locked[name] in item.specifier, f"{item}, but the lock has {locked[name]}"


def test_what_runs_here_is_what_the_lock_file_says():
    assert {name: importlib.metadata.version(name) for name in LOCK} == LOCK, "run 'make setup'"


def test_no_dependency_of_the_software_is_exact():
    for item in requirements(line for line in ALL if "kiwicha" not in line):
        assert item.specifier and "==" not in str(item.specifier), f"{item}: a range; exact versions are locked"


def test_setup_installs_from_the_lock_file():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rule = re.search(r"^\.venv/\.stamp:.*\n(?:\t.*\n)+", makefile, re.MULTILINE)[0]
    assert "requirements.lock\n" in rule.splitlines(keepends=True)[0]
    assert "--constraint requirements.lock" in rule


def test_the_development_extra_has_all_others():
    mine = next(item for item in map(Requirement, EXTRAS["dev"]) if item.name == "kiwicha")
    assert mine.extras == set(EXTRAS) - {"dev"} - LEFT_OUT


@pytest.mark.parametrize("package", ["rtl/kiwicha", "host/kiwicha_host"])
def test_packages_say_that_they_are_typed(package):
    assert (ROOT / package / "py.typed").is_file()


def test_each_file_of_a_package_is_installed():
    """Wheels hold modules, and what `package-data` says."""
    settings = tomllib.loads(written("pyproject.toml"))["tool"]["setuptools"]
    for package, folder in settings["package-dir"].items():
        for path in (ROOT / folder).rglob("*.*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            name = ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
            patterns = settings["package-data"].get(name, [])
            assert any(path.match(pattern) for pattern in patterns), f"{path} needs a pattern in package-data"


# What is written down twice.

def written(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in written("CITATION.cff")
    assert re.search(r"^## ([\d.]+)", written("CHANGELOG.md"), re.MULTILINE)[1] == version


def test_ci_runs_once_with_few_rights_and_named_commits():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "\npermissions:\n  contents: read\n" in text and text.count("permissions:") == 1
    # A branch's push does not run what its pull request runs.
    assert "  push:\n    branches: [main]\n" in text
    actions = re.findall(r"uses: (\S+)", text)
    assert len(actions) >= 7 and all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", item) for item in actions)


def test_every_link_between_pages_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", text):
            goal = page.parent / target if target else page
            assert goal.exists(), f"{page.name}: {target}"
            if anchor:
                heads = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-")
                         for head in re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), re.MULTILINE)]
                assert anchor in heads, f"{page.name}: {target}#{anchor}"


# Extras.

def test_an_extra_is_named_and_other_mistakes_are_not_hidden():
    with pytest.raises(MissingExtra, match=r"^nowhere is not installed; pip install 'kiwicha\[onnx\]'$") as caught:
        with extra("onnx"):
            import nowhere.inside
    assert isinstance(caught.value, ImportError) and caught.value.name == "nowhere"
    with pytest.raises(ModuleNotFoundError, match=r"kiwicha_host\.nowhere"):
        with extra("onnx"):
            import kiwicha_host.nowhere  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"):
        with extra("onnx"):
            from json import nowhere  # noqa: F401


def test_every_extra_that_the_sources_name_exists():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "host").rglob("*.py")]
    named = {name for source in sources
             for name in re.findall(r"^\s*with extra\(\"(\w+)\"\):", source, re.MULTILINE)}
    assert named == set(EXTRAS) - {"dev"}


@pytest.mark.parametrize("name, command", [
    ("onnx", ["run", "model.onnx", "a.npy", "--device", "golden"]),
    ("llm", ["generate", ".", "--prompt", "x", "--device", "golden"]),
    ("sim", ["gemm", "a.npy", "a.npy", "--config", "tiny"]),
    ("sim", ["verilog", "--config", "tiny", "-o", "out"]),
    ("serial", ["gemm", "a.npy", "a.npy", "--device", "serial:/dev/null"]),
    ("synth", ["boards"]),
    ("synth", ["synth", "--board", "ulx3s_25f"]),
])
def test_the_command_names_the_extra_in_one_line(name, command, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 2), np.int8))
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.gguf").touch()
    done = run(f"{without(BROUGHT[name])}\nfrom kiwicha_host.cli import main; main({command})", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr == f"kiwicha: {BROUGHT[name]} is not installed; pip install 'kiwicha[{name}]'\n"
    assert not (tmp_path / "out").exists()


# Software without hardware.

def test_the_software_needs_four_packages(tmp_path):
    done = run(only_software() + """
import numpy as np
import kiwicha_host
from kiwicha_host.cli import main
a = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
with kiwicha_host.open_device("golden", config="tiny") as device:
    assert (device.gemm(a, a.T) == a.astype(np.int32) @ a.T.astype(np.int32)).all()
    assert device.last_result.cycles > 0
main(["configs"])
""", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ulx3s_85f" in done.stdout
