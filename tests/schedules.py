"""Orders in which a chip may run a program, other than that of the program."""

import random
from collections import deque

from kiwicha.isa import INSTRUCTION_BYTES, SEMAPHORE_MAX, SEMAPHORES, Unit
from kiwicha_host import Job
from kiwicha_host.assembler import decode, encode

UNITS = (Unit.LOAD, Unit.MATMUL, Unit.VECTOR, Unit.STORE)


class Deadlock(AssertionError):
    """Nothing can go on."""


def legal_order(program: bytes, rng: random.Random, queue_depth: int, favourite: Unit | None = None,
                last: Unit | None = None) -> list[int]:
    """Instruction numbers in an order that queues and semaphores allow; `favourite` runs whenever it can.

    `last` runs only when nothing else can: as the memory may be slow, so may LOAD and STORE.

    Harsher than the chip: a unit whose signal finds a full semaphore does nothing else until there is room.
    """
    code = [decode(program[i:i + INSTRUCTION_BYTES]) for i in range(0, len(program), INSTRUCTION_BYTES)]
    queues: dict[Unit, deque[int]] = {unit: deque() for unit in UNITS}
    owed: dict[Unit, int] = dict.fromkeys(UNITS, 0)
    semaphores, fetched, order = [0] * SEMAPHORES, 0, []

    def has(mask: int, room: bool) -> bool:
        return all(semaphores[i] < SEMAPHORE_MAX if room else semaphores[i]
                   for i in range(SEMAPHORES) if mask >> i & 1)

    def fetch() -> bool:
        nonlocal fetched
        moved = False
        while fetched < len(code) and len(queues[code[fetched][0]]) <= queue_depth:
            queues[code[fetched][0]].append(fetched)
            fetched += 1
            moved = True
        return moved

    while len(order) < len(code) or any(owed.values()):
        fetch()
        ready = [unit for unit in UNITS if (owed[unit] and has(owed[unit], True))
                 or (not owed[unit] and queues[unit] and has(code[queues[unit][0]][1]["wait"], False))]
        if not ready:
            raise Deadlock(f"after {len(order)} of {len(code)} instructions")
        unit = favourite if favourite in ready and rng.random() < 0.95 else rng.choice(
            [item for item in ready if item != last] or ready)
        if owed[unit]:
            for i in range(SEMAPHORES):
                semaphores[i] += owed[unit] >> i & 1
            owed[unit] = 0
            continue
        index = queues[unit].popleft()
        for i in range(SEMAPHORES):
            semaphores[i] -= code[index][1]["wait"] >> i & 1
        owed[unit] = code[index][1]["signal"]
        order.append(index)
    return order


def reordered(job: Job, order: list[int]) -> Job:
    """The same job with its instructions in `order` and without semaphores: a golden machine runs it just so."""
    memory = job.memory.copy()
    base = job.program_address - job.base
    for place, index in enumerate(order):
        unit, fields = decode(job.instruction(index))
        fields |= {"wait": 0, "signal": 0}
        start = base + place * INSTRUCTION_BYTES
        memory[start:start + INSTRUCTION_BYTES] = list(encode(unit, **fields))
    return Job(memory, job.program_address, job.program_count, job.window, job.base)
