"""Instructions of the array and of the vector unit in an order in which neither waits for its turn."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from kiwicha import ChipConfig
from kiwicha.isa import TABLE_WORDS, Unit

from ...program.memory_map import ceil_div
from ..emitter import Emitter

__all__ = ["Batch", "Recorded", "Recorder", "interleaved"]

#: Cycles of the longest VECTOR between two products' results, if it can be cut.
_LONGEST = 1024
#: Cycles of a VECTOR besides its steps, about, and of one that loads a table.
_VECTOR, _TABLE = 8, TABLE_WORDS + 40


@dataclass(frozen=True)
class Recorded:
    """An instruction for `layer` that is not in a program yet."""
    layer: int
    unit: Unit
    reads: tuple[Hashable, ...]
    writes: tuple[Hashable, ...]
    fields: dict[str, Any]

    def emit(self, emitter: Emitter) -> None:
        emitter.layer = self.layer
        emitter.add(self.unit, reads=self.reads, writes=self.writes, **self.fields)

    def cycles(self, config: ChipConfig) -> int:
        """About how long its unit takes, if that is MATMUL or VECTOR."""
        if self.unit not in (Unit.MATMUL, Unit.VECTOR):
            return 0
        counts = [self.fields.get(f"count{level}", 1) for level in range(4)]
        if self.unit == Unit.MATMUL:
            return max(counts[0] * counts[1], config.rows) * counts[2] * counts[3]
        tables = self.fields.get("load_a", 0) + self.fields.get("load_b", 0)
        return prod(counts) * ceil_div(config.columns, config.vector_lanes) + _VECTOR + _TABLE * tables

    def cut(self, config: ChipConfig) -> Iterator["Recorded"]:
        """The same as several that are not much longer than `_LONGEST` cycles, along its outermost results."""
        levels = (3,) if self.fields.get("row") else (3, 2)
        level = next((item for item in levels if self.fields.get(f"count{item}", 1) > 1), None)
        if level is None:
            yield self
            return
        count = self.fields[f"count{level}"]
        size = ceil_div(count, ceil_div(self.cycles(config), _LONGEST))
        for first in range(0, count, size):
            fields = self.fields | {f"count{level}": min(size, count - first)}
            for operand in ("a", "b", "out"):
                if f"{operand}_stride{level}" in fields:
                    fields[f"{operand}_line"] += first * fields[f"{operand}_stride{level}"]
            yield replace(self, fields=fields if first == 0 else fields | {"load_a": 0, "load_b": 0})


class Recorder(Emitter):
    """Keeps instructions, for others to come between them."""

    def __init__(self, layer: int):
        super().__init__()
        self.layer = layer
        self.items: list[Recorded] = []

    def add(self, unit: Unit, *, reads: Iterable[Hashable] = (), writes: Iterable[Hashable] = (),
            **fields: Any) -> None:
        self.items.append(Recorded(self.layer, unit, tuple(reads), tuple(writes), fields))


@dataclass(frozen=True)
class Batch:
    """Products whose sums are in the same half of the accumulators, what makes results of them, and what brings
    their weights, if these do not stay; that goes as it is put into a program.
    """
    products: list[Recorded]
    results: list[Recorded]
    loads: deque[Recorded]


def interleaved(config: ChipConfig, batches: Sequence[Batch], others: Sequence[Recorded],
                following: Sequence[Batch] = ()) -> Iterator[Recorded]:
    """`batches`, which use the halves in turn, among `others`, which need none of them.

    VECTOR takes a batch's results when the array is at the next one, by an estimate, and does the others' work
    meanwhile. Weights come a batch ahead, those of the first that is `following` too.
    """
    coming, waiting = [*batches, *following[:1]], deque(item for other in others for item in other.cut(config))
    left = deque((number, item) for number, batch in enumerate(batches) for item in batch.products)
    ended = deque[tuple[int, deque[Recorded]]]()        # when a batch is multiplied, and its results
    array = vector = emptied = 0                        # when either unit is free; batches whose results are made
    while left or ended or waiting:
        free = vector if waiting else max(vector, ended[0][0]) if ended else array
        if left and left[0][0] < emptied + 2 and array <= free:
            number, item = left.popleft()
            for batch in coming[number:number + 2]:
                while batch.loads:
                    yield batch.loads.popleft()
            array += item.cycles(config)
            if not left or left[0][0] > number:
                ended.append((array, deque(batches[number].results)))
        elif ended and (ended[0][0] <= vector or not waiting):
            end, results = ended[0]
            item = results.popleft()
            vector = max(vector, end) + item.cycles(config)
            if not results:
                ended.popleft()
                emptied += 1
                array = max(array, vector) if left and left[0][0] > emptied else array
        else:
            item = waiting.popleft()
            vector += item.cycles(config)
        yield item
