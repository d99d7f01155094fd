"""The compiled device: the chip's Verilog, Verilated into a shared library and called once per job."""

import ctypes
import functools
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, REGISTERS

from .. import arguments, toolchain
from ..build_cache import build_root
from ..extras import extra
from ..job import Job, Result
from ..memory_latency import MEMORY_LATENCY
from ..trace import SPAN_LIMIT, Trace
from ..verilate import Simulation
from .base import Device
from .registers import RegisterFile

with extra("sim"):
    from kiwicha.array.multiplier import simulation_models
    from kiwicha.export import port_table, to_verilog
    from kiwicha.top import Top

__all__ = ["VerilatedDevice", "build_library"]

_TOP, _SIM = "kiwicha_top", "kiwicha_sim"
_SOURCE = Path(__file__).with_name("compiled_chip.cpp")
# SYNTHESIS: a program that races for a word gets undefined data, as on a chip, and no end of the process.
_VERILATOR_FLAGS = ("-DSYNTHESIS", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert",
                    "--no-timing", "-Wno-fatal", "-Wno-lint", "--output-split", "15000", "--output-split-cfuncs",
                    "3000")
_CXX_FLAGS = ("-DVL_TIME_CONTEXT",)
#: Optimisation of what runs once, at the start, and would take half of the compiler's time; and of what runs in
#: each cycle: straight code that does not fit a processor's cache, so the shorter, the faster.
_ONCE, _EVERY_CYCLE = "-O0", "-Os"
#: Cycles per call into the library, so that an interrupt is heard.
_CHUNK = 500_000
#: The struct Span of compiled_chip.cpp.
_RAW_SPAN = np.dtype([("start", np.uint64), ("instruction", np.int32), ("unit", np.uint8),
                      ("activity", np.uint8), ("unused", np.uint16)])


def build_library(config: ChipConfig, *, waves: bool = False) -> Path:
    """The shared library of `config`'s chip, built if it is not there; its name is a hash of all it depends on.

    Raises
    ------
    ToolError
        Verilator or the C++ compiler failed, or there is none.
    BuildFolderError
        It is not there, and the build folder cannot be written to.
    """
    verilog, ports = _exported(config)
    simulation = Simulation(
        top=_SIM, files={f"{_TOP}.v": verilog + _around(ports, two_phases=waves)},
        models=simulation_models(config), main=_SOURCE, output="libkiwicha.so", flags=_VERILATOR_FLAGS,
        cxx_flags=_CXX_FLAGS, defines=(f"-DKIWICHA_BUS_BYTES={config.bus_bytes}",),
        # Wave forms are of short runs, and their code takes long to compile.
        level=_ONCE if waves else _EVERY_CYCLE, slow_level=_ONCE, waves=waves)
    return simulation.build(build_root() / "device", config.name)


@functools.lru_cache(8)
def _exported(config: ChipConfig) -> tuple[str, dict[str, tuple[str, int]]]:
    """The chip's Verilog and ports: many seconds of work, so once for all devices of one process."""
    top = Top(config, probe=True)
    with toolchain.for_amaranth():
        return to_verilog(top, _TOP)[0], port_table(top)


def _around(ports: dict[str, tuple[str, int]], two_phases: bool) -> str:
    """A module around the top, whose inputs take effect with the rising edge, as registers do.

    So nothing depends on an input at once: what depends on one settles once in a cycle, with all else, and not
    before and after the edge. The clock is `tick`, or rises at each change of it: then a cycle is one evaluation.
    """
    lines = ["", f"module {_SIM}(input tick"]
    body = ["    wire clk = tick;"] if two_phases else [
        "    reg ticked = 0;", "    wire clk = tick ^ ticked;", "    always @(posedge clk) ticked <= tick;"]
    pins = ["    .clk(clk)"]
    for name, (direction, width) in {"rst": ("i", 1), **ports}.items():
        if direction == "i":
            lines.append(f"    , input [{width - 1}:0] {name}")
            pins.append(f"    , .{name}({name}_now)")
            body += [f"    reg [{width - 1}:0] {name}_now;", f"    always @(posedge clk) {name}_now <= {name};"]
        else:
            lines.append(f"    , output [{width - 1}:0] {name}")
            pins.append(f"    , .{name}({name})")
    return "\n".join([*lines, ");", *body, f"    {_TOP} top(", *pins, "    );", "endmodule", ""])


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    u64, u32, device = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p
    for name, result, takes in (
            ("open", device, [u64]), ("close", None, [device]), ("memory", None, [device, device, u64, u64]),
            ("fault", None, [device, u64, u64, ctypes.c_int]), ("waves", ctypes.c_int, [device, ctypes.c_char_p]),
            ("write", ctypes.c_int, [device, u32, u32]), ("run", ctypes.c_int, [device, u64]),
            ("read", ctypes.c_int, [device, u32, ctypes.POINTER(u32)]), ("record", None, [device, u64]),
            ("spans", u64, [device, ctypes.POINTER(device), ctypes.POINTER(u64)])):
        function = getattr(library, f"kiwicha_{name}")
        function.restype, function.argtypes = result, takes
    return library


