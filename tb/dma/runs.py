"""Runs that LOAD and STORE share: each takes a bench's environment, or says which transfers to give it."""

from kiwicha.control.unit import Window
from tb import harness
from tb.harness import port

__all__ = ["SPEED", "address_overflow", "lengths", "simple", "speed", "spoil", "two_errors", "whole_window"]

#: What :func:`speed` knows.
SPEED = ["rows", "misaligned_rows", "contiguous", "contiguous_short", "transfers"]


def simple(**fields):
    """A transfer of one row; LOAD's fill means nothing to STORE."""
    return {"segment_bytes": 8, "rows": 1, "planes": 1, "row_stride": 0, "plane_stride": 0, "line": 0,
            "segment_line_stride": 1, "row_line_stride": 0, "plane_line_stride": 0, "fill": 0xA5, "fill_only": 0,
            "index": 0, **fields}


def lengths(config):
    """Lengths of rows around those of beats and lines."""
    beat, line = config.bus_bytes, config.line_bytes
    return sorted({1, 2, line, line + 1, 3 * line, *(n * beat + d for n in (1, 2) for d in (-1, 0, 1))})


def whole_window(env):
    """Two transfers from one end of the window to the other."""
    first, line = env.memory.first, env.config.line_bytes
    size = env.memory.last + 1 - first
    return [simple(address=first, row_bytes=size // 64, row_stride=size // 64, rows=64, segment_bytes=line,
                   row_line_stride=2),
            simple(address=first + 1, row_bytes=size - 1, segment_bytes=line, segment_line_stride=0)]


def spoil(env, transfer, kind, window):
    """Make one field of a good transfer wrong; `window` does it where the memory window is what is missed."""
    memory, rng, config = env.memory, env.rng, env.config
    if kind == "field":
        name = rng.choice(["row_bytes", "rows", "planes", "segment_bytes", "over"])
        if name == "over":
            transfer["segment_bytes"] = rng.randint(config.line_bytes + 1, 255)
        else:
            transfer[name] = 0
    elif kind == "range":
        transfer["line"] = rng.choice([0, config.scratchpad_lines - 1, min(config.scratchpad_lines, 0xFFFF)])
        transfer["segment_line_stride"] = transfer["row_line_stride"] = rng.choice([-3, 3, -32768, 32767])
    elif kind == "window":
        window(env, transfer)
    elif kind == "bus":
        memory.bad = {rng.randrange(memory.first, memory.last, config.bus_bytes) for _ in range(200)}


async def two_errors(env):
    """A transfer whose lines and bytes both go out: whichever a byte by byte execution meets first."""
    line = env.config.line_bytes
    for good_lines in range(1, 8):
        start = env.memory.last + 1 - 4 * line + env.rng.randrange(-3, 4)
        await env.run([simple(address=start, row_bytes=9 * line, segment_bytes=line,
                              line=env.config.scratchpad_lines - good_lines, index=good_lines)])
        assert env.control.error is None


async def address_overflow(env):
    """Addresses below zero and above the top, all of memory being in the window."""
    top = 1 << env.config.address_width
    for page, address, stride in ((0, 64, -4096), (top - 8192, top - 64, 4096), (0, 64, -1 << 31),
                                  (top - 8192, top - 64, (1 << 31) - 1)):
        env.memory.base, env.memory.first, env.memory.last = page, 0, top - 1
        env.checker.first, env.checker.last = env.memory.first, env.memory.last
        port(env.dut, "window").value = harness.pack(Window(env.config), env.memory.window)
        await env.run([simple(address=address, row_bytes=64, rows=3, row_stride=stride, row_line_stride=8,
                              index=7)])


def speed(config, first, shape):
    """Long transfers from the address `first` on, and how many beats of the bus they need."""
    beat, line = config.bus_bytes, config.line_bytes
    common = {"segment_bytes": line, "row_line_stride": 128 // line, "row_bytes": 128, "index": 1}
    per_row = 128 // beat
    if shape == "rows":
        return [simple(address=first, rows=100, row_stride=160, **common)], 100 * per_row
    if shape == "misaligned_rows":
        return [simple(address=first + 3, rows=100, row_stride=160, **common)], 100 * (per_row + 1)
    if shape == "contiguous":
        # Each cut at a block's edge falls between beats: one beat more for the misalignment in all.
        return [simple(address=first + 5, rows=120, row_stride=128, **common)], 120 * per_row + 1
    if shape == "contiguous_short":
        common |= {"row_bytes": line, "row_line_stride": 1}
        return [simple(address=first + 1, rows=8192 // line, row_stride=line, **common)], 8192 // beat + 1
    return [simple(address=first + 128 * i, **common) for i in range(100)], 100 * per_row
