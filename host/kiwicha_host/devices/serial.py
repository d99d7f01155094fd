"""A board behind a serial port, reached through the uartbone protocol (:mod:`fpga.uartbone`)."""

import struct
import time
from collections.abc import Sequence

import numpy as np

from kiwicha import ChipConfig

from .. import arguments
from ..extras import extra
from ..job import Job, Result
from ..memory_latency import BLOCK_RAM
from .base import Device
from .registers import LinkError, RegisterFile

with extra("serial"):
    import serial

__all__ = ["SerialDevice", "Uartbone"]

#: Byte address of the chip's registers on the board's bus; main memory starts at 0.
_REGISTERS = 0xF000_0000
_WRITE, _READ = 1, 2
_MAX_WORDS = 255
#: A host that died in the middle of a command leaves the bridge waiting for the rest, for so long.
_FORGET_S = 0.15
_MEMORY_MIN, _MEMORY_MAX = 1 << 12, 1 << 28


class Uartbone:
    """Words of a board's bus over a serial port.

    Parameters
    ----------
    port : str
        The port's name, or anything that ``serial.serial_for_url`` takes.
    baud : int
    timeout_s : float
        How long to wait for an answer that does not come.

    Raises
    ------
    LinkError
        The port cannot be opened or fails, or the board does not answer.
    """

    def __init__(self, port: str, baud: int, timeout_s: float):
        self._port = port
        try:
            self._serial = serial.serial_for_url(port, baud, timeout=timeout_s, write_timeout=timeout_s)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise LinkError(f"cannot open {port}: {reason}; check the name and your rights on it") from None
        time.sleep(_FORGET_S)
        self._serial.reset_input_buffer()

    def close(self) -> None:
        self._serial.close()

    def write_words(self, address: int, words: Sequence[int] | np.ndarray) -> None:
        """Write consecutive words from the byte address `address` on; nothing acknowledges them."""
        data = np.asarray(words, ">u4")
        for start in range(0, len(data), _MAX_WORDS):
            part = data[start:start + _MAX_WORDS]
            self._send(struct.pack(">BBI", _WRITE, len(part), address // 4 + start) + part.tobytes())

    def read_words(self, address: int, count: int) -> np.ndarray:
        """`count` consecutive words from the byte address `address` on."""
        lengths = [min(_MAX_WORDS, count - start) for start in range(0, count, _MAX_WORDS)]
        commands = [struct.pack(">BBI", _READ, words, address // 4 + i * _MAX_WORDS)
                    for i, words in enumerate(lengths)]
        answer = bytearray()
        # The bridge holds one command while it answers another, so there is no pause between answers.
        self._send(b"".join(commands[:1]))
        for words, following in zip(lengths, [*commands[1:], b""], strict=True):
            self._send(following)
            answer += self._receive(4 * words)
        return np.frombuffer(bytes(answer), ">u4").astype(np.uint32)

    def _send(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except (OSError, TypeError) as error:
            raise self._lost(error) from None

    def _receive(self, count: int) -> bytes:
        try:
            data = self._serial.read(count)
        except (OSError, TypeError) as error:
            raise self._lost(error) from None
        if len(data) < count:
            raise LinkError(f"{self._port} does not answer ({len(data)} of {count} bytes came); check that the "
                            "board has power and the bitstream, and the baud rate")
        return data

    def _lost(self, error: Exception) -> LinkError:
        return LinkError(f"{self._port} failed: {str(error).splitlines()[0]}; is the board still connected?")


class SerialDevice(Device):
    """A board with a chip of `config`, its memory written and read over the serial line.

    Parameters
    ----------
    config : ChipConfig
    port : str
    baud : int
    timeout_s : float
        How long to wait for an answer of the board.
    run_limit_s : float
        A program that takes longer is aborted.
    memory_latency : int
        Of the board's main memory, in the chip's clock cycles, as ``fpga/boards.py`` has it; programs are compiled
        for it.

    Raises
    ------
    LinkError
        The port does not open, nobody answers, or the chip there is another.
    """

    def __init__(self, config: ChipConfig, port: str, *, baud: int = 1_000_000, timeout_s: float = 2.0,
                 run_limit_s: float = 60.0, memory_latency: int = BLOCK_RAM):
        super().__init__(config, memory_latency)
        if not isinstance(port, str):
            raise TypeError(f"port must be a serial port's name, not {arguments.shown(port)}")
        baud = arguments.integer("baud", baud, 1)
        timeout_s = arguments.number("timeout_s", timeout_s, positive=True)
        self.name = f"serial:{port}"
        self._run_limit_s = arguments.number("run_limit_s", run_limit_s, positive=True)
        self._link = Uartbone(port, baud, timeout_s)
        try:
            self.registers = RegisterFile(
                lambda address: int(self._link.read_words(_REGISTERS + address, 1)[0]),
                lambda address, value: self._link.write_words(_REGISTERS + address, [value]),
                lambda address, count: self._link.read_words(_REGISTERS + address, count).tolist())
            self.registers.check_identity(config)
            if not self.registers.finished():
                self.registers.abort()
            self.memory_limit = self._find_memory()
        except BaseException:
            self._link.close()
            raise
        # What the board's memory is known to hold, and of which bytes that is known.
        self._held = np.zeros(self.memory_limit, np.uint8)
        self._known = np.zeros(self.memory_limit, bool)

    def close(self) -> None:
        self._link.close()

    def execute(self, job: Job) -> Result:
        memory, first = job.memory, job.base
        changed = first + job.constant // 4 * 4
        last = first + -(-len(memory) // 4) * 4
        assert self.memory_limit is not None
        if last > self.memory_limit:
            raise ValueError(f"the job needs memory up to {last:#x}, the board has {self.memory_limit:#x} bytes")
        image = np.zeros(last - first, np.uint8)
        image[:len(memory)] = memory
        self._write(first, image)
        self._known[changed:last] = False
        began = time.perf_counter()
        self.registers.start(job)
        while not self.registers.ended():
            if time.perf_counter() - began > self._run_limit_s:
                raise LinkError(f"the program did not end within {self._run_limit_s:g} s and was aborted; "
                                f"give a longer run_limit_s; {self.registers.give_up(job)}")
        result = self.registers.finish(job, wall_s=time.perf_counter() - began)
        image = self._link.read_words(changed, (last - changed) // 4).astype("<u4").view(np.uint8)
        self._held[changed:last], self._known[changed:last] = image, True
        memory[changed - first:] = image[:first + len(memory) - changed]
        return result

    def _write(self, first: int, image: np.ndarray) -> None:
        """Bring the board's memory to `image`: only the pieces that it does not hold already."""
        last = first + len(image)
        stale = (self._held[first:last] != image) | ~self._known[first:last]
        piece = 4 * _MAX_WORDS
        for start in range(0, len(image), piece):
            if stale[start:start + piece].any():
                self._link.write_words(first + start, image[start:start + piece].view("<u4"))
        self._held[first:last], self._known[first:last] = image, True

    def _find_memory(self) -> int:
        """Bytes of main memory: the lowest power of two that nothing answers at."""
        for mark in (0x4B495749, 0x2B2A2D2C):
            self._link.write_words(0, [mark])
            if int(self._link.read_words(0, 1)[0]) != mark:
                raise LinkError("the board's main memory does not hold what is written to it; "
                                "load the bitstream again")
        size = _MEMORY_MIN
        while size < _MEMORY_MAX:
            # A word beyond the memory reads as ones, whatever was written there.
            self._link.write_words(size, [0x2B2A2D2C])
            if int(self._link.read_words(size, 1)[0]) != 0x2B2A2D2C:
                break
            size *= 2
        return size
