"""The reference machine: runs any program on a memory image, without time.

Instructions run one at a time: always the oldest whose semaphores can be taken, each unit in its own order.
For a program without races this gives the same memory as any other order that the semaphores allow. Where
several instructions are at fault, this machine names the first it meets in that order.
"""

import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kiwicha.isa import INSTRUCTION_BYTES, SEMAPHORE_MAX, SEMAPHORES, ErrorCode, Unit
from kiwicha.timing import OPEN_INSTRUCTIONS

from .. import arguments
from ..assembler import DecodeError, decode
from ..job import Job, Result
from .units import EXECUTE, Fault, Memory, State

__all__ = ["Machine"]


@dataclass
class _Waiting:
    """A decoded instruction in its unit's queue."""
    index: int
    fields: dict[str, Any]


class Machine(State):
    """A chip of `config`: its scratchpad, accumulators and semaphores.

    The scratchpad and the accumulators start as zeros and keep their contents from one program to the next,
    also after an error.
    """

    def run(self, job: Job) -> Result:
        """Run the job's program; changes ``job.memory``.

        Raises
        ------
        DeviceError
            As :class:`kiwicha.isa.ErrorCode` documents; a deadlock is WATCHDOG at the oldest instruction
            that cannot end.
        """
        arguments.instance("job", job, Job)
        start = time.perf_counter()
        _Run(self, job).all()
        return Result(wall_s=time.perf_counter() - start)


@lru_cache(maxsize=1 << 14)
def _decoded(code: bytes) -> tuple[Unit, dict[str, Any]]:
    """As :func:`decode`; steps of a language model run the same instructions again and again."""
    return decode(code)


class _Run:
    """One program: which instruction is next, and the semaphores."""

    def __init__(self, machine: Machine, job: Job):
        self.machine = machine
        self.job = job
        self.memory = Memory(machine.config, job)
        self.semaphores = [0] * SEMAPHORES
        self.queues: dict[Unit, deque[_Waiting]] = {unit: deque() for unit in EXECUTE}
        #: Instructions that have run but not signalled yet, because a semaphore is full: (index, mask).
        self.unsent: dict[Unit, deque[tuple[int, int]]] = {unit: deque() for unit in EXECUTE}
        self.fetched = 0
        self.blocked: tuple[Unit, _Waiting] | None = None

    def all(self) -> None:
        while self._send() or self._execute() or self._fetch():
            pass
        left = [(queue[0].index, unit) for unit, queue in self.queues.items() if queue]
        left += [(queue[0][0], unit) for unit, queue in self.unsent.items() if queue]
        if left:
            index, unit = min(left, key=lambda item: item[0])
            raise self.job.error(ErrorCode.WATCHDOG, unit, index)

    def _fetch(self) -> bool:
        """Bring one instruction to its unit's queue; False if that is full or there is none."""
        if self.blocked is None:
            if self.fetched == self.job.program_count:
                return False
            self.blocked = self._decode(self.fetched)
            self.fetched += 1
        unit, instruction = self.blocked
        # `queue_depth` wait in the queue and one more at its head.
        if len(self.queues[unit]) > self.machine.config.queue_depth:
            return False
        self.queues[unit].append(instruction)
        self.blocked = None
        return True

    def _decode(self, index: int) -> tuple[Unit, _Waiting]:
        address = self.job.program_address + index * INSTRUCTION_BYTES
        try:
            self.memory.check(address, INSTRUCTION_BYTES, ErrorCode.BUS_READ)
            unit, fields = _decoded(bytes(self.job.instruction(index)))
        except Fault as fault:
            raise self.job.error(fault.code, Unit.FETCH, index, fault.address) from None
        except DecodeError as error:
            raise self.job.error(error.code, error.unit, index, error.address) from None
        return unit, _Waiting(index, fields)

    def _execute(self) -> bool:
        """Run the oldest instruction whose semaphores can be taken; False if there is none."""
        full = sum(1 << i for i in range(SEMAPHORES) if self.semaphores[i])
        ready = [(queue[0].index, unit) for unit, queue in self.queues.items()
                 if queue and not queue[0].fields["wait"] & ~full and len(self.unsent[unit]) < OPEN_INSTRUCTIONS]
        if not ready:
            return False
        _, unit = min(ready, key=lambda item: item[0])
        head = self.queues[unit].popleft()
        for i in range(SEMAPHORES):
            self.semaphores[i] -= head.fields["wait"] >> i & 1
        try:
            EXECUTE[unit](self.machine, self.memory, head.fields)
        except Fault as fault:
            raise self.job.error(fault.code, unit, head.index, fault.address) from None
        self.unsent[unit].append((head.index, head.fields["signal"]))
        return True

    def _send(self) -> bool:
        """Give one unit's signals, all of an instruction at once; False if no semaphore has room."""
        for queue in self.unsent.values():
            bits = [i for i in range(SEMAPHORES) if queue and queue[0][1] >> i & 1]
            if queue and all(self.semaphores[i] < SEMAPHORE_MAX for i in bits):
                for i in bits:
                    self.semaphores[i] += 1
                queue.popleft()
                return True
        return False
