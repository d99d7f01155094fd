"""Loop nests: dimensions of an access pattern, merged and cut to the levels that an instruction has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

__all__ = ["Dim", "Nest", "reductions", "nests"]

#: One dimension: its count, and for each address that walks along, the step.
Dim = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Nest:
    """One instruction's loops, the innermost first, and where each address starts."""
    offsets: tuple[int, ...]
    dims: tuple[Dim, ...]

    def fields(self, name: str, which: int, levels: Sequence[int]) -> dict[str, int]:
        """Instruction fields `name` + level: the steps of address `which`."""
        return {f"{name}{level}": steps[which] for level, (_, steps) in zip(levels, self.dims, strict=True)}

    def counts(self, levels: Sequence[int]) -> dict[str, int]:
        return {f"count{level}": count for level, (count, _) in zip(levels, self.dims, strict=True)}


def _merge(dims: Sequence[Dim]) -> list[Dim]:
    """The same pattern in as few dimensions as possible."""
    merged: list[Dim] = []
    for count, steps in dims:
        if count == 1:
            continue
        if merged:
            inner, inner_steps = merged[-1]
            if all(step == inner * inner_step for step, inner_step in zip(steps, inner_steps, strict=True)):
                merged[-1] = (inner * count, inner_steps)
                continue
        merged.append((count, steps))
    return merged


def nests(dims: Sequence[Dim], levels: int, any_order: bool = False) -> Iterator[Nest]:
    """Nests of `levels` loops that walk over `dims` (the innermost first); one if it can be one.

    In `any_order`, they are as few as they can be.
    """
    addresses = len(dims[0][1])
    merged = _merge(dims)
    if any_order:
        merged.sort(key=lambda dim: -dim[0])
    inner, outer = merged[:levels], merged[levels:]
    inner += [(1, (0,) * addresses)] * (levels - len(inner))
    for index in product(*(range(count) for count, _ in reversed(outer))):
        offsets = tuple(sum(i * steps[a] for i, (_, steps) in zip(index, reversed(outer), strict=True))
                        for a in range(addresses))
        yield Nest(offsets, tuple(inner))


def reductions(offsets: Sequence[int]) -> Iterator[tuple[int, Nest]]:
    """Nests of two loops that visit `offsets` in order; each with the number of its first."""
    first = 0
    while first < len(offsets):
        start, rest = offsets[first], len(offsets) - first
        inner, step = 1, 0
        if rest > 1:
            step = offsets[first + 1] - start
            while inner < rest and offsets[first + inner] == start + inner * step:
                inner += 1
        outer, outer_step = 1, 0
        if inner < rest:
            outer_step = offsets[first + inner] - start
            while (outer + 1) * inner <= rest and all(
                    offsets[first + outer * inner + i] == start + outer * outer_step + i * step
                    for i in range(inner)):
                outer += 1
        yield first, Nest((start,), ((inner, (step,)), (outer, (outer_step,))))
        first += inner * outer
