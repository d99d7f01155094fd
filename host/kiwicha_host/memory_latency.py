"""The memory latency that programs are compiled for: clock cycles from a read's address to its first data.

Each device says its own: ``Device.memory_latency``. The compiler takes it as `memory_latency`, and chooses tiles
and order of loops by it; the bits of a result do not depend on it.
"""

__all__ = ["BLOCK_RAM", "MEMORY_LATENCY"]

#: What the simulated and the golden device have if nobody says otherwise.
MEMORY_LATENCY = 30
#: Of the boards whose main memory is block RAM.
BLOCK_RAM = 6
