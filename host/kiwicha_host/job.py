"""What a device is given, and what it answers."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kiwicha.isa import INSTRUCTION_BYTES, MAX_PROGRAM, Activity, ErrorCode, Unit

from . import arguments
from .assembler import disassemble
from .trace import Trace

__all__ = ["DeviceError", "Job", "Result"]

#: The memory window is made of such pages.
PAGE = 4096


@dataclass
class Job:
    """One program and the memory it works on.

    Parameters
    ----------
    memory : uint8 [bytes]
        The device's memory from `base` on; a device changes it in place.
    program_address : int
        Where the program is, a multiple of 64.
    program_count : int
        Its instructions.
    window : (int, int)
        First and last byte that the chip may touch, in whole pages of 4096. Default: the pages of `memory`.
    base : int
        Address of the first byte of `memory`, a multiple of 4096.
    constant : int
        So many bytes at the beginning of `memory` the program only reads: what a device has of them it need not be
        told again, nor tell.
    kind : hashable or None
        Programs of one kind differ in where things are in memory, and so in a few cycles at most: a device that
        predicts them does so once.

    Raises
    ------
    TypeError, ValueError
        One of them is wrong; the message names it and its value.
    """

    memory: np.ndarray
    program_address: int
    program_count: int
    window: tuple[int, int] = (-1, -1)
    base: int = 0
    constant: int = 0
    kind: Hashable | None = None

    def __post_init__(self) -> None:
        memory = self.memory
        if not isinstance(memory, np.ndarray) or isinstance(memory, np.ma.MaskedArray):
            raise TypeError(f"memory must be a plain numpy array, not {arguments.shown(memory)}")
        if memory.dtype != np.uint8 or memory.ndim != 1:
            raise ValueError(f"memory must be a uint8 array of one dimension, not {arguments.described(memory)}")
        if not memory.flags.writeable or not memory.flags.c_contiguous:
            raise ValueError("memory must be writeable and contiguous")
        self.constant = arguments.integer("constant", self.constant, 0, len(memory))
        for name in ("base", "program_address", "program_count"):
            setattr(self, name, arguments.integer(name, getattr(self, name)))
        if self.base < 0 or self.base % PAGE:
            raise ValueError(f"base must be a multiple of {PAGE}, not {self.base}")
        if self.program_address < 0 or self.program_address % INSTRUCTION_BYTES:
            raise ValueError(f"program_address must be a multiple of {INSTRUCTION_BYTES}, "
                             f"not {self.program_address}")
        if not 0 <= self.program_count <= MAX_PROGRAM:
            raise ValueError(f"program_count must be from 0 to {MAX_PROGRAM}, not {self.program_count}")
        if not isinstance(self.window, tuple | list) or len(self.window) != 2:
            raise TypeError(f"window must be a pair of addresses, not {arguments.shown(self.window)}")
        self.window = arguments.integer("window", self.window[0]), arguments.integer("window", self.window[1])
        if self.window == (-1, -1):
            self.window = (self.base, self.base + max(1, -(-len(memory) // PAGE)) * PAGE - 1)
        first, last = self.window
        if first < 0 or first % PAGE or (last + 1) % PAGE or last < first:
            raise ValueError(f"window must be whole pages of {PAGE} bytes, not {first:#x} to {last:#x}")

    def instruction(self, index: int) -> bytes:
        """The 64 bytes of one instruction; empty where memory does not hold it."""
        arguments.integer("index", index)
        start = self.program_address - self.base + index * INSTRUCTION_BYTES
        if not 0 <= start <= len(self.memory) - INSTRUCTION_BYTES:
            return b""
        return self.memory[start:start + INSTRUCTION_BYTES].tobytes()

    def error(self, code: ErrorCode, unit: Unit, index: int, address: int = 0, *,
              bus_silent: bool = False) -> "DeviceError":
        """The error of this job's instruction `index`, with that instruction in its message."""
        return DeviceError(code, unit, index, address, instruction=self.instruction(index), bus_silent=bus_silent)


