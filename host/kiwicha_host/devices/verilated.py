"""The compiled device: the chip's Verilog, Verilated into a shared library and called once per job."""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kiwicha import ChipConfig
from kiwicha.array.multiplier import simulation_models
from kiwicha.export import to_verilog
from kiwicha.isa import REGISTERS
from kiwicha.top import Top

from .. import toolchain
from ..job import Job, Result
from .base import Device
from .registers import RegisterFile

__all__ = ["VerilatedDevice", "build_library"]

_TOP = "kiwicha_top"
_SOURCE = Path(__file__).with_name("compiled_chip.cpp")
_VERILATOR_FLAGS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing",
                    "-Wno-fatal", "-Wno-lint", "--output-split", "15000", "--output-split-cfuncs", "3000")
_CXX_FLAGS = ("-std=c++17", "-fPIC", "-fstrict-aliasing", "-DVL_TIME_CONTEXT")
#: Cycles per call into the library, so that an interrupt is heard.
_CHUNK = 500_000
_BUILD_TIMEOUT = 1200


def build_library(config: ChipConfig, *, trace: bool = False) -> Path:
    """The shared library of `config`'s chip, built if it is not there; its name is a hash of all it depends on.

    Raises
    ------
    ToolError
        Verilator or the C++ compiler failed.
    """
    verilog, _ = to_verilog(Top(config), _TOP)
    models = simulation_models(config)
    defines = (f"-DKIWICHA_BUS_BYTES={config.bus_bytes}",)
    flags = (*_VERILATOR_FLAGS, *(("--trace-vcd",) if trace else ()))
    version = toolchain.run(["verilator", "--version"], timeout=60)
    key = toolchain.content_hash(verilog, _SOURCE, *models, list(flags), list(_CXX_FLAGS + defines), version)
    folder = toolchain.build_root() / "device" / f"{config.name}-{key}"
    library = folder / "libkiwicha.so"
    with toolchain.locked(folder.with_suffix(".lock")):
        if not library.exists():
            with toolchain.publish(folder) as work:
                _build(work, verilog, models, flags, defines, trace)
    return library


def _build(work: Path, verilog: str, models: list[Path], flags: tuple[str, ...], defines: tuple[str, ...],
           trace: bool) -> None:
    (work / f"{_TOP}.v").write_text(verilog)
    toolchain.run(["verilator", *flags, "--Mdir", "obj", "--top-module", _TOP, f"{_TOP}.v", *models],
                  cwd=work, log=work / "verilator.log", timeout=_BUILD_TIMEOUT)
    root = Path(toolchain.environment()["VERILATOR_ROOT"]) / "include"
    runtime = ["verilated.cpp", "verilated_threads.cpp", *(["verilated_vcd_c.cpp"] if trace else [])]
    sources = [*sorted((work / "obj").glob("*.cpp")), *(root / name for name in runtime), _SOURCE]
    include: list[str | Path] = ["-I", work / "obj", "-I", root, "-I", root / "vltstd", f"-DVM_TRACE={int(trace)}",
               f"-DVM_TRACE_VCD={int(trace)}", "-DVM_COVERAGE=0"]

    def compile_one(source: Path) -> Path:
        target = work / "obj" / f"{source.stem}.o"
        # What runs once, at the start, need not be fast; compiling it would take half of the time.
        level = "-O0" if "Slow" in source.stem else "-O2"
        toolchain.run(["g++", *_CXX_FLAGS, level, *defines, *include, "-c", source, "-o", target],
                      log=target.with_suffix(".log"), timeout=_BUILD_TIMEOUT)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    toolchain.run(["g++", "-shared", "-o", work / "libkiwicha.so", *objects, "-lpthread"],
                  log=work / "link.log", timeout=_BUILD_TIMEOUT)
    for path in objects:
        path.unlink()


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    u64, u32, device = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p
    for name, result, arguments in (
            ("open", device, [u64]), ("close", None, [device]), ("memory", None, [device, device, u64, u64]),
            ("fault", None, [device, u64, u64, ctypes.c_int]), ("beats", u64, [device, ctypes.c_int]),
            ("cycle", u64, [device]), ("trace", ctypes.c_int, [device, ctypes.c_char_p]),
            ("write", ctypes.c_int, [device, u32, u32]), ("run", ctypes.c_int, [device, u64]),
            ("read", ctypes.c_int, [device, u32, ctypes.POINTER(u32)])):
        function = getattr(library, f"kiwicha_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class VerilatedDevice(Device):
    """The chip's own RTL, simulated cycle by cycle.

    Parameters
    ----------
    config : ChipConfig
    latency : int
        Memory latency: cycles from an accepted read address to the first data.
    trace : str or None
        Write a VCD trace of everything to this file (and build a slower library for it).
    max_cycles : int
        A job that takes longer is given up with an error; the chip's own watchdog comes first.
    """

    name = "verilated"

    def __init__(self, config: ChipConfig, *, latency: int = 30, trace: str | None = None,
                 max_cycles: int = 10**11):
        super().__init__(config)
        if latency < 0:
            raise ValueError(f"memory latency must not be negative, got {latency}")
        self._max_cycles = max_cycles
        self._library = _load(build_library(config, trace=trace is not None))
        self._device: int | None = self._library.kiwicha_open(latency)
        if trace is not None and not self._library.kiwicha_trace(self._device, trace.encode()):
            raise ValueError(f"cannot write the trace to {trace}")
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
        began = time.perf_counter()
        self.registers.start(job)
        left = self._max_cycles
        while not self._library.kiwicha_run(self._device, min(_CHUNK, left)):
            left -= _CHUNK
            if left <= 0:
                raise TimeoutError(f"no end after {self._max_cycles} cycles; is the watchdog off?")
        return self.registers.finish(job, wall_s=time.perf_counter() - began)

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
