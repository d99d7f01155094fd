"""How many cycles a program takes, without running the chip."""

from collections.abc import Mapping
from dataclasses import dataclass

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, Activity, Unit

from .. import arguments
from ..assembler import decode
from ..memory_latency import MEMORY_LATENCY
from .bus import ReadBus
from .events import NEVER, Events
from .fetch import Fetch
from .issue_queue import Instruction, IssueQueue, Semaphores, UnitModel
from .load import LoadModel
from .matmul import MatmulModel
from .store import StoreModel
from .timing import MEASURED, Timing
from .vector import VectorModel

__all__ = ["Deadlock", "Prediction", "cycles_within", "predict"]

#: What a unit is counted as doing while it has work and does not move.
_STALL = {Unit.LOAD: Activity.MEMORY, Unit.MATMUL: Activity.OPERAND, Unit.VECTOR: Activity.OPERAND,
          Unit.STORE: Activity.MEMORY}


class Deadlock(RuntimeError):
    """A program that waits for ever; the message says how much of it."""


@dataclass(frozen=True)
class Prediction:
    """What the chip's counters would read.

    Parameters
    ----------
    cycles : int
        Clock cycles of the run, start to end.
    counters : {unit name: {activity name: cycles}}
        Per unit their sum is `cycles`. BUSY is exact; how the rest is divided is an estimate, which knows one
        cause of stalls for each unit besides SEMAPHORE.
    """
    cycles: int
    counters: Mapping[str, Mapping[str, int]]


def predict(config: ChipConfig, program: bytes, *, latency: int = MEMORY_LATENCY, address: int = 0) -> Prediction:
    """Predict the run of `program`.

    Parameters
    ----------
    config : ChipConfig
    program : bytes
        Instructions of 64 bytes; they must be good: what would end in an error has no meaningful prediction.
    latency : int
        Memory latency, cycles: from an accepted address to the first data, and from a burst's last beat to its
        answer. The memory serves one beat of each direction per cycle, in order.
    address : int
        Where the program is in memory; a burst of it does not cross a multiple of 256 bytes.

    Raises
    ------
    ValueError
        `program` is not whole instructions, or `latency` is negative.
    TypeError
        `latency` is no integer.
    DecodeError
        One of them is none.
    Deadlock
        The program never ends: its semaphores are wrong.
    """
    return _checked(config, program, latency, address).all()


def cycles_within(limit: int, config: ChipConfig, program: bytes, *, latency: int = MEMORY_LATENCY) -> int | None:
    """The cycles that :func:`predict` predicts; None, and sooner known, if they are more than `limit`.

    Raises
    ------
    ValueError, TypeError, DecodeError
        As `predict`.
    Deadlock
        The program never ends, and that shows within `limit` cycles.
    """
    limit = arguments.integer("limit", limit, 0)
    run = _checked(config, program, latency, 0)
    cycles = run.all().cycles if run.decided_by(limit) else None
    return None if cycles is None or cycles > limit else cycles


def _checked(config: ChipConfig, program: bytes, latency: int, address: int) -> "_Run":
    arguments.chip(config)
    if not isinstance(program, bytes | bytearray):
        raise TypeError(f"program must be bytes, not {arguments.shown(program)}")
    if len(program) % INSTRUCTION_BYTES:
        raise ValueError(f"program must be instructions of {INSTRUCTION_BYTES} bytes, not {len(program)} bytes")
    latency, address = arguments.integer("latency", latency, 0), arguments.integer("address", address, 0)
    return _Run(config, _decoded(program), latency, address)


def _decoded(program: bytes) -> list[Instruction]:
    instructions = []
    for index in range(len(program) // INSTRUCTION_BYTES):
        unit, fields = decode(program[index * INSTRUCTION_BYTES:(index + 1) * INSTRUCTION_BYTES])
        instructions.append(Instruction(index, unit, fields, fields["wait"], fields["signal"]))
    return instructions


class _Run:
    """One program on one chip."""

    def __init__(self, config: ChipConfig, program: list[Instruction], latency: int, address: int):
        self._program = program
        self._events = events = Events()
        timing = Timing.of(config)
        bus = ReadBus(events, latency)
        matmul = MatmulModel(events, config, timing)
        vector = VectorModel(events, config, timing, matmul)
        reads = matmul.reads, vector.reads
        self._units: dict[Unit, UnitModel] = {
            Unit.LOAD: LoadModel(events, bus, config, timing, vector.writes, reads), Unit.MATMUL: matmul,
            Unit.VECTOR: vector, Unit.STORE: StoreModel(events, config, timing, latency, reads)}
        semaphores = Semaphores(events)
        self._issue_queues = {unit: IssueQueue(events, semaphores, unit, model, config.queue_depth)
                          for unit, model in self._units.items()}
        self._fetch = Fetch(events, bus, config, program, address, self._issue_queues)

    def decided_by(self, limit: int) -> bool:
        """Whether the program ends in the cycle `limit` or before; or, for :meth:`all` to say, never."""
        self._events.run(limit - MEASURED["retire_to_end"])
        return not self._left() or self._events.next_time == NEVER

    def _left(self) -> int:
        """Instructions that have not retired."""
        return len(self._program) - sum(len(issue_queue.spans) for issue_queue in self._issue_queues.values())

    def all(self) -> Prediction:
        self._events.run()
        if left := self._left():
            raise Deadlock(f"the program never ends: {left} of its {len(self._program)} instructions wait for "
                           "semaphores for ever")
        last = max([0, *(issue_queue.last_retire for issue_queue in self._issue_queues.values())])
        cycles = last + MEASURED["retire_to_end"]
        return Prediction(cycles, {unit.name: self._counters(unit, cycles) for unit in Unit})

    def _counters(self, unit: Unit, cycles: int) -> dict[str, int]:
        counts = dict.fromkeys((activity.name for activity in Activity), 0)
        if unit == Unit.FETCH:
            counts["BUSY"] = len(self._program)
            counts["QUEUE"] = self._fetch.queue_stalls
            counts["MEMORY"] = self._fetch.last_dispatch + 1 - counts["BUSY"] - counts["QUEUE"]
        elif unit in self._issue_queues:
            issue_queue = self._issue_queues[unit]
            counts["BUSY"] = self._units[unit].busy
            working = _covered(issue_queue.spans)
            counts[_STALL[unit].name] = max(0, working - counts["BUSY"])
            counts["SEMAPHORE"] = _covered([*issue_queue.spans, *issue_queue.waits]) - working
        counts["IDLE"] = cycles - sum(counts.values())
        return counts


def _covered(spans: list[tuple[int, int]]) -> int:
    """Cycles that are in at least one of `spans`, whose ends do not count."""
    total, until = 0, 0
    for first, end in sorted(spans):
        total += max(0, end - max(first, until))
        until = max(until, end)
    return total
