"""Standard input and output, pipes and devices in the place of files, as other tools of Unix take them."""

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from kiwicha_host import cli, models

ROOT = Path(__file__).parents[1]
GOLDEN = ["--device", "golden", "--config", "tiny"]
RNG = np.random.default_rng(0)
A, B = RNG.integers(-128, 128, (3, 5), np.int8), RNG.integers(-128, 128, (5, 7), np.int8)
C = A.astype(np.int32) @ B.astype(np.int32)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", A)
    np.save("b.npy", B)
    return tmp_path


def as_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def kiwicha(*arguments, **pipes):
    """The command as a process, with pipes where nothing else is given."""
    pipes["env"] = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "rtl"), str(ROOT / "host")])}
    if "stdin" not in pipes and "input" not in pipes:
        pipes["stdin"] = subprocess.DEVNULL
    return subprocess.run([sys.executable, "-m", "kiwicha_host.cli", *map(str, arguments)], timeout=120, **{
        "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes})


def refused(process, message, status=1):
    """One line, no traceback, and nothing on standard output."""
    assert process.returncode == status and not process.stdout, process
    assert process.stderr.decode() == f"kiwicha: {message}\n"


def test_standard_input_and_output():
    process = kiwicha("gemm", "-", "b.npy", "-o", "-", *GOLDEN, input=as_bytes(A))
    assert process.returncode == 0 and process.stdout == as_bytes(C)
    # The figures are for people, beside the result.
    assert "peak macs per cycle" in process.stderr.decode() and os.listdir() == ["a.npy", "b.npy"]


def test_standard_output_is_not_begun_again():
    """What was there before stays: the descriptor is written, and not the file that it leads to."""
    Path("all").write_bytes(b"before")
    with open("a.npy", "rb") as source, open("all", "ab") as target:
        process = kiwicha("gemm", "/dev/stdin", "b.npy", "-o", "/dev/stdout", *GOLDEN, stdin=source, stdout=target)
    assert process.returncode == 0 and Path("all").read_bytes() == b"before" + as_bytes(C)


def test_named_pipes():
    """A file each as a shell's <(...) and >(...) give it."""
    for name in ("a", "b", "c"):
        os.mkfifo(name)
    got = []
    threads = [threading.Thread(target=Path("a").write_bytes, args=(as_bytes(A),), daemon=True),
               threading.Thread(target=Path("b").write_bytes, args=(as_bytes(B),), daemon=True),
               threading.Thread(target=lambda: got.append(Path("c").read_bytes()), daemon=True)]
    for thread in threads:
        thread.start()
    process = kiwicha("gemm", "a", "b", "-o", "c", "--json", *GOLDEN)
    assert (process.returncode, process.stderr) == (0, b"") and process.stdout.startswith(b"{")
    threads[2].join(60)
    assert got == [as_bytes(C)] and Path("c").is_fifo()


def test_a_network_from_a_pipe():
    images = models.digits_test()[0][:3]
    np.save("x.npy", images)
    expected = kiwicha("run", models.DIGITS_MLP, "x.npy", "-o", "y.npy", *GOLDEN)
    assert expected.returncode == 0, expected.stderr
    process = kiwicha("run", "-", "x.npy", "-o", "-", *GOLDEN, input=models.DIGITS_MLP.read_bytes())
    assert process.returncode == 0 and process.stdout == Path("y.npy").read_bytes()
    process = kiwicha("run", models.DIGITS_MLP, "-", "-o", "z.npy", *GOLDEN, input=as_bytes(images))
    assert process.returncode == 0 and Path("z.npy").read_bytes() == Path("y.npy").read_bytes()


def test_a_configuration_from_a_pipe():
    process = kiwicha("gemm", "a.npy", "b.npy", "--json", "--device", "golden", "--config", "/dev/stdin",
                      input=b'\xef\xbb\xbfbase = "tiny"\nrows = 2\n')
    assert process.returncode == 0 and b'"peak_macs_per_cycle": 8' in process.stdout


@pytest.mark.parametrize("data, message", [
    (as_bytes(A)[:-1], "standard input is damaged: shape [3, 5] needs 15 bytes, it has 14"),
    (as_bytes(A) + b"x", "standard input is damaged: shape [3, 5] needs 15 bytes, it has more"),
    (b"", "standard input is not a .npy file; save the array with numpy.save"),
])
def test_a_bad_stream(data, message):
    refused(kiwicha("gemm", "-", "b.npy", *GOLDEN, input=data), message)


def test_a_reader_that_has_had_enough():
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as pipe:
        process = kiwicha("gemm", "a.npy", "b.npy", "-o", "-", *GOLDEN, stdout=pipe)
    assert (process.returncode, process.stderr) == (1, b"")


@pytest.mark.parametrize("arguments, message", [
    (["gemm", "a.npy", "b.npy", "-o", "/dev/full", *GOLDEN], "cannot write /dev/full: No space left on device"),
    (["gemm", "a.npy", "b.npy", "-o", "-", *GOLDEN], "cannot write standard output: No space left on device"),
    (["gemm", "a.npy", "b.npy", "--json", *GOLDEN], "cannot write standard output: No space left on device"),
    (["--help"], "No space left on device"),
])
def test_a_full_disk(arguments, message):
    with open("/dev/full", "wb") as full:
        process = kiwicha(*arguments, stdout=full)
    assert (process.returncode, process.stderr.decode()) == (1, f"kiwicha: {message}\n")


@pytest.mark.parametrize("arguments, closed, message", [
    (["gemm", "-", "b.npy", *GOLDEN], 0, "standard input is closed"),
    (["gemm", "a.npy", "b.npy", "-o", "-", *GOLDEN], 1, "standard output is closed"),
    (["gemm", "a.npy", "b.npy", *GOLDEN], 1, "standard output is closed"),
])
def test_closed(arguments, closed, message):
    refused(kiwicha(*arguments, preexec_fn=lambda: os.close(closed)), message)


def test_no_complaint_is_no_crash():
    assert kiwicha("gemm", "a.npy", "no.npy", preexec_fn=lambda: os.close(2)).returncode == 1


@pytest.mark.parametrize("arguments, side, message", [
    (["gemm", "-", "b.npy"], "stdin", "standard input is a terminal; send a file there, or give its name"),
    (["gemm", "a.npy", "b.npy", "-o", "-"], "stdout",
     "standard output is a terminal, which an array would garble; redirect it, or give a file's name"),
])
def test_a_terminal(arguments, side, message):
    near, far = pty.openpty()
    try:
        process = kiwicha(*arguments, *GOLDEN, **{side: far})
    finally:
        os.close(near)
        os.close(far)
    assert (process.returncode, process.stderr.decode()) == (1, f"kiwicha: {message}\n")


# Without a process of its own.

def run(capfd, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(item) for item in arguments])
    out, err = capfd.readouterr()
    return caught.value.code, out, err


BOTH = "would both write to standard output; give -o a file's name."
SCALES = "has room for one array, but this output is two, C.npy and C.scale.npy; give -o a file's name."
EMPTY, SEVERAL = "a name must not be empty.", "'-' is no folder; there are several files to write."


@pytest.mark.parametrize("arguments, status, message", [
    ("gemm - -", 1, "standard input is given twice, but can be read only once; save it to a file first"),
    ("gemm a.npy - --bias -", 1, "standard input is given twice"),
    ("gemm a.npy - --out fp32 --out-scale -", 1, "standard input is given twice"),
    ("gemm pipe pipe", 1, "pipe is given twice"), ("run - -", 1, "standard input is given twice"),
    ("gemm a.npy b.npy --json -o -", 2, f"-o - and --json {BOTH}"),
    ("gemm a.npy b.npy --json -o /dev/stdout", 2, f"-o /dev/stdout and --json {BOTH}"),
    ("run m.onnx a.npy --json -o -", 2, f"-o - and --json {BOTH}"),
    ("gemm a.npy b.npy -o - --out e4m3", 2, f"-o - {SCALES}"),
    ("gemm a.npy b.npy -o pipe --out e2m1", 2, f"-o pipe {SCALES}"),
    ("gemm a.npy b.npy -o c.npy/", 2, "Invalid value for '-o': 'c.npy/' names a folder, not a file."),
    ("gemm a.npy/ b.npy", 2, "Invalid value for 'A.npy': 'a.npy/' names a folder, not a file."),
    ("gemm a.npy b.npy -o ''", 2, f"Invalid value for '-o': {EMPTY}"),
    ("gemm a.npy b.npy --out fp32 --out-scale x/", 2, "'x/' names a folder, not a file."),
    ("gemm a.npy b.npy --report ''", 2, f"Invalid value for '--report': {EMPTY}"),
    ("gemm a.npy b.npy --report -", 2, f"Invalid value for '--report': {SEVERAL}"),
    ("verilog -o -", 2, f"Invalid value for '-o': {SEVERAL}"),
    ("verilog --config tiny -o /dev/stdout", 1, "it is not a folder"),
    ("verilog --config -", 1, "no configuration named '-'"),
    ("gemm a.npy b.npy -o .", 1, "it is a folder"), ("gemm . b.npy", 1, "not a file: ."),
    ("gemm a.npy b.npy -o a.npy/c.npy", 1, "there is no folder"),
])
def test_refused(capfd, arguments, status, message):
    os.mkfifo("pipe")
    before = {path.name: path.lstat().st_mtime_ns for path in Path().iterdir()}
    got, out, err = run(capfd, *[item.strip("'") for item in arguments.split(" ")])
    assert (got, out) == (status, "") and message in err and err.count("\n") == 1, err
    assert {path.name: path.lstat().st_mtime_ns for path in Path().iterdir()} == before


def test_an_output_may_be_an_input(capfd):
    assert run(capfd, "gemm", "a.npy", "b.npy", "-o", "a.npy", *GOLDEN)[0] == 0
    np.testing.assert_array_equal(np.load("a.npy"), C)


def test_a_file_may_be_given_twice(capfd):
    np.save("s.npy", np.eye(4, dtype=np.int8))
    assert run(capfd, "gemm", "s.npy", "s.npy", "-o", "./-", *GOLDEN)[0] == 0
    np.testing.assert_array_equal(np.load(Path("./-")), np.eye(4))


def test_a_device_takes_everything(capfd):
    assert run(capfd, "gemm", "a.npy", "b.npy", "-o", "/dev/null", "--json", *GOLDEN)[0] == 0


def test_an_output_that_is_standard_output_by_another_name():
    with open("c.npy", "wb") as target:
        process = kiwicha("gemm", "a.npy", "b.npy", "-o", "c.npy", "--json", *GOLDEN, stdout=target)
    assert process.returncode == 2 and b"would both write to standard output" in process.stderr
