"""What the software needs when it is imported: no hardware, and no package that only some use."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Packages that the software is made of; onnx, pyserial, amaranth and the rest belong to whoever uses them.
NEEDED = {"numpy", "ml_dtypes", "click", "rich", "kiwicha", "kiwicha_host"}
SCRIPT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top not in {needed!r} and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Refuse())
sys.path[:0] = {roots!r}
{work}
print(*sorted(name for name in sys.modules if name.startswith("kiwicha.")))
"""
#: What hardware and software both count with.
SHARED = {"kiwicha.config", "kiwicha.formats", "kiwicha.function_table", "kiwicha.functions", "kiwicha.isa",
          "kiwicha.timing"}
GEMM = """
import numpy as np
from kiwicha_host import open_device
with open_device("golden", "tiny") as device:
    assert device.gemm(np.ones((2, 3), np.int8), np.ones((3, 4), np.int8)).tolist() == [[3] * 4] * 2
"""


@pytest.mark.parametrize("work", [
    "import kiwicha_host", "import kiwicha_host.compiler", "import kiwicha_host.cli, kiwicha_host.report", GEMM,
], ids=["host", "compiler", "cli", "gemm"])
def test_the_software_alone(work):
    script = SCRIPT.format(needed=NEEDED, roots=[str(ROOT / "rtl"), str(ROOT / "host")], work=work)
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=120)
    assert process.returncode == 0, process.stderr
    assert set(process.stdout.split()) <= SHARED


def test_every_tool_can_be_imported():
    """Also those that only `make` runs."""
    paths = [path for folder in ("bench", "fpga", "tb") for path in sorted((ROOT / folder).rglob("*.py"))
             if path.name not in ("__init__.py", "mutation_tests.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    script = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    process = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True,
                             encoding="utf-8", timeout=120)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("given, found", [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_nothing_is_told_of_a_run(given, found):
    """ONNX Runtime's telemetry is off before that is imported, unless somebody wants it."""
    script = f"""
import os, sys
sys.path[:0] = {[str(ROOT / "rtl"), str(ROOT / "host")]!r}
import kiwicha_host
assert "onnxruntime" not in sys.modules
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=120,
                             env=given)
    assert (process.stdout.strip(), process.stderr) == (found, "")