@dataclass(frozen=True)
class Result:
    """How a program ran.

    Parameters
    ----------
    cycles : int or None
        Clock cycles from start to end; None on a device that cannot tell.
    counters : {unit name: {activity name: cycles}}
        Empty on a device without counters.
    wall_s : float
        Seconds that the run took here.
    trace : Trace or None
        What each unit did when, on a device that was asked to record it.
    predicted : bool
        Cycles and counters are the cycle model's, not counted.
    """

    cycles: int | None = None
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    wall_s: float = 0.0
    trace: Trace | None = field(default=None, compare=False, repr=False)
    predicted: bool = False

    def __post_init__(self) -> None:
        if self.cycles is not None:
            arguments.integer("cycles", self.cycles, 0)
        arguments.instance("counters", self.counters, Mapping)
        arguments.number("wall_s", self.wall_s)
        if self.trace is not None:
            arguments.instance("trace", self.trace, Trace)
        arguments.boolean("predicted", self.predicted)

    @property
    def simulated_cycles_per_second(self) -> float | None:
        """Cycles of the chip per second of this computer; None without either. A board's include the link."""
        if self.cycles is None or self.predicted or self.wall_s <= 0:
            return None
        return self.cycles / self.wall_s

    def __add__(self, other: "Result") -> "Result":
        """Both runs, one after the other."""
        if not isinstance(other, Result):
            return NotImplemented
        cycles = None if self.cycles is None or other.cycles is None else self.cycles + other.cycles
        counters = {unit: {activity: count + other.counters.get(unit, {}).get(activity, 0)
                           for activity, count in row.items()}
                    for unit, row in (self.counters or other.counters).items()
                    } if self.counters else dict(other.counters)
        trace = self.trace + other.trace if self.trace and other.trace else None
        return Result(cycles, counters, self.wall_s + other.wall_s, trace,
                      predicted=self.predicted or other.predicted)


# What is wrong, with {a} for the address in hexadecimal and {n} for it as a signed number, and what to do.
_CAUSES = {
    ErrorCode.NONE: ("ended with error code NONE", "read the registers again; the chip may have been reset"),
    ErrorCode.OPCODE: ("has opcode {n}, which does not exist", "assemble the program again"),
    ErrorCode.RESERVED: ("has reserved bit {n} set", "assemble the program again"),
    ErrorCode.FIELD: ("has a field with the meaningless value {n}", "correct the program"),
    ErrorCode.SCRATCHPAD_RANGE: ("uses scratchpad line {n}, which does not exist",
                                 "compile for this configuration"),
    ErrorCode.ACCUMULATOR_RANGE: ("uses accumulator line {n}, which does not exist",
                                  "compile for this configuration"),
    ErrorCode.WINDOW: ("touches address {a}, outside the memory window",
                       "widen the window or correct the program"),
    ErrorCode.BUS_READ: ("read address {a}, where the memory answered with an error", "check the address map"),
    ErrorCode.BUS_WRITE: ("wrote address {a}, where the memory answered with an error", "check the address map"),
    ErrorCode.WATCHDOG: ("made no progress until the watchdog ended it",
                         "check that each semaphore it waits for is signalled"),
    ErrorCode.ABORTED: ("was aborted by the host", "run it again"),
    ErrorCode.INDEX: ("found the index {n} in the scratchpad, which is not below its bound",
                      "correct the input, or the bound"),
}


class DeviceError(RuntimeError):
    """A program ended in an error; the message is one line: what, where, in which instruction, what to do.

    Attributes
    ----------
    code : ErrorCode
    unit : Unit
    index : int
        The instruction's number in the program.
    address : int
        What :class:`kiwicha.isa.ErrorCode` says for this code, unsigned 64 bits.

    Parameters
    ----------
    instruction : bytes
        For the message.
    bus_silent : bool
        The memory still owes the chip an answer, so that it cannot stop.
    """

    def __init__(self, code: ErrorCode, unit: Unit, index: int, address: int = 0, *, instruction: bytes = b"",
                 bus_silent: bool = False):
        self.code = ErrorCode(code)
        self.unit = Unit(unit)
        self.index = arguments.integer("index", index)
        self.address = arguments.integer("address", address) & (1 << 64) - 1
        signed = self.address - (self.address >> 63 << 64)
        what, remedy = _CAUSES[self.code]
        if bus_silent:
            remedy = "the memory does not answer, so the chip stays busy: check the memory and reset the chip"
        text = f" ({disassemble(instruction)})" if instruction else ""
        super().__init__(f"{self.code.name}: instruction {index} of {self.unit.name} "
                         f"{what.format(a=f'{self.address:#x}', n=signed)}; {remedy}{text}")

    def __reduce__(self):
        return _rebuild, (self.code, self.unit, self.index, self.address, str(self))


def _rebuild(code: ErrorCode, unit: Unit, index: int, address: int, message: str) -> DeviceError:
    error = DeviceError(code, unit, index, address)
    error.args = (message,)
    return error


def counters_from(read: Mapping[tuple[Unit, Activity], int]) -> dict[str, dict[str, int]]:
    """The counters of :class:`Result` from values by unit and activity."""
    return {unit.name: {activity.name: int(read[unit, activity]) for activity in Activity} for unit in Unit}
