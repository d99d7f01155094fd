"""The build folder: whole parts or none, for whoever may read them, and one line where it cannot be written to."""

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiwicha_host.build_cache import (
    BuildFolderError,
    build_folder,
    build_root,
    cached,
    content_hash,
    locked,
    writable,
)


def write(work):
    (work / "file").write_text("whole", encoding="utf-8")


def test_build_root_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("KIWICHA_BUILD", str(tmp_path))
    assert build_root() == tmp_path


def test_content_hash_depends_on_every_part_and_its_borders(tmp_path):
    file = tmp_path / "f"
    file.write_text("ab", encoding="utf-8")
    assert content_hash(file, {"b": 1, "a": 2}) == content_hash("ab", {"a": 2, "b": 1})
    assert content_hash("ab", "c") != content_hash("a", "bc")


def test_a_folder_is_whole_or_absent_and_made_once(tmp_path):
    target = tmp_path / "8x8.5-key"

    def fail(work):
        write(work)
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        cached(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["8x8.5-key.lock"]
    assert cached(target, write) == target
    assert cached(target, fail) == target
    assert (target / "file").read_text(encoding="utf-8") == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"8x8.5-key", "8x8.5-key.lock"}


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_the_umask_decides_who_may_read(tmp_path, mask):
    before = os.umask(mask)
    try:
        target = cached(tmp_path / "target", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~mask
    assert stat.S_IMODE((target / "file").stat().st_mode) == 0o666 & ~mask


def test_what_is_there_needs_no_lock_and_no_rights(tmp_path):
    target = cached(tmp_path / "target", write)
    with locked(tmp_path / "target.lock"):
        # Would wait for ever if it took the lock, and could not open it without rights.
        assert cached(target, write) == target
    (tmp_path / "target.lock").unlink()
    cached(target, write)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_next_build_clears_away_what_a_killed_one_left(tmp_path):
    script = ("import sys, time; from pathlib import Path; from kiwicha_host.build_cache import cached\n"
              "def make(work): (work / 'half').touch(); time.sleep(60)\n"
              "cached(Path(sys.argv[1]), make)")
    target, running = tmp_path / "killed", tmp_path / "running"
    with subprocess.Popen([sys.executable, "-c", script, target]) as killed, \
            subprocess.Popen([sys.executable, "-c", script, running]) as other:
        deadline = time.monotonic() + 30
        while not all((tmp_path / f"{name}.partial" / "half").exists() for name in ("killed", "running")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        assert (tmp_path / "killed.partial").exists()
        cached(tmp_path / "next", write)
        assert not (tmp_path / "killed.partial").exists()
        assert (tmp_path / "running.partial" / "half").exists()
        other.kill()
    assert (cached(running, write) / "file").exists()
    assert not list(tmp_path.glob("*.partial"))


def deny(path):
    """Make `path` read-only, for root too: what is asked for below it is refused as a file's parent."""
    path.write_text("a file, which nobody can write below", encoding="utf-8")
    return path / "build"


@pytest.mark.parametrize("use", [
    lambda root: cached(root / "device" / "x", write), lambda root: build_folder("verilog"),
    lambda root: locked(root / "x.lock").__enter__()])
def test_a_folder_that_cannot_be_written_to_names_the_way_out(monkeypatch, tmp_path, use):
    root = deny(tmp_path / "denied")
    monkeypatch.setenv("KIWICHA_BUILD", str(root))
    with pytest.raises(BuildFolderError, match=rf"cannot write to {re.escape(str(root))}.*: Not a directory; "
                                               r"set KIWICHA_BUILD to a folder that you can write to$"):
        use(root)


def test_a_read_only_folder_names_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("KIWICHA_BUILD", str(tmp_path))
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BuildFolderError, match="Permission denied; set KIWICHA_BUILD"):
        build_folder("verilog")


def test_writable(tmp_path):
    assert writable(tmp_path / "not" / "yet" / "there")
    assert not writable(deny(tmp_path / "denied"))
    tmp_path.chmod(0o555)
    # Root may write there nevertheless.
    assert writable(tmp_path / "new") == (os.geteuid() == 0)


def test_without_a_home_an_installed_package_asks_for_a_folder(monkeypatch):
    for name in ("KIWICHA_BUILD", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("kiwicha_host.build_cache.__file__", "/usr/lib/python3/kiwicha_host/build_cache.py")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(BuildFolderError, match="no home folder to build in; set KIWICHA_BUILD"):
        build_root()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert build_root() == Path("/somewhere/kiwicha")
