"""What tests of the command `kiwicha` share; its fixtures are in conftest.py."""

import os

#: Of the matrices that lie in the folder.
M, K, N = 3, 5, 7
GOLDEN = ["--device", "golden"]


def fails(run, status, message, *arguments):
    before = sorted(os.listdir())
    got, out, err = run(*arguments)
    assert (got, out) == (status, ""), err
    assert err.startswith("kiwicha: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert message in err
    assert sorted(os.listdir()) == before
