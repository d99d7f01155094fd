"""Files come whole or not at all, also where two belong together."""

import numpy as np
import pytest

from kiwicha_host.files import FileProblem, write_arrays

ONE, TWO = np.arange(3, dtype=np.int8), np.ones((2, 2), np.float32)


def test_arrays_are_written(tmp_path):
    write_arrays({tmp_path / "c.npy": ONE, tmp_path / "c.scale.npy": TWO})
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), ONE)
    np.testing.assert_array_equal(np.load(tmp_path / "c.scale.npy"), TWO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.npy", "c.scale.npy"]


def test_one_that_fails_leaves_none(tmp_path, monkeypatch):
    """The second file meets a full disk."""
    (tmp_path / "c.npy").write_text("before", encoding="utf-8")
    save = np.save

    def until_full(file, array, **options):
        if array is TWO:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(file, array, **options)

    monkeypatch.setattr(np, "save", until_full)
    with pytest.raises(FileProblem, match=r"^cannot write .*c\.scale\.npy: No space left on device$"):
        write_arrays({tmp_path / "c.npy": ONE, tmp_path / "c.scale.npy": TWO})
    assert [path.name for path in tmp_path.iterdir()] == ["c.npy"]
    assert (tmp_path / "c.npy").read_text(encoding="utf-8") == "before"
