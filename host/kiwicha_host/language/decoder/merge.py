"""One order for the instructions of two halves of a step, in which each hides what the other waits for.

List scheduling (R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17, 1969), by a
guess of how long instructions take: in the order of time, each unit begins what may begin, and of two the
one that could have begun first. So an instruction is fetched when its unit comes to it, and does not stand before
others that could run. A half's own instructions for a unit keep their order.
"""

from collections import deque
from collections.abc import Sequence
from operator import itemgetter

from kiwicha.isa import INSTRUCTIONS, Unit

from ...compiler.program.hazards import Hazards
from .emitter import Instruction

__all__ = ["merge"]

#: Guesses: cycles of an instruction beside those of its elements, and from its end to what waits for it.
_BEGIN = {Unit.LOAD: 16, Unit.MATMUL: 35, Unit.VECTOR: 40, Unit.STORE: 16}
_LATENCY = 40


def merge(first: Sequence[Instruction], second: Sequence[Instruction], lead: int) -> list[Instruction]:
    """All instructions, in an order that is as right as the second half after the first.

    Parameters
    ----------
    lead : the number of the first half's instruction that ends before the second half begins a product
    """
    items = [*first, *second]
    left, followers = _dependences(items)
    product = next(number for number in range(len(first), len(items)) if items[number].unit == Unit.MATMUL)
    left[product] += 1
    followers[lead].append(product)
    queues = {unit: [deque(number for number in half if items[number].unit == unit)
                     for half in (range(len(first)), range(len(first), len(items)))] for unit in INSTRUCTIONS}
    free, ready = dict.fromkeys(INSTRUCTIONS, 0), [0] * len(items)
    merged: list[Instruction] = []
    while len(merged) < len(items):
        _, _, number, queue = min(
            ((max(free[unit], ready[queue[0]]), ready[queue[0]], queue[0], queue)
             for unit, halves in queues.items() for queue in halves if queue and not left[queue[0]]),
            key=itemgetter(0, 1, 2))
        queue.popleft()
        item = items[number]
        merged.append(item)
        end = max(free[item.unit], ready[number]) + item.cycles + _BEGIN[item.unit]
        free[item.unit] = end
        for follower in followers[number]:
            left[follower] -= 1
            ready[follower] = max(ready[follower], end + _LATENCY)
    return merged


def _dependences(items: Sequence[Instruction]) -> tuple[list[int], list[list[int]]]:
    """For each instruction how many it has to follow, and those that follow it."""
    hazards, counts = Hazards(), []
    followers: list[list[int]] = [[] for _ in items]
    for index, item in enumerate(items):
        earlier = {number for number, _ in hazards.add(index, item.reads, item.writes)}
        counts.append(len(earlier))
        for number in earlier:
            followers[number].append(index)
    return counts, followers
