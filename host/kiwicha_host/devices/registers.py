"""How a chip is driven through its registers, whatever carries the reads and writes."""

import time
from collections.abc import Callable, Sequence

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS
from kiwicha.isa import COUNTER_BASE, ID_VALUE, REGISTERS, VERSION_VALUE, Activity, ErrorCode, Unit
from kiwicha.isa import counter_address as _counter

from ..job import DeviceError, Job, Result, counters_from

__all__ = ["LinkError", "RegisterFile"]

_START, _ABORT = (REGISTERS["CONTROL"].field(name).mask for name in ("start", "abort"))
_BUSY, _DONE, _ERROR, _LOCKED = (REGISTERS["STATUS"].field(name).mask
                                 for name in ("busy", "done", "error", "locked"))
_BOTH_ENDS = sum(item.mask for item in REGISTERS["IRQ_ENABLE"].fields)
_CODE, _UNIT = REGISTERS["ERROR"].field("code"), REGISTERS["ERROR"].field("unit")
#: Register reads, and seconds, within which a chip that stops has had its memory's last answers.
_PATIENCE_READS, _PATIENCE_S = 1000, 0.5
#: Registers whose fields must equal the configuration's attributes of the same names.
_SHAPE = ("ARRAY", "BUS", "SCRATCHPAD")
_ATTRIBUTES = {"banks": "scratchpad_banks"}


class LinkError(RuntimeError):
    """The device does not answer, or is not the one that was asked for; one line that says what to do."""


