"""The compiled device: the chip's Verilog, Verilated into a shared library and called once per job."""

import ctypes
import os
import time
from dataclasses import replace

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, REGISTERS

from .. import arguments
from ..job import Job, Result
from ..memory_latency import MEMORY_LATENCY
from ..trace import SPAN_LIMIT, Trace
from .base import Device
from .compiled_chip import build_library, load_library
from .registers import RegisterFile

__all__ = ["VerilatedDevice"]

#: Cycles per call into the library, so that an interrupt is heard.
_CHUNK = 500_000
#: The struct Span of compiled_chip.cpp.
_RAW_SPAN = np.dtype([("start", np.uint64), ("instruction", np.int32), ("unit", np.uint8),
                      ("activity", np.uint8), ("unused", np.uint16)])


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
        self._library = load_library(build_library(config, waves=path is not None))
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
