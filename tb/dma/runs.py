"""Runs that LOAD and STORE share: each takes a bench's environment, or says which transfers to give it."""

from kiwicha.control.unit import Window
from kiwicha.isa import Activity
from kiwicha.timing import INDEX_READ
from tb import harness
from tb.dma.environment import draw_indexed, draw_transfers
from tb.harness import cycles, port

__all__ = ["INDEX_ERRORS", "SPEED", "abort_with_an_index", "address_overflow", "index_errors", "index_latency",
           "indexed_overflow", "indexed_transfers", "lengths", "no_indices", "simple", "speed", "spoil",
           "two_errors", "whole_window"]

#: What :func:`index_errors` knows.
INDEX_ERRORS = ["bound", "word", "line", "index", "window", "before"]

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


async def indexed_transfers(env, load):
    """Random transfers, most of them with an index, at whatever pace the environment has."""
    transfers = draw_transfers(env.config, env.memory, env.rng, 15, load=load)
    await env.run(draw_indexed(env.config, env.scratchpad, env.rng, transfers))
    assert env.indices.asked


def _spoil_index(env, transfer, kind):
    """Make something wrong about a good transfer with an index."""
    rng, config = env.rng, env.config
    word = env.scratchpad[transfer["index_line"]].view("<u4")[transfer["index_word"]:][:1]
    if kind == "bound":
        transfer["index_bound"] = 0
    elif kind == "word":
        words = config.line_bytes // 4
        transfer["index_word"] = rng.choice([words, 255, rng.randint(words, 255)])
    elif kind == "line":
        lines = config.scratchpad_lines
        transfer["index_line"] = rng.choice([lines, 0xFFFF, rng.randint(lines, 0xFFFF)])
    elif kind == "index":
        bound = transfer["index_bound"] = rng.choice([1, 2, 1 << 31, (1 << 32) - 1, rng.randrange(1, 1 << 32)])
        word[0] = rng.choice([bound, bound, (1 << 32) - 1, rng.randrange(bound, 1 << 32)])
    elif kind == "window":
        # Not what the good transfer has by chance.
        right = int(word[0]) * transfer["index_stride"]
        transfer["index_bound"] = (1 << 32) - 1
        transfer["index_stride"], word[0] = rng.choice([
            (stride, index) for stride in (-1 << 31, (1 << 31) - 1) for index in ((1 << 32) - 2, 1 << 31)
            if stride * index != right])
    else:
        # What comes before the index in the order of errors, whatever the index.
        transfer[rng.choice(["row_bytes", "rows", "planes", "segment_bytes"])] = 0
        word[0] = (1 << 32) - 1


async def index_errors(env, kind, load):
    """Two of a few transfers are wrong about their index: the first is told, and nothing behind it is done.

    One alone leaves the bus alone, and reads its index only if all that comes before it is right.
    """
    for round in range(10):
        if round == 5:
            env.slow()
        transfers = draw_transfers(env.config, env.memory, env.rng, 6, load=load)
        for transfer in transfers:
            transfer["fill_only"] = 0
        transfers = draw_indexed(env.config, env.scratchpad, env.rng, transfers, 1)
        for victim in env.rng.sample(range(6), 2):
            _spoil_index(env, transfers[victim], kind)
        await env.run(transfers)
        transfers = draw_transfers(env.config, env.memory, env.rng, 1, load=load)
        transfers[0]["fill_only"] = 0
        transfers = draw_indexed(env.config, env.scratchpad, env.rng, transfers, 1)
        _spoil_index(env, transfers[0], kind)
        asked, bursts = env.indices.asked, len(env.checker.bursts)
        await env.run(transfers)
        assert env.indices.asked - asked == (kind in ("index", "window"))
        assert len(env.checker.bursts) == bursts
    transfers = draw_transfers(env.config, env.memory, env.rng, 3, load=load)
    await env.run(draw_indexed(env.config, env.scratchpad, env.rng, transfers))
    assert env.control.error is None


async def no_indices(env, load):
    """What has an index and may not have one ends in FIELD, after zeros and segments; so where there are none."""
    row = simple(address=env.memory.first, row_bytes=8, indexed=1, index_bound=1, fill_only=int(load),
                 index_word=255)
    for fields in (*([{"index_word": 0}] if load else []), {}, {"rows": 0}, {"index_line": 0xFFFF},
                   {"segment_bytes": env.config.line_bytes + 1}):
        await env.run([simple(address=env.memory.first, row_bytes=8), {**row, **fields}])
    await env.run([simple(address=env.memory.first, row_bytes=8)])


async def indexed_overflow(env):
    """Sums below zero, and above the top of the bus's addresses and of 64 bits: no such wraps into the window."""
    first, top, word = env.memory.first, 1 << env.config.address_width, env.scratchpad[3].view("<u4")[:1]
    good = simple(address=first + 4096, row_bytes=8, index=3)
    for start, stride, index in ((0, -8, 1), (5, -1 << 31, (1 << 32) - 2), (first, 1 << 30, top >> 30),
                                 (first, (1 << 31) - 1, (1 << 32) - 2), ((1 << 64) - 64, 64, 1),
                                 ((1 << 64) - 64, 64 + first, 1), ((1 << 64) - 1, (1 << 31) - 1, (1 << 32) - 2),
                                 (first, top, 1), (first + top, -top, 1), (first + 64, -64, 1)):
        if not (-1 << 31 <= stride < 1 << 31 and index < (1 << 32) - 1 and start < 1 << 64):
            continue
        word[0] = index
        await env.run([good, simple(address=start, row_bytes=8, indexed=1, index_line=3, index_word=0,
                                    index_stride=stride, index_bound=index + 1, index=4)])


async def index_latency(env):
    """An index costs the cycles that it says, and a transfer without one none; alone they count as OPERAND."""
    plain = simple(address=env.memory.first, row_bytes=8)

    async def took(transfer):
        before = env.control.now, env.control.activities[Activity.OPERAND]
        env.control.retired = 0
        env.control.send([transfer])
        await env.control.settle(1, 400)
        return env.control.now - before[0], env.control.activities[Activity.OPERAND] - before[1]

    await took(plain)
    base, none = await took(plain)
    assert not none
    env.scratchpad[5].view("<u4")[1] = 0
    for bits in (1, 2, 5, 31, 32):
        for bound in {1 << bits - 1, (1 << bits) - 1}:
            indexed = {**plain, "indexed": 1, "index_line": 5, "index_word": 1, "index_stride": 77,
                       "index_bound": bound}
            got, more = await took(indexed), INDEX_READ + 1 + bits
            assert got == (base + more, more), f"{got} cycles, not {base + more} and {more}; bound {bound}"
    assert await took(plain) == (base, 0)


async def abort_with_an_index(env, load):
    """An abort in any cycle of it; the index that was asked for is awaited, and the next one is its own."""
    for delay in (0, 30):
        env.indices.delay = lambda delay=delay: delay
        for wait in range(25 + delay):
            transfers = draw_transfers(env.config, env.memory, env.rng, 2, load=load, length=40)
            for transfer in transfers:
                transfer["fill_only"] = 0
            env.control.send(draw_indexed(env.config, env.scratchpad, env.rng, transfers, 1))
            await cycles(env.dut, wait)
            await env.control.abort()
            transfers = draw_transfers(env.config, env.memory, env.rng, 1, load=load)
            await env.run(draw_indexed(env.config, env.scratchpad, env.rng, transfers, 1))
            assert env.control.error is None


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
