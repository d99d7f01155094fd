"""Programs from instructions that say what they read and write; the semaphores follow.

Each instruction names the buffers it reads and writes by keys; :mod:`.hazards` says what has to wait for what. The
units each run in order, so between an ordered pair of units only a growing list of "this one after that one"
matters, and one counting semaphore per pair carries it. Program order is a valid order of execution, which is why
the result cannot deadlock.

Within a unit, order alone is enough but for two cases: VECTOR fetches operands, parameters and tables of an
instruction while the one before it still writes, and LOAD an index. So each of them is a pair with itself: an
instruction that reads what an earlier one has written waits until that one has ended. Its writes need not wait;
they come in order.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from kiwicha.config import shown
from kiwicha.isa import INDEX_WIDTH, INSTRUCTIONS, SEMAPHORE_MAX, Unit

from ...assembler import encode
from ..errors import CompileError
from .hazards import Hazards

__all__ = ["ProgramBuilder", "semaphore"]

#: Units that read for an instruction before the one before it has written.
_PREFETCHING = (Unit.VECTOR, Unit.LOAD)
_PAIRS = [(a, b) for a in INSTRUCTIONS for b in INSTRUCTIONS if a != b]
_PAIRS += [(unit, unit) for unit in _PREFETCHING]


def semaphore(producer: Unit, consumer: Unit) -> int:
    """Number of the semaphore by which `consumer` waits for `producer`; VECTOR and LOAD also for themselves."""
    _check_unit("producer", producer)
    _check_unit("consumer", consumer)
    if (producer, consumer) not in _PAIRS:
        raise ValueError(f"producer and consumer must be two different units, not both {producer.name}")
    return _PAIRS.index((producer, consumer))


def _check_unit(name: str, unit: Unit) -> None:
    if not isinstance(unit, Unit) or unit not in INSTRUCTIONS:
        units = ", ".join(item.name for item in INSTRUCTIONS)
        raise ValueError(f"{name} must be one of {units}, not {shown(unit)}")


@dataclass
class _Node:
    unit: Unit
    fields: dict
    after: dict[Unit, int] = field(default_factory=dict)    # the latest instruction of each unit to wait for
    wait: int = 0
    signal: int = 0


class ProgramBuilder:
    """Collects instructions in an order that is right if they ran one after the other."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._hazards = Hazards()

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, unit: Unit, *, reads: Iterable[Hashable] = (), writes: Iterable[Hashable] = (),
            **fields) -> int:
        """Append an instruction; returns its index. `fields` are those of the ISA but wait and signal."""
        _check_unit("unit", unit)
        index, node = len(self._nodes), _Node(unit, fields)
        if index >= (1 << INDEX_WIDTH) - 1:
            raise CompileError(f"the program needs more than {index} instructions; split the job")
        for earlier, is_read in self._hazards.add(index, reads, writes):
            self._order(node, earlier, is_read and unit in _PREFETCHING)
        self._nodes.append(node)
        return index

    def _order(self, node: _Node, earlier: int, is_prefetch: bool) -> None:
        unit = self._nodes[earlier].unit
        if unit != node.unit or is_prefetch:
            node.after[unit] = max(earlier, node.after.get(unit, -1))

    def assemble(self) -> bytes:
        """The program's bytes, 64 per instruction."""
        for producer, consumer in _PAIRS:
            bit = 1 << semaphore(producer, consumer)
            for earlier, later in self._credits(producer, consumer):
                self._nodes[earlier].signal |= bit
                self._nodes[later].wait |= bit
        return b"".join(encode(node.unit, wait=node.wait, signal=node.signal, **node.fields)
                        for node in self._nodes)

    def _credits(self, producer: Unit, consumer: Unit) -> list[tuple[int, int]]:
        """Which instruction signals which, in order; no more than the semaphore holds are ever ahead."""
        pairs: list[tuple[int, int]] = []
        for later, node in enumerate(self._nodes):
            earlier = node.after.get(producer, -1) if node.unit == consumer else -1
            if earlier >= 0 and (not pairs or earlier > pairs[-1][0]):
                pairs.append((earlier, later))
        # A producer far ahead would fill the semaphore and wait for a consumer that comes later in the
        # program: let that consumer wait for the later producer instead, with one credit for all.
        kept, i = [], 0
        while i < len(pairs):
            earlier, later = pairs[i]
            last = i
            if i + SEMAPHORE_MAX < len(pairs) and pairs[i + SEMAPHORE_MAX][0] < later:
                while last + 1 < len(pairs) and pairs[last + 1][0] < later:
                    last += 1
                earlier = pairs[last][0]
            kept.append((earlier, later))
            i = last + 1
        return kept
