"""The memory latency that programs are compiled for: clock cycles from a read's address to its first data.

Each device says its own: ``Device.memory_latency``. The compiler takes it as `memory_latency`, and chooses tiles
and order of loops by it; the bits of a result do not depend on it.
"""

__all__ = ["BLOCK_RAM", "MEMORY_LATENCY", "check_memory_latency"]

#: What the simulated and the golden device have if nobody says otherwise.
MEMORY_LATENCY = 30
#: Of the boards whose main memory is block RAM.
BLOCK_RAM = 6


def check_memory_latency(latency: int) -> int:
    """`latency`, or an error that names it.

    Raises
    ------
    TypeError
        It is no integer.
    ValueError
        It is negative.
    """
    if isinstance(latency, bool) or not isinstance(latency, int):
        raise TypeError(f"memory latency must be an integer, not {latency!r}")
    if latency < 0:
        raise ValueError(f"memory latency must not be negative, got {latency}")
    return latency
