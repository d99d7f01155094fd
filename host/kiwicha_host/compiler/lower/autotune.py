"""Which of several programs for the same work is the fastest, by the cycle model."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES

from ...cycles import NEVER, cycles_within

__all__ = ["BUDGET", "fastest"]

#: Instructions that are simulated for one choice, a second or two at most; longer programs are right by estimate.
BUDGET = 3000


class _HasProgram(Protocol):
    @property
    def program(self) -> bytes: ...


_Candidate = TypeVar("_Candidate", bound=_HasProgram)


def fastest(config: ChipConfig, candidates: Iterable[_Candidate], memory_latency: int,
            budget: int = BUDGET) -> _Candidate:
    """Of `candidates`, the most promising first, the one that takes the fewest cycles on the chip of `config`
    with memory of `memory_latency` cycles.

    Looks at as many as have `budget` instructions together; the first is taken unseen if it has more.
    """
    best: tuple[int, _Candidate] | None = None
    left = budget
    for candidate in candidates:
        left -= len(candidate.program) // INSTRUCTION_BYTES
        if left < 0:
            return best[1] if best else candidate
        limit = best[0] - 1 if best else NEVER
        cycles = cycles_within(limit, config, candidate.program, latency=memory_latency)
        if cycles is not None:
            best = cycles, candidate
    assert best is not None
    return best[1]
