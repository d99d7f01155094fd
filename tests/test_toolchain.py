"""Calling tools: errors in one line, nothing left running, folders whole or absent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiwicha_host import toolchain


def test_returns_and_logs_the_output(tmp_path):
    log = tmp_path / "deep" / "out.log"
    text = toolchain.run([sys.executable, "-c", "print('hello')"], timeout=20, log=log)
    assert text == "hello\n"
    assert log.read_text(encoding="utf-8") == text


def test_a_failure_names_tool_status_reason_and_log(tmp_path):
    log = tmp_path / "out.log"
    script = "print('x.v:3: error: first'); print('later'); raise SystemExit(3)"
    with pytest.raises(toolchain.ToolError) as caught:
        toolchain.run([sys.executable, "-c", script], timeout=20, log=log)
    name = Path(sys.executable).name
    assert str(caught.value) == f"{name}: exit status 3: x.v:3: error: first (log: {log})"


def test_a_tool_may_say_more_in_its_own_log(tmp_path):
    own, log = tmp_path / "own.log", tmp_path / "out.log"
    script = f"print('begun'); open({str(own)!r}, 'w').write('ERROR: too wide'); raise SystemExit(1)"
    with pytest.raises(toolchain.ToolError, match="exit status 1: ERROR: too wide"):
        toolchain.run([sys.executable, "-c", script], timeout=20, log=log, own_log=own)
    assert log.read_text(encoding="utf-8") == own.read_text(encoding="utf-8") == "ERROR: too wide"


def test_a_missing_tool_says_what_to_do():
    with pytest.raises(toolchain.ToolError, match=r"no-such-tool: not found; run 'make setup'"):
        toolchain.run(["no-such-tool"], timeout=1)


def test_a_missing_compiler_names_the_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain, "environment", lambda extra=None: {"PATH": str(tmp_path)})
    with pytest.raises(toolchain.ToolError) as caught:
        toolchain.run(["g++", "--version"], timeout=1)
    assert str(caught.value) == ("g++: not found; install it (Debian, Ubuntu: apt install g++; "
                                 "Fedora: dnf install gcc-c++; macOS: xcode-select --install)")


def test_a_timeout_ends_grandchildren_too(tmp_path):
    pid_file = tmp_path / "pid"
    with pytest.raises(toolchain.ToolError, match="took longer than 1 s"):
        toolchain.run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], timeout=1)
    _wait_for_the_end(int(pid_file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_whatever_ends_the_caller_ends_its_tools_too(tmp_path, number):
    pid_file = tmp_path / "pid"
    # SIGINT to a process whose parent ignores it would be ignored, too.
    script = ("import signal, sys; from kiwicha_host import toolchain\n"
              "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
              "with toolchain.workers(1) as pool:\n"
              "    pool.submit(toolchain.run, ['sh', '-c', sys.argv[1]], timeout=60).result()")
    command = f"sleep 60 & echo $! > '{pid_file}.new'; mv '{pid_file}.new' '{pid_file}'; wait"
    with subprocess.Popen([sys.executable, "-c", script, command], stderr=subprocess.DEVNULL) as caller:
        _wait_until(pid_file.exists)
        caller.send_signal(number)
        caller.wait(10)
    _wait_for_the_end(int(pid_file.read_text(encoding="utf-8")))


def _wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.05)


def _wait_for_the_end(pid):
    _wait_until(lambda: not _alive(pid))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may have collected it yet: in a container, process 1 need not.
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")


def test_the_environment_prefers_the_pinned_tools(monkeypatch):
    monkeypatch.setenv("VERILATOR_ROOT", "/elsewhere")
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "system")
    env = toolchain.environment({"EXTRA": "1"})
    first = Path(env["PATH"].split(os.pathsep)[0])
    assert (first / "verilator_bin").exists()
    assert first.parent == Path(env["VERILATOR_ROOT"])
    assert env["AMARANTH_USE_YOSYS"] == "builtin"
    assert env["EXTRA"] == "1"


def denied(path):
    """A folder that nobody can make, root neither: its parent is a file."""
    path.touch()
    return path / "folder"


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_without_a_home_tools_keep_their_caches_in_the_build_folder(monkeypatch, tmp_path, variable):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KIWICHA_BUILD", str(tmp_path / "build"))
    usual = toolchain.environment()
    assert usual["HOME"] == str(tmp_path) and "XDG_CACHE_HOME" not in usual
    monkeypatch.setenv(variable, str(denied(tmp_path / "file")))
    env = toolchain.environment()
    assert env["HOME"] == str(tmp_path / "build" / "home")
    assert Path(env["XDG_CACHE_HOME"]).is_relative_to(env["HOME"])
    before = dict(os.environ)
    with toolchain.for_amaranth():
        for name in ("HOME", "XDG_CACHE_HOME", "AMARANTH_USE_YOSYS"):
            assert os.environ[name] == env[name]
    assert dict(os.environ) == before


def test_without_home_and_build_folder_tools_have_a_temporary_one(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(denied(tmp_path / "file")))
    monkeypatch.setenv("KIWICHA_BUILD", str(tmp_path / "file" / "build"))
    assert Path(toolchain.environment()["HOME"]).is_dir()


def test_a_user_whom_the_system_does_not_know_has_no_home(monkeypatch, tmp_path):
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setenv("KIWICHA_BUILD", str(tmp_path))
    assert toolchain.environment()["HOME"] == str(tmp_path / "home")
