"""Files come whole or not at all, also where two belong together; links and modes stay."""

import contextlib
import errno
import os
import resource
import stat

import numpy as np
import pytest

from kiwicha_host.files import (
    FileProblem,
    check_inputs,
    read_array,
    replacing,
    write_array,
    write_arrays,
    write_texts,
)

ONE, TWO = np.arange(3, dtype=np.int8), np.ones((20, 20), np.float32)


@contextlib.contextmanager
def files_of_at_most(size):
    """As a full disk: a write beyond `size` bytes of a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("array", [
    ONE, TWO, TWO[::2, 1::3], np.asfortranarray(TWO), np.float32(3), np.ones((0, 3)), np.ones((2, 3, 4), ">i4"),
    np.array(["a", "bc"]), np.ones((3, 1), bool),
], ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_are_numpys(tmp_path, array):
    """Byte for byte what numpy.save writes, and read again."""
    array = np.asarray(array)
    write_array(tmp_path / "mine.npy", array)
    np.save(tmp_path / "numpys.npy", array)
    assert (tmp_path / "mine.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()
    again = read_array(tmp_path / "mine.npy")
    assert again.dtype == array.dtype.newbyteorder("=") and again.shape == array.shape
    np.testing.assert_array_equal(again, array)


def test_arrays_are_written(tmp_path):
    write_arrays({tmp_path / "c.npy": ONE, tmp_path / "c.scale.npy": TWO})
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), ONE)
    np.testing.assert_array_equal(np.load(tmp_path / "c.scale.npy"), TWO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.npy", "c.scale.npy"]


def test_one_that_fails_leaves_none(tmp_path):
    """The second file meets a full disk."""
    (tmp_path / "c.npy").write_text("before", encoding="utf-8")
    with files_of_at_most(1000), pytest.raises(FileProblem) as caught:
        write_arrays({tmp_path / "c.npy": ONE, tmp_path / "c.scale.npy": TWO})
    assert str(caught.value) == f"cannot write {tmp_path}/c.scale.npy: {os.strerror(errno.EFBIG)}"
    assert [path.name for path in tmp_path.iterdir()] == ["c.npy"]
    assert (tmp_path / "c.npy").read_text(encoding="utf-8") == "before"


def test_texts_are_all_or_none(tmp_path):
    (tmp_path / "a").write_text("before", encoding="utf-8")
    with files_of_at_most(1000), pytest.raises(FileProblem, match=r"cannot write .*/b: "):
        write_texts(tmp_path, {"a": "new", "b": "x" * 2000})
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("a", "before")]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
                                     OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))])
def test_a_full_disk_is_said(tmp_path, failure):
    with pytest.raises(FileProblem, match=failure.strerror), replacing(tmp_path / "x"):
        raise failure
    assert not os.listdir(tmp_path)


def test_a_full_device_is_said(tmp_path):
    with pytest.raises(FileProblem, match=r"^cannot write /dev/full: No space left on device$"):
        write_arrays({tmp_path / "c.npy": ONE, tmp_path.__class__("/dev/full"): TWO})
    assert not os.listdir(tmp_path)


def test_modes_and_links_stay(tmp_path):
    umask = os.umask(0o027)
    try:
        write_array(tmp_path / "new.npy", ONE)
        (tmp_path / "old.npy").write_text("old", encoding="utf-8")
        (tmp_path / "old.npy").chmod(0o604)
        (tmp_path / "link.npy").symlink_to("old.npy")
        (tmp_path / "dangling.npy").symlink_to("made.npy")
        write_array(tmp_path / "link.npy", TWO)
        write_array(tmp_path / "dangling.npy", TWO)
    finally:
        os.umask(umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"new.npy": 0o640, "old.npy": 0o604, "link.npy": 0o604, "made.npy": 0o640,
                     "dangling.npy": 0o640}
    assert os.readlink(tmp_path / "link.npy") == "old.npy" and (tmp_path / "dangling.npy").is_symlink()
    np.testing.assert_array_equal(np.load(tmp_path / "old.npy"), TWO)


def test_the_longest_name(tmp_path):
    write_array(tmp_path / ("x" * 255), ONE)
    with pytest.raises(FileProblem, match="File name too long"):
        write_array(tmp_path / ("x" * 256), ONE)


def test_a_circle_of_links(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileProblem, match="Too many levels of symbolic links"):
        write_array(tmp_path / "a", ONE)
    with pytest.raises(FileProblem, match="Too many levels of symbolic links"):
        read_array(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_may_not_be_written(tmp_path):
    (tmp_path / "file").touch(0o444)
    (tmp_path / "folder").mkdir(0o555)
    with pytest.raises(FileProblem, match=r"cannot write .*/file: no permission$"):
        write_array(tmp_path / "file", ONE)
    with pytest.raises(FileProblem, match=r"no permission in .*/folder$"):
        write_array(tmp_path / "folder" / "x", ONE)


def test_a_stream_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "file").touch()
    check_inputs([tmp_path / "file", tmp_path / "file", tmp_path / "pipe", tmp_path / "missing"])
    with pytest.raises(FileProblem, match="link is given twice, but can be read only once; "):
        check_inputs([tmp_path / "pipe", tmp_path / "file", tmp_path / "link"])
