"""A simulated board at a pseudo-terminal, for the real host driver to talk to."""

import contextlib
import subprocess
from pathlib import Path

from fpga.top import System
from kiwicha.array.multiplier import simulation_models
from kiwicha.export import to_verilog
from kiwicha_host import toolchain

__all__ = ["board"]

DIVISOR = 4
_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("--cc", "--exe", "--build", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing",
          "-Wno-fatal", "-Wno-lint", "--prefix", "Vboard", "--top-module", "board", "-o", "board_sim", "-CFLAGS",
          f"-std=c++17 -DKIWICHA_DIVISOR={DIVISOR}")


def _build(config, memory_bytes):
    verilog, _ = to_verilog(System(config, memory_bytes=memory_bytes, divisor=DIVISOR), "board")
    models = simulation_models(config)
    key = toolchain.content_hash(verilog, _SOURCE, *models, list(_FLAGS))
    folder = toolchain.build_root() / "board" / f"{config.name}-{key}"
    with toolchain.locked(folder.with_suffix(".lock")):
        if not folder.exists():
            with toolchain.publish(folder) as work:
                (work / "board.v").write_text(verilog)
                toolchain.run(["verilator", *_FLAGS, "--Mdir", "obj", "board.v", *models, _SOURCE], cwd=work,
                              log=work / "build.log", timeout=1200)
                (work / "obj" / "board_sim").rename(work / "board_sim")
    return folder / "board_sim"


@contextlib.contextmanager
def board(config, *, memory_bytes=1 << 16, cycles=200_000_000):
    """Simulate a board with `config` for at most so many cycles; yields the name of its serial port."""
    program = _build(config, memory_bytes)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([program, str(cycles)], text=True, **pipes) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