class RegisterFile:
    """The chip's registers by name, and the steps of a run.

    Parameters
    ----------
    read : address -> value
    write : (address, value) -> None
        One 32-bit register at a byte offset (:data:`kiwicha.isa.REGISTERS`).
    read_block : (address, count) -> values, optional
        Consecutive registers at once, where that is faster.
    """

    def __init__(self, read: Callable[[int], int], write: Callable[[int, int], None],
                 read_block: Callable[[int, int], Sequence[int]] | None = None):
        self._read = read
        self._write = write
        self._read_block = read_block or (lambda address, count: [read(address + 4 * i) for i in range(count)])

    def read(self, name: str) -> int:
        return self._read(REGISTERS[name].offset)

    def write(self, name: str, value: int) -> None:
        self._write(REGISTERS[name].offset, value)

    def read_pair(self, name: str) -> int:
        """64 bits from `name`_LOW and `name`_HIGH."""
        return self.read(f"{name}_LOW") | self.read(f"{name}_HIGH") << 32

    def write_pair(self, name: str, value: int) -> None:
        self.write(f"{name}_LOW", value & 0xFFFF_FFFF)
        self.write(f"{name}_HIGH", value >> 32)

    def check_identity(self, config: ChipConfig) -> None:
        """Read what the chip is, and raise :exc:`LinkError` unless it is `config`."""
        identity = self.read("ID")
        if identity != ID_VALUE:
            raise LinkError(f"no Kiwicha chip answers: its ID reads {identity:#010x}, not {ID_VALUE:#010x}; "
                            "load the bitstream, and check the port and its baud rate")
        version = self.read("VERSION")
        if version >> 16 != VERSION_VALUE >> 16:
            raise LinkError(f"the chip has ISA version {version >> 16}.{version & 0xFFFF}, this software needs "
                            f"{VERSION_VALUE >> 16}.x; build the bitstream and the software from one version")
        for what, got, expected in self._differences(config):
            raise LinkError(f"the chip is not configuration {config.name!r}: its {what} is {got}, not {expected}; "
                            "give the configuration that the bitstream was built for")

    def _differences(self, config: ChipConfig):
        for name in _SHAPE:
            value = self.read(name)
            for item in REGISTERS[name].fields:
                got = item.of(value)
                # A field may be too narrow for its highest value, 256 bytes in 8 bits.
                expected = getattr(config, _ATTRIBUTES.get(item.name, item.name)) & (1 << item.width) - 1
                if got != expected:
                    yield item.name, got, expected
        if (got := self.read("ACCUMULATOR")) != config.accumulator_lines:
            yield "accumulator_lines", got, config.accumulator_lines
        features = self.read("FEATURES")
        for item in REGISTERS["FEATURES"].fields:
            has, expected = bool(item.of(features)), getattr(config, item.name)
            if has != expected:
                yield item.name, str(has).lower(), str(expected).lower()
        formats = self.read("FORMATS")
        got_formats = [item for i, item in enumerate(FORMATS) if formats >> i & 1]
        if set(got_formats) != set(config.formats):
            yield "list of formats", ", ".join(got_formats) or "empty", ", ".join(config.formats)

    def start(self, job: Job) -> None:
        """Set up `job` and start it. A program that a host left running before is aborted first."""
        if self.read("STATUS") & _BUSY:
            self.abort()
        self.write_pair("PROGRAM", job.program_address)
        self.write("PROGRAM_COUNT", job.program_count)
        if self.read("STATUS") & _LOCKED:
            self._check_window(job)
        else:
            self.write_pair("WINDOW_FIRST", job.window[0])
            self.write_pair("WINDOW_LAST", job.window[1])
        self.write("IRQ_ENABLE", _BOTH_ENDS)
        self.write("IRQ_PENDING", _BOTH_ENDS)
        self.write("CONTROL", _START)

    def _check_window(self, job: Job) -> None:
        window = self.read_pair("WINDOW_FIRST"), self.read_pair("WINDOW_LAST")
        if not window[0] <= job.window[0] <= job.window[1] <= window[1]:
            raise LinkError(f"the chip's memory window is locked to {window[0]:#x}..{window[1]:#x}, the job needs "
                            f"{job.window[0]:#x}..{job.window[1]:#x}; reset the chip")

    def abort(self) -> None:
        """End the running program, if there is one.

        Raises
        ------
        LinkError
            The chip cannot stop, because its memory does not answer.
        """
        self.write("CONTROL", _ABORT)
        if not self._stopped():
            code, unit, index, _ = self._error()
            raise LinkError(f"the chip cannot stop: its memory does not answer since instruction {index} of "
                            f"{unit.name} ({code.name}); check the memory and reset the chip")

    def _stopped(self) -> bool:
        """Whether the chip, which stops, has come to its end."""
        late = time.monotonic() + _PATIENCE_S
        for _ in range(_PATIENCE_READS):
            if self.finished():
                return True
            if time.monotonic() > late:
                break
        return False

    def finished(self) -> bool:
        """Whether no program runs, nor is being stopped."""
        return not self.read("STATUS") & _BUSY

    def ended(self) -> bool:
        """Whether it is known how the last program ended; the chip may still be waiting for its memory."""
        status = self.read("STATUS")
        return bool(status & _ERROR) or not status & _BUSY

    def _error(self) -> tuple[ErrorCode, Unit, int, int]:
        """What the ERROR registers say: code, unit, instruction, address."""
        value = self.read("ERROR")
        try:
            code, unit = ErrorCode(_CODE.of(value)), Unit(_UNIT.of(value))
        except ValueError:
            raise LinkError(f"the chip reports error {value:#x}, which this software does not know; "
                            "build the bitstream and the software from one version") from None
        return code, unit, self.read("ERROR_INSTRUCTION"), self.read_pair("ERROR_ADDRESS")

    def error(self, job: Job) -> DeviceError | None:
        """What the last program, `job`, ended with; None if it ended well."""
        if not self.read("STATUS") & _ERROR:
            return None
        return job.error(*self._error(), bus_silent=not self._stopped())

    def raise_for_error(self, job: Job) -> None:
        """Raise what the last program ended with, unless it ended well."""
        if error := self.error(job):
            raise error
        status = self.read("STATUS")
        if status & (_BUSY | _DONE) != _DONE:
            raise LinkError(f"the program has not ended: STATUS reads {status:#x}; was the chip reset?")

    def give_up(self, job: Job) -> str:
        """End `job`, which takes too long; how far it came, for a message."""
        self.write("CONTROL", _ABORT)
        self._stopped()
        return str(self.error(job) or "it ended at last")

    def counters(self) -> dict[str, dict[str, int]]:
        """Cycles of the last program by unit and activity."""
        last = max(_counter(unit, activity) for unit in Unit for activity in Activity)
        values = self._read_block(COUNTER_BASE, (last - COUNTER_BASE) // 4 + 1)
        return counters_from({(unit, activity): values[(_counter(unit, activity) - COUNTER_BASE) // 4]
                              for unit in Unit for activity in Activity})

    def measured(self) -> tuple[int, dict[str, dict[str, int]]]:
        """Cycles and counters of the last program, well ended or not.

        Raises
        ------
        LinkError
            The counters of a unit do not add up to the cycles, so some of them are not what the chip counted.
        """
        cycles, counters = self.read("CYCLES"), self.counters()
        for unit, row in counters.items():
            # All of them wrap at 32 bits.
            if (sum(row.values()) - cycles) & 0xFFFF_FFFF:
                raise LinkError(f"the counters of {unit} add up to {sum(row.values())}, not to the run's {cycles} "
                                "cycles; check the link, and report it if the chip is simulated")
        return cycles, counters

    def finish(self, job: Job, *, wall_s: float = 0.0) -> Result:
        """The result of a program that has ended; an exception if it ended badly."""
        self.write("IRQ_PENDING", _BOTH_ENDS)
        try:
            self.raise_for_error(job)
        except DeviceError:
            self.measured()
            raise
        cycles, counters = self.measured()
        return Result(cycles=cycles, counters=counters, wall_s=wall_s)
