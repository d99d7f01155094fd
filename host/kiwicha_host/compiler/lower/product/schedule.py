"""The order of a product's tiles: which are loaded when, multiplied, and stored."""

import abc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...program.memory_map import ceil_div
from .spans import Span

__all__ = ["Load", "Order", "Product", "Ring", "Step"]

#: Tiles that LOAD may be ahead of MATMUL in program order.
_LOOKAHEAD = 2


@dataclass(frozen=True)
class Load:
    """A tile that must be in its slot before step `step`; `free` is the last step that uses what was there.

    The tile is what `rows` and `columns` have in common: of A, a part of M and one of K; of the weights, a part of
    K and one of N. `piece` is what comes of it, in blocks along K from the tile's start; None is all of it.
    """
    step: int
    free: int
    operand: str
    slot: int
    rows: Any
    columns: Any
    piece: Span | None = None


@dataclass(frozen=True)
class Step:
    """One product: a tile of A times a tile of weights.

    `k_piece` and `n_piece` are the parts of the tiles that it multiplies, from their starts; `slot` is that of the
    accumulators. With `ends`, the sums of its columns are complete.
    """
    m: Any
    n: Any
    k: Span
    tile: int
    a_slot: int
    w_slot: int
    k_piece: Span
    n_piece: Span
    slot: int
    ends: bool


@dataclass(frozen=True)
class Order:
    """All that the steps follow from.

    Parameters
    ----------
    tiles : parts of M and of N of the result's tiles, in order; what they are is the product's business
    k_parts : parts of K; a tile's are added up
    a_slots, w_slots, acc_slots : tiles of A, of weights and of sums that there is room for
    pieces : of the first tiles, along K, so that the array starts early
    a_whole : A's first tile comes at once, all the same
    a_of_k : A's tiles are parts of K, too; otherwise each has all of it
    last : pieces of the last tile along N, so that little remains after the array
    """
    tiles: Sequence[tuple[Any, Any]]
    k_parts: Sequence[Span]
    a_slots: int
    w_slots: int
    acc_slots: int
    pieces: Sequence[Span]
    a_whole: bool
    a_of_k: bool
    last: Sequence[Span]

    def plan(self) -> tuple[list[Step], list[Load]]:
        """All steps in order, and the loads that bring their tiles into rings of slots."""
        a_ring, w_ring = Ring("a", self.a_slots), Ring("w", self.w_slots)
        steps: list[Step] = []
        loads: list[Load] = []
        for tile, (m, n) in enumerate(self.tiles):
            for k in self.k_parts:
                whole, last = [(0, k[1])], k == self.k_parts[-1]
                k_pieces = whole if steps else self.pieces
                n_pieces = self.last if last and tile == len(self.tiles) - 1 else [(0, n[1])]
                for number, n_piece in enumerate(n_pieces):
                    # One slot is read while another is added to; but sums stay where those of all parts of K are.
                    slot = (tile + number if len(self.k_parts) == 1 else tile) % self.acc_slots
                    for k_piece in k_pieces if number == 0 else whole:
                        a_slot = a_ring.take(len(steps), m, k if self.a_of_k else None, loads)
                        w_slot = w_ring.take(len(steps), k, n, loads)
                        ends = last and sum(k_piece) == k[1]
                        steps.append(Step(m, n, k, tile, a_slot, w_slot, k_piece, n_piece, slot, ends))
                if k_pieces != whole:
                    loads = self._in_pieces(loads)
        return steps, loads

    def _in_pieces(self, loads: list[Load]) -> list[Load]:
        """The first tiles' loads, each piece before its own step; all of A before the first if it is whole."""
        return [load if self.a_whole and load.operand == "a" else replace(load, step=step, piece=piece)
                for step, piece in enumerate(self.pieces) for load in loads
                if not (self.a_whole and load.operand == "a" and step)]


class Ring:
    """Slots that are filled in turn; a tile that is still in one is not loaded again."""

    def __init__(self, operand: str, slots: int):
        self.operand = operand
        self._used = [-1] * slots
        self._held: list = [None] * slots
        self._next = 0

    def take(self, step: int, rows: Any, columns: Any, loads: list[Load]) -> int:
        """The slot of a tile that `step` uses; if it has to come first, that is added to `loads`."""
        key = (rows, columns)
        if key in self._held:
            index = self._held.index(key)
        else:
            index, self._next = self._next, (self._next + 1) % len(self._held)
            loads.append(Load(step, self._used[index], self.operand, index, rows, columns))
            self._held[index] = key
        self._used[index] = step
        return index


class Product(abc.ABC):
    """A product that knows its instructions; :meth:`run` puts them in order."""

    #: What follows a tile's products is spread over those of the next; otherwise it comes at once.
    deferred = True

    @abc.abstractmethod
    def load(self, load: Load) -> None:
        """Bring a tile, or a piece of it, into its slot."""

    @abc.abstractmethod
    def multiply(self, step: Step) -> None:
        """Multiply two tiles."""

    @abc.abstractmethod
    def results(self, step: Step) -> Sequence[Callable[[], None]]:
        """What follows the last product of a tile: an action for each VECTOR or STORE, to be called in order."""

    def run(self, steps: Sequence[Step], loads: Sequence[Load]) -> None:
        """All instructions: loads run ahead, and a tile's results leave while the next tile is computed."""
        pending: deque[Callable[[], None]] = deque()        # epilogues and stores of what is computed
        next_load, next_end = 0, 0
        for i, step in enumerate(steps):
            while next_load < len(loads) and (loads[next_load].step <= i or (
                    loads[next_load].step <= i + _LOOKAHEAD and loads[next_load].free < i)):
                self.load(loads[next_load])
                next_load += 1
            self.multiply(step)
            while next_end < i or not steps[next_end].ends:
                next_end += 1
            for _ in range(ceil_div(len(pending), next_end - i + 1)):
                pending.popleft()()
            if step.ends:
                pending.extend(self.results(step))
            while pending and not self.deferred:
                pending.popleft()()
        for action in pending:
            action()
