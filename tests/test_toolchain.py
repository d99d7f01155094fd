"""Calling tools: errors in one line, nothing left running, folders whole or absent."""

import os
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


def test_a_timeout_ends_grandchildren_too(tmp_path):
    pid_file = tmp_path / "pid"
    with pytest.raises(toolchain.ToolError, match="took longer than 1 s"):
        toolchain.run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], timeout=1)
    pid = int(pid_file.read_text(encoding="utf-8"))
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the grandchild still runs"
        time.sleep(0.05)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may have collected it yet: in a container, process 1 need not.
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")


def test_the_environment_prefers_the_pinned_tools(monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "-j --jobserver-auth=3,4")
    monkeypatch.setenv("VERILATOR_ROOT", "/elsewhere")
    env = toolchain.environment({"EXTRA": "1"})
    first = Path(env["PATH"].split(os.pathsep)[0])
    assert (first / "verilator_bin").exists()
    assert first.parent == Path(env["VERILATOR_ROOT"])
    assert "jobserver" not in env["MAKEFLAGS"]
    assert env["EXTRA"] == "1"


def test_build_root_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("KIWICHA_BUILD", str(tmp_path))
    assert toolchain.build_root() == tmp_path


def test_content_hash_depends_on_every_part_and_its_borders(tmp_path):
    file = tmp_path / "f"
    file.write_text("ab", encoding="utf-8")
    assert toolchain.content_hash(file, {"b": 1, "a": 2}) == toolchain.content_hash("ab", {"a": 2, "b": 1})
    assert toolchain.content_hash("ab", "c") != toolchain.content_hash("a", "bc")


def test_publish_is_all_or_nothing(tmp_path):
    target = tmp_path / "result"
    with pytest.raises(RuntimeError, match="halfway"), toolchain.publish(target) as work:
        (work / "file").write_text("bad", encoding="utf-8")
        raise RuntimeError("halfway")
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with toolchain.publish(target) as work:
            (work / "file").write_text(text, encoding="utf-8")
        assert (target / "file").read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [target]
