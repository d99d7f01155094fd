"""The command: its figures, and one line, a status and no file for everything that can be wrong."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import GOLDEN, K, M, N, fails

from kiwicha import ChipConfig
from kiwicha_host import devices, models
from kiwicha_host.job import Result
from kiwicha_host.metrics import Work, counters_by_cause, figures, gemm_work

ROOT = Path(__file__).parents[1]


def product():
    return np.load("a.npy").astype(np.int32) @ np.load("b.npy").astype(np.int32)


# What works.

def test_gemm_json_and_result(run):
    status, out, err = run("gemm", "a.npy", "b.npy", "-o", "c.npy", "--json", *GOLDEN)
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report.pop("wall_s") >= 0
    # Predicted by the cycle model, whose own tests say how well.
    cycles, counters = report.pop("cycles"), report.pop("counters")
    assert cycles > M * K * N / 256
    assert report.pop("utilization") == M * K * N / (256 * cycles)
    assert 0 < report.pop("roofline_fraction") < 1
    assert {sum(row.values()) for row in counters.values()} == {cycles}
    assert report == {"m": M, "n": N, "k": K, "device": "golden", "config": "ulx3s_85f",
                      "macs": M * K * N, "peak_macs_per_cycle": 256, "bound": "memory",
                      "simulated_cycles_per_second": None}
    c = np.load("c.npy")
    assert c.dtype == np.int32
    np.testing.assert_array_equal(c, product())
    assert oct(os.stat("c.npy").st_mode & 0o777) == oct(os.stat("a.npy").st_mode & 0o777)


@pytest.mark.parametrize("out, dtype", [("int32", np.int32), ("fp32", np.float32), ("int8", np.int8)])
@pytest.mark.parametrize("scale", ["none", "scalar", "column"])
def test_gemm_outputs(run, out, dtype, scale):
    options = {"none": [], "scalar": ["--out-scale", "0.25"], "column": ["--out-scale", "s.npy"]}[scale]
    if options and out == "int32":
        pytest.skip("int32 takes no scale")
    bias = np.arange(N, dtype=np.int32) * 1000
    scales = np.linspace(0.01, 0.3, N).astype(np.float32)
    np.save("bias.npy", bias)
    np.save("s.npy", scales)
    zero = 5 if out == "int8" else 0
    status, _, err = run("gemm", "a.npy", "b.npy", "-o", "c.npy", "--bias", "bias.npy", "--relu", "--out", out,
                         "--out-zero-point", zero, *options, *GOLDEN)
    assert (status, err) == (0, "")
    x = np.maximum(product() + bias, 0)
    if out != "int32":
        x = x.astype(np.float32) * {"none": np.float32(1), "scalar": np.float32(0.25), "column": scales}[scale]
    if out == "int8":
        x = np.clip(np.rint(x) + zero, -128, 127)
    c = np.load("c.npy")
    assert c.dtype == dtype
    np.testing.assert_array_equal(c, x.astype(dtype))


def test_arrays_of_other_orders(run):
    a, b = np.load("a.npy"), np.load("b.npy")
    np.save("a.npy", np.asfortranarray(a))
    np.save("bias.npy", np.arange(N, dtype=">i4"))
    assert run("gemm", "a.npy", "b.npy", "-o", "c.npy", "--bias", "bias.npy", *GOLDEN)[0] == 0
    np.testing.assert_array_equal(np.load("c.npy"), a.astype(int) @ b.astype(int) + np.arange(N))


def test_the_output_name_is_taken_as_it_is(run):
    Path("target").write_text("old", encoding="utf-8")
    Path("link").symlink_to("target")
    assert run("gemm", "a.npy", "b.npy", "-o", "link", *GOLDEN)[0] == 0
    assert Path("link").is_symlink()
    np.testing.assert_array_equal(np.load("target"), product())


def test_people_get_tables(run):
    status, out, _ = run("gemm", "a.npy", "b.npy", *GOLDEN)
    assert status == 0 and "peak macs per cycle" in out and "256" in out
    status, out, _ = run("configs")
    assert status == 0 and all(name in out for name in ("tiny", "small", "ulx3s_85f", "wide"))
    status, out, _ = run("configs", "--json")
    features = {row["config"]: row["features"] for row in json.loads(out)["configurations"]}
    assert (features["tiny"], features["wide"]) == ([], ["functions", "indices", "top_k"])
    status, out, _ = run("boards")
    assert status == 0 and "ulx3s_85f" in out
    for arguments in (["--help"], ["gemm", "-h"], ["--version"]):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "") and out


def test_a_configuration_file(run):
    Path("mine.toml").write_text('base = "tiny"\nrows = 2\n', encoding="utf-8")
    status, out, _ = run("gemm", "a.npy", "b.npy", "--config", "mine.toml", "--json", *GOLDEN)
    assert status == 0
    assert (json.loads(out)["config"], json.loads(out)["peak_macs_per_cycle"]) == ("mine", 8)


# The figures.

def test_work():
    assert gemm_work(3, 5, 7) == Work(105, 21 + 35 + 60)
    assert gemm_work(3, 5, 7, a_per_byte=2, b_per_byte=2, out_bits=4, scale_bytes=9) == Work(105, 11 + 18 + 8 + 9)


def test_figures():
    config = ChipConfig.preset("ulx3s_85f")
    counters = {"LOAD": {"BUSY": 600, "MEMORY": 250, "IDLE": 150}}
    report = figures("verilated", config, Work(256 * 500, 16 * 400), Result(1000, counters, 0.5))
    assert (report["utilization"], report["roofline_fraction"], report["bound"]) == (0.5, 0.5, "compute")
    assert report["simulated_cycles_per_second"] == 2000
    assert report["counters"] == {"load": {"busy": 600, "stalled_memory": 250, "idle": 150}}
    report = figures("verilated", config, Work(256 * 500, 16 * 800), Result(1000, counters, 0.5))
    assert (report["utilization"], report["roofline_fraction"], report["bound"]) == (0.5, 0.8, "memory")


def test_results_add_up():
    one = Result(10, {"LOAD": {"BUSY": 4, "IDLE": 6}}, 1.0)
    assert one + one == Result(20, {"LOAD": {"BUSY": 8, "IDLE": 12}}, 2.0)
    assert (Result(wall_s=1) + Result(wall_s=2)) == Result(wall_s=3)
    assert counters_by_cause(Result()) == {}
    both = one + Result(1, predicted=True)
    assert both.predicted and both.trace is None and not (one + one).predicted


# What is wrong.

def bad_files():
    """Files that are no good array; the name says why."""
    np.save("float.npy", np.ones((M, K)))
    np.save("uint8.npy", np.ones((M, K), np.uint8))
    np.save("bool.npy", np.ones((M, K), bool))
    np.save("vector.npy", np.ones(K, np.int8))
    np.save("scalar.npy", np.int8(3))
    np.save("cube.npy", np.ones((M, K, 1), np.int8))
    np.save("norows.npy", np.ones((0, K), np.int8))
    np.save("nocolumns.npy", np.ones((M, 0), np.int8))
    np.save("other_k.npy", np.ones((M, K + 1), np.int8))
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.save("records.npy", np.zeros((M, K), [("x", np.int8)]))
    np.save("text.npy", np.array([["a"] * K] * M))
    np.savez("archive.npz", a=np.ones((M, K), np.int8))
    np.save("codes16.npy", np.full((M, K), 16, np.uint8))
    np.save("int4_8.npy", np.full((M, K), 8, np.int8))
    np.save("int4_-9.npy", np.full((M, K), -9, np.int8))
    Path("empty.npy").touch()
    Path("garbage.npy").write_bytes(os.urandom(100))
    Path("words.npy").write_text("not an array\n", encoding="utf-8")
    Path("pickle.npy").write_bytes(pickle.dumps([1, 2]))
    Path("folder.npy").mkdir()
    good = Path("a.npy").read_bytes()
    Path("short.npy").write_bytes(good[:-1])
    Path("long.npy").write_bytes(good + b"x")
    Path("header.npy").write_bytes(good[:40])
    Path("version.npy").write_bytes(good[:6] + b"\x09\x09" + good[8:])
    Path("broken.npy").write_bytes(good.replace(b"'shape'", b"'shap\xe9'"))
    Path("code.npy").write_bytes(good.replace(b"(3, 5), ", b"exit(), "))
    Path("huge.npy").write_bytes(good.replace(b"(3, 5), ", b"(3, 5" + b"0" * 1 + b"),")[:128])
    Path("negative.npy").write_bytes(good.replace(b"(3, 5), ", b"(-3,-5),"))


BAD_A = {
    "missing.npy": "no such file: missing.npy", "folder.npy": "not a file: folder.npy",
    "float.npy": "A must be int8 for format int8, not float64",
    "uint8.npy": "A must be int8 for format int8, not uint8",
    "bool.npy": "A must be int8 for format int8, not bool", "text.npy": "A must be int8 for format int8, not <U1",
    "records.npy": "A must be int8 for format int8, not ",
    "vector.npy": "A must have 2 dimensions of at least 1 each, not shape [5]",
    "scalar.npy": "A must have 2 dimensions of at least 1 each, not shape []",
    "cube.npy": "A must have 2 dimensions of at least 1 each, not shape [3, 5, 1]",
    "norows.npy": "A must have 2 dimensions of at least 1 each, not shape [0, 5]",
    "nocolumns.npy": "A must have 2 dimensions of at least 1 each, not shape [3, 0]",
    "other_k.npy": "A is 3x6 and B is 5x7: A must have as many columns as B has rows",
    "objects.npy": "objects.npy holds Python objects; save an array of numbers",
    "archive.npz": "archive.npz is an .npz archive; save the one array with numpy.save",
    "short.npy": "short.npy is damaged: shape [3, 5] needs 15 bytes, it has 14",
    "long.npy": "long.npy is damaged: shape [3, 5] needs 15 bytes, it has more",
    "negative.npy": "negative.npy is damaged: shape [-3, -5] needs 15 bytes, it has 15",
    **{f"{name}.npy": f"{name}.npy is not a .npy file; save the array with numpy.save"
       for name in ("empty", "garbage", "words", "pickle")},
    **{f"{name}.npy": f"{name}.npy has a damaged header; save the array again with numpy.save"
       for name in ("header", "version", "broken", "code")},
    "huge.npy": "huge.npy is damaged: shape [3, 50] needs 150 bytes, it has 0",
}


@pytest.mark.parametrize("name, message", BAD_A.items(), ids=BAD_A)
def test_bad_operand(run, no_device, name, message):
    bad_files()
    fails(run, 1, message, "gemm", name, "b.npy", "-o", "c.npy")


@pytest.mark.parametrize("name, message", [
    ("missing.npy", "no such file: missing.npy"), ("float.npy", "B must be int8 for format int8, not float64"),
    ("vector.npy", "B must have 2 dimensions of at least 1 each, not shape [5]"),
    ("norows.npy", "B must have 2 dimensions of at least 1 each, not shape [0, 5]"),
    ("a.npy", "A is 3x5 and B is 3x5: A must have as many columns as B has rows"),
])
def test_bad_second_operand(run, no_device, name, message):
    bad_files()
    fails(run, 1, message, "gemm", "a.npy", name, "-o", "c.npy")


def side_files():
    np.save("bias8.npy", np.zeros(N, np.int8))
    np.save("bias_f.npy", np.zeros(N, np.float32))
    np.save("bias6.npy", np.zeros(N - 1, np.int32))
    np.save("bias2d.npy", np.zeros((1, N), np.int32))
    np.save("s_nan.npy", np.array([1] * (N - 1) + [np.nan], np.float32))
    np.save("s_inf.npy", np.array([1] * (N - 1) + [np.inf], np.float32))
    np.save("s_neg.npy", np.array([1] * (N - 1) + [-1], np.float32))
    np.save("s_big.npy", np.full(N, 1e300))
    np.save("s6.npy", np.ones(N - 1, np.float32))
    np.save("s_text.npy", np.array(["x"] * N))
    np.save("sa.npy", np.zeros((M, 1), np.uint8))
    np.save("sb.npy", np.zeros((1, N), np.uint8))
    np.save("sa_f.npy", np.zeros((M, 1), np.float32))
    np.save("sb_square.npy", np.zeros((1, 1), np.uint8))
    np.save("sb_bad.npy", np.zeros((2, N), np.uint8))


NO_SCALE = "out_scale must be finite and above 0 as a float32, not"
BLOCK = ["--block", "32", "--a-scale", "sa.npy", "--b-scale", "sb.npy"]


@pytest.mark.parametrize("options, message", [
    ("--config huge", "no configuration named 'huge'; there are tiny, "),
    ("--config no.toml", "cannot read no.toml: No such file or directory"),
    ("--bias bias8.npy", "bias must be int32 [7], not int8 [7]"),
    ("--bias bias_f.npy", "bias must be int32 [7], not float32 [7]"),
    ("--bias bias6.npy", "bias must be int32 [7], not int32 [6]"),
    ("--bias bias2d.npy", "bias must be int32 [7], not int32 [1, 7]"),
    ("--bias no.npy", "no such file: no.npy"),
    ("--out fp32 --out-scale nan", f"{NO_SCALE} nan"), ("--out fp32 --out-scale inf", f"{NO_SCALE} inf"),
    ("--out fp32 --out-scale -1", f"{NO_SCALE} -1.0"), ("--out int8 --out-scale 0", f"{NO_SCALE} 0.0"),
    ("--out int8 --out-scale 1e39", f"{NO_SCALE} 1e+39"), ("--out int8 --out-scale 1e-50", f"{NO_SCALE} 1e-50"),
    ("--out int8 --out-scale s_nan.npy", f"{NO_SCALE} nan"),
    ("--out int8 --out-scale s_inf.npy", f"{NO_SCALE} inf"),
    ("--out int8 --out-scale s_neg.npy", f"{NO_SCALE} -1.0"),
    ("--out int8 --out-scale s_big.npy", f"{NO_SCALE} 1e+300"),
    ("--out int8 --out-scale s6.npy", "out_scale must be a float32 number or [7], not float32 [6]"),
    ("--out int8 --out-scale s_text.npy", "out_scale must be a float32 number or [7], not <U1 [7]"),
    ("--out int8 --out-scale no.npy", "no such file: no.npy"),
    ("--out int8 --out-scale x", "--out-scale must be a number or a .npy file, not 'x'"),
    ("--out-scale 2", "an int32 output takes no scale; use fp32 or int8"),
    ("--out int8 --out-zero-point 128", "out_zero_point must be from -128 to 127, not 128"),
    ("--out int8 --out-zero-point -129", "out_zero_point must be from -128 to 127, not -129"),
    ("--out fp32 --out-zero-point 1", "a zero point is for int8 outputs, not fp32"),
    ("--config tiny --out bf16", "configuration 'tiny' has no block scaling: it has only the formats int8, int4"),
    ("--config tiny --out e4m3 --out-block 32 --scale-rule floor", "configuration 'tiny' has no block scaling"),
    ("--config tiny --out e2m1", "configuration 'tiny' has no block scaling"),
    ("--config small --out e2m1 --out-block 64", "needs a scale block of 32 or 128 columns, not 64"),
    ("--config tiny " + " ".join(BLOCK), "configuration 'tiny' has no block scaling"),
    ("--config tiny --block 32 --a-scale sa.npy --b-scale sb_square.npy", "has no block scaling"),
    ("--block 32 --a-scale sa_f.npy --b-scale sb.npy", "a_scale must be uint8 [3, 1], not float32 [3, 1]"),
    ("--block 32 --a-scale sb.npy --b-scale sb.npy", "a_scale must be uint8 [3, 1], not uint8 [1, 7]"),
    ("--block 32 --a-scale sa.npy --b-scale sb_bad.npy",
     "b_scale must be uint8 [1, 7] or [1, 1], not uint8 [2, 7]"),
    ("--block 32 --a-scale no.npy --b-scale sb.npy", "no such file: no.npy"),
    ("-o no/c.npy", "there is no folder"), ("-o folder.npy", "it is a folder"),
])
def test_bad_options(run, no_device, options, message):
    bad_files()
    side_files()
    fails(run, 1, message, "gemm", "a.npy", "b.npy", *([] if "-o" in options.split() else ["-o", "c.npy"]),
          *options.split())


@pytest.mark.parametrize("name, element, message", [
    ("int4_8.npy", "int4", "A must be from -8 to 7 for format int4, not 8"),
    ("int4_-9.npy", "int4", "A must be from -8 to 7 for format int4, not -9"),
    ("codes16.npy", "e2m1", "A must be from 0 to 15 for format e2m1, not 16"),
    ("a.npy", "e4m3", "A must be uint8 for format e4m3, not int8"),
    ("uint8.npy", "e4m3", "format e4m3 needs a scale block of 16, 32, 64, 128 elements"),
    ("uint8.npy", "e3m2", "format e3m2 needs a scale block of 16, 32, 64, 128 elements"),
])
def test_formats(run, no_device, name, element, message):
    bad_files()
    fails(run, 1, message, "gemm", name, "b.npy", "--a-format", element, "-o", "c.npy")


@pytest.mark.parametrize("arguments, message", [
    ([], "Missing command"), (["frob"], "No such command 'frob'"), (["gemm"], "Missing argument 'A.npy'"),
    (["gemm", "a.npy"], "Missing argument 'B.npy'"),
    (["gemm", "a.npy", "b.npy", "x"], "unexpected extra argument"),
    (["gemm", "a.npy", "b.npy", "--frob"], "No such option"),
    (["gemm", "a.npy", "b.npy", "--out", "int7"], "'int7' is not one of 'int32'"),
    (["gemm", "a.npy", "b.npy", "--a-format", "int7"], "'int7' is not one of 'int8'"),
    (["gemm", "a.npy", "b.npy", "--block", "17"], "'17' is not one of '0', '16'"),
    (["gemm", "a.npy", "b.npy", "--out-zero-point", "x"], "'x' is not a valid integer"),
    (["gemm", "a.npy", "b.npy", "--block", "32"], "--block needs --a-scale and --b-scale"),
    (["gemm", "a.npy", "b.npy", "--a-scale", "a.npy"], "--a-scale and --b-scale need --block"),
    (["gemm", "a.npy", "b.npy", "--out-block", "32"],
     "--out-block and --scale-rule need --out e4m3, e2m1 or mxint8"),
    (["gemm", "a.npy", "b.npy", "--scale-rule", "floor"], "--out-block and --scale-rule need --out"),
    (["gemm", "a.npy", "b.npy", *BLOCK, "--out", "int32"], "--out int32 is for integer GEMM"),
    (["gemm", "a.npy", "b.npy", "--device", "fpga"], "'fpga' is not golden, verilated or serial:PORT"),
    (["gemm", "a.npy", "b.npy", "--device", "serial:"], "'serial:' is not golden, verilated"),
    (["synth"], "Missing option '--board'"), (["synth", "--board", "x", "--seed", "-1"], "-1"),
])
def test_wrong_usage(run, arguments, message):
    fails(run, 2, message, *arguments)


@pytest.mark.parametrize("arguments, message", [
    (["run", "no.onnx", "x.npy"], "no such file: no.onnx"),
    (["run", "a.npy", "a.npy"], ""),
    (["run", models.DIGITS_MLP, "no.npy"], "no such file: no.npy"),
    (["run", models.DIGITS_MLP, "a.npy"], "the model takes"),
    (["run", models.DIGITS_MLP, "x64.npy"], "the model takes float32, not float64"),
    (["run", models.DIGITS_MLP, "none.npy"], "the model takes"),
    (["run", models.DIGITS_MLP, "x.npy", "--config", "huge"], "no configuration named 'huge'"),
    (["run", models.DIGITS_MLP, "x.npy", "-o", "no/y.npy"], "there is no folder"),
    (["synth", "--board", "x"], "no board named 'x'; there are"),
    (["synth", "--board", "ulx3s_85f", "--config", "huge"], "no configuration named 'huge'"),
    (["verilog", "--config", "huge"], "no configuration named 'huge'"),
    (["verilog", "--config", "tiny", "-o", "a.npy"], "a.npy: it is not a folder"),
])
def test_other_commands(run, no_device, arguments, message):
    images = models.digits_test()[0][:2]
    np.save("x.npy", images)
    np.save("x64.npy", images.astype(np.float64))
    np.save("none.npy", images[:0])
    fails(run, 1, message, *arguments)


def test_nothing_surprises_the_user(run, monkeypatch):
    """A bug of ours is a line too, whatever it raises."""
    for error, line in ((KeyError("x\ny"), "internal error, please report it: KeyError: 'x\\ny'"),
                        (RecursionError("deep"), "deep"), (MemoryError(), "not enough memory; use smaller arrays"),
                        (AssertionError("two\nlines"), "please report it: AssertionError: two lines"),
                        (OSError(28, "No space left on device"), "No space left on device"),
                        (KeyboardInterrupt(), "interrupted")):
        def explode(*_, error=error, **__):
            raise error
        monkeypatch.setattr(devices, "open_device", explode)
        fails(run, 1, line, "gemm", "a.npy", "b.npy", "-o", "c.npy", *GOLDEN)


# As a process.

def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "rtl"), str(ROOT / "host")])}


def test_as_a_process(run):
    process = subprocess.run([sys.executable, "-m", "kiwicha_host.cli", "gemm", "a.npy", "no.npy"],
                             env=environment(), capture_output=True, timeout=60, encoding="utf-8")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == "kiwicha: no such file: no.npy\n"


def test_a_closed_pipe_is_no_traceback(run):
    process = subprocess.Popen([sys.executable, "-m", "kiwicha_host.cli", "configs", "--json"], env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    with process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_an_interrupt_is_one_line(run):
    np.save("big.npy", np.zeros((3000, 3000), np.int8))
    process = subprocess.Popen(
        [sys.executable, "-m", "kiwicha_host.cli", "gemm", "big.npy", "big.npy", "-o", "c.npy", "--config", "tiny",
         *GOLDEN], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (1, "", "kiwicha: interrupted\n")
    assert sorted(os.listdir()) == ["a.npy", "b.npy", "big.npy"]
