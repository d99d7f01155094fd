"""About how many cycles a product takes: says which programs the cycle model has to look at."""

from dataclasses import dataclass

from kiwicha.isa import INSTRUCTION_BYTES

__all__ = ["VECTOR_OVERHEAD", "Effort", "burst_latency", "load_overhead"]

#: Cycles that a LOAD costs before its first burst, that a VECTOR takes to fetch its parameters, and that any
#: instruction costs for what its dispatch and semaphores do not overlap.
_LOAD_OVERHEAD, VECTOR_OVERHEAD, _INSTRUCTION_OVERHEAD = 8, 30, 2
#: Cycles from a read burst's issue to its end, besides its beats and the memory's latency, that tiles are chosen
#: for: far more than there are if nothing else is on the bus, so that long rows are preferred.
_BURST_OVERHEAD = 82
#: Slots with which LOAD never waits for the end of a product; with fewer, each load waits, and then for memory.
_ENOUGH_SLOTS = 3


def burst_latency(memory_latency: int) -> int:
    """Cycles that a read burst takes besides its beats, if its first data come after `memory_latency` cycles."""
    return memory_latency + _BURST_OVERHEAD


def load_overhead(memory_latency: int, *rings: tuple[int, int]) -> int:
    """Cycles that a LOAD costs besides its data; `rings` are tiles of a cycle, and slots for them."""
    waiting = any(tiles > slots < _ENOUGH_SLOTS for tiles, slots in rings)
    return burst_latency(memory_latency) if waiting else _LOAD_OVERHEAD


@dataclass(frozen=True)
class Effort:
    """Cycles that each unit is busy with a product, and how its first tile begins and its last ends.

    Parameters
    ----------
    products, loads, epilogues, stores : of the array, of LOAD but for instructions, and so on
    instructions : how many there are
    bus_bytes : of a beat, by which they come
    first : until the first tile's products have ended
    first_loads, first_products : of the first tile
    tail : after the last product
    """
    products: float
    loads: float
    epilogues: float
    stores: float
    instructions: float
    bus_bytes: int
    first: float
    first_loads: float
    first_products: float
    tail: float

    @property
    def cycles(self) -> float:
        """The first tile, then the busiest unit, then what nothing can overlap with."""
        reads = self.loads + self.instructions * INSTRUCTION_BYTES / self.bus_bytes
        rest = max(self.products - self.first_products, reads - self.first_loads, self.epilogues, self.stores)
        return self.first + rest + self.tail + self.instructions * _INSTRUCTION_OVERHEAD
