"""Why FP32 sums of rows never stall: which pairs wait for the second adder, and for how long."""

import random

import pytest

from kiwicha.timing import FLOAT_ADD, SUM_WAIT

#: Nothing in the adders, no pair that waits, nothing held. An item is (level, first, last); a row's last pair in
#: the queue has waited for so many cycles, and others for 0.
_EMPTY = ((None,) * FLOAT_ADD, (None,) * (FLOAT_ADD + 1), (), ())


def paired(held, item):
    """The pair that an item completes at its level, or None, and what is held then: levels, and whether first."""
    level, first, last = item
    before = next((was for at, was in held if at == level), None)
    held = tuple(entry for entry in held if entry[0] != level)
    if before is not None and not first:
        return (level + 1, before, last), held
    return ((level + 1, first, last), held) if last else (None, (*held, (level, first)))


def after(state, item):
    """A cycle later, with a step's (0, first, last) or without; and how long a last pair that goes waited."""
    first_adder, second_adder, queue, held = state
    own, done, waited = None, second_adder[-1], 0
    if done is not None and not (done[1] and done[2]):
        own, held = paired(held, done)
    if own is None and queue:
        (*own, waited), *queue = queue
        own = tuple(own)
    queue = [(*pair, cycles + pair[-1]) for *pair, cycles in queue]
    done = first_adder[-1]
    if done is not None and not (done[1] and done[2]):
        pair, held = paired(held, done)
        queue += [(*pair, 0)] if pair else []
    if item is not None:
        item, held = paired(held, item)
    return ((item, *first_adder[:-1]), (own, *second_adder[:-1]), tuple(queue), tuple(sorted(held))), waited


@pytest.mark.parametrize("levels, longest", [(1, 0), (2, 0), (3, 1), (4, 2)])
def test_all_rows_with_all_pauses(levels, longest):
    """Every sequence of rows of so many levels, with any pauses: not one state is left out."""
    fewest, most = (1 << levels - 1) + 1 if levels > 1 else 1, 1 << levels
    seen, new, waits, queued = {(0, _EMPTY)}, [(0, _EMPTY)], set(), 0
    while new:
        position, state = new.pop()
        queued = max(queued, len(state[2]))
        items = [(position, None)]
        items += [(position + 1, (0, position == 0, False))] if position + 1 < most else []
        items += [(0, (0, position == 0, True))] if position + 1 >= fewest else []
        for following, item in items:
            state_then, waited = after(state, item)
            waits.add(waited)
            if (following, state_then) not in seen:
                seen.add((following, state_then))
                new.append((following, state_then))
    assert max(waits) == longest <= SUM_WAIT
    # A row's sum may be early by what it did not wait; by then the one before must have been handed out.
    assert longest == 0 or fewest > SUM_WAIT
    assert queued <= 2


def test_long_rows_wait_no_longer():
    """Up to 11 levels the same was enumerated, all 95 million states; here are some rows of up to 14."""
    rng, waits, queued = random.Random(1), set(), 0
    for steps, pause in [*((steps, 0) for steps in range(129, 257, 4)), (255, 0.1), (700, 0.2), (9000, 0.05)]:
        state = _EMPTY
        for number in range(2 * steps):
            while rng.random() < pause:
                state, waited = after(state, None)
                waits.add(waited)
            state, waited = after(state, (0, number % steps == 0, number % steps == steps - 1))
            waits.add(waited)
            queued = max(queued, len(state[2]))
        for _ in range(120):
            state, waited = after(state, None)
            waits.add(waited)
    assert max(waits) == SUM_WAIT
    assert queued <= 2
