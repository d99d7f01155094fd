"""A simulated board at a pseudo-terminal, for the real host driver to talk to."""

import contextlib
import subprocess
from pathlib import Path

from fpga.top import System
from kiwicha.array.multiplier import simulation_models
from kiwicha.export import to_verilog
from kiwicha_host import toolchain
from kiwicha_host.build_cache import build_root
from kiwicha_host.verilate import Simulation

__all__ = ["board"]

DIVISOR = 4
_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing", "-Wno-fatal", "-Wno-lint",
          "--prefix", "Vboard")


def _build(config, memory_bytes):
    with toolchain.for_amaranth():
        verilog, _ = to_verilog(System(config, memory_bytes=memory_bytes, divisor=DIVISOR), "board")
    simulation = Simulation(
        top="board", files={"board.v": verilog}, models=simulation_models(config), main=_SOURCE,
        output="board_sim", flags=_FLAGS, cxx_flags=("-DVL_TIME_CONTEXT",),
        defines=(f"-DKIWICHA_DIVISOR={DIVISOR}",))
    return simulation.build(build_root() / "board", config.name)


@contextlib.contextmanager
def board(config, *, memory_bytes=1 << 16, cycles=200_000_000):
    """Simulate a board with `config` for at most so many cycles; yields the name of its serial port."""
    program = _build(config, memory_bytes)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([program, str(cycles)], **pipes, encoding="utf-8") as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