class VerilatedDevice(Device):
    """The chip's own RTL, simulated cycle by cycle.

    Parameters
    ----------
    config : ChipConfig
    latency : int
        Memory latency: cycles from an accepted read address to the first data. Programs are compiled for it.
    trace : bool
        Give each result a :class:`kiwicha_host.trace.Trace`; off, it costs nothing.
    trace_limit : int
        Spans that a trace may hold; of a run that has more, the trace has the first cycles.
    waves : path or None
        Write a wave form of everything to this file, VCD (and build a slower library for it).
    max_cycles : int
        A job that takes longer is given up with an error; the chip's own watchdog comes first.
    """

    name = "verilated"

    def __init__(self, config: ChipConfig, *, latency: int = MEMORY_LATENCY, trace: bool = False,
                 trace_limit: int = SPAN_LIMIT, waves: str | os.PathLike[str] | None = None,
                 max_cycles: int = 10**11):
        latency = arguments.integer("latency", latency, 0, (1 << 32) - 1)
        super().__init__(config, latency)
        if not isinstance(trace, bool):
            raise TypeError(f"trace must be True or False, not {trace!r}; for a wave form use waves=PATH")
        self._max_cycles = arguments.integer("max_cycles", max_cycles, 1)
        spans = arguments.integer("trace_limit", trace_limit, 1)
        self._trace_limit = spans if trace else 0
        path = None if waves is None else os.fsencode(arguments.path("waves", waves))
        self._library = _load(build_library(config, waves=path is not None))
        self._device: int | None = self._library.kiwicha_open(latency)
        if path is not None and not self._library.kiwicha_waves(self._device, path):
            raise ValueError(f"cannot write the wave form to {waves}")
        self.registers = RegisterFile(self._read, self._write)
        self.registers.check_identity(config)

    def close(self) -> None:
        if self._device is not None:
            self._library.kiwicha_close(self._device)
            self._device = None

    def inject_fault(self, first: int = 1, last: int = 0, *, silent: bool = False) -> None:
        """Let the memory answer SLVERR for bytes `first` to `last`, or fall silent; without arguments, heal it."""
        self._library.kiwicha_fault(self._device, first, last, int(silent))

    def execute(self, job: Job) -> Result:
        # Kept, because a bus that was silent may still write after the job has failed.
        self._memory = job.memory
        self._library.kiwicha_memory(self._device, self._memory.ctypes.data, job.base, self._memory.size)
        self._library.kiwicha_record(self._device, self._trace_limit)
        program = b"".join(map(job.instruction, range(job.program_count))) if self._trace_limit else b""
        began = time.perf_counter()
        self.registers.start(job)
        left = self._max_cycles
        while not self._library.kiwicha_run(self._device, min(_CHUNK, left)):
            left -= _CHUNK
            if left <= 0:
                raise TimeoutError(f"no end after {self._max_cycles} cycles; is the watchdog off? "
                                   f"{self.registers.give_up(job)}")
        wall_s = time.perf_counter() - began
        result = self.registers.finish(job, wall_s=wall_s)
        return replace(result, trace=self._trace(program, result)) if self._trace_limit else result

    def _trace(self, program: bytes, result: Result) -> Trace:
        """What was recorded of the run that has just ended."""
        assert result.cycles is not None
        address, covered = ctypes.c_void_p(), ctypes.c_uint64()
        count = self._library.kiwicha_spans(self._device, ctypes.byref(address), ctypes.byref(covered))
        raw = ctypes.string_at(address, count * _RAW_SPAN.itemsize) if count else b""
        raw_spans = np.frombuffer(raw, _RAW_SPAN).copy()
        # When all are dispatched, FETCH looks for one more before it knows.
        raw_spans["instruction"][raw_spans["instruction"] * INSTRUCTION_BYTES >= len(program)] = -1
        self._library.kiwicha_record(self._device, 0)
        return Trace.from_starts(raw_spans["unit"], raw_spans["activity"], raw_spans["instruction"],
                                 raw_spans["start"], covered=covered.value, cycles=result.cycles, program=program)

    def _read(self, address: int) -> int:
        value = ctypes.c_uint32()
        self._check(self._library.kiwicha_read(self._device, address, ctypes.byref(value)), "read", address)
        return value.value

    def _write(self, address: int, value: int) -> None:
        self._check(self._library.kiwicha_write(self._device, address, value), "write", address)

    def _check(self, response: int, what: str, address: int) -> None:
        if response:
            names = {register.offset: name for name, register in REGISTERS.items()}
            reason = "no answer" if response < 0 else "refused"
            raise RuntimeError(f"register {what} of {names.get(address, hex(address))}: {reason}")
