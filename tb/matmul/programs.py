"""Instructions for MATMUL: random ones, and ones with an error."""

import itertools

import numpy as np

from kiwicha.formats import ElementFormat
from kiwicha.isa import ErrorCode
from tb.matmul.scaled_model import random_scaled_fields

__all__ = ["bad_instructions", "instruction", "random_instruction", "random_scaled"]


def instruction(config, **fields):
    """An instruction of one vector and one tile, but for `fields`; counts and strides from level 0 (or 2) up."""
    return {"accumulate": 0, "scaled": 0, "a_format": ElementFormat.INT8, "w_format": ElementFormat.INT8,
            "block_tiles": 0, "a_scale_line": 0, "a_scale_stride": (0, 0), "w_scale_line": 0,
            "w_scale_stride": (0, 0), "a_line": 0, "w_line": config.scratchpad_lines // 2, "acc_line": 0,
            "count": (1, 1, 1, 1), "a_stride": (0,) * 4, "acc_stride": (0,) * 4, "w_stride": (0, 0)} | fields


def random_instruction(config, rng, most=40):
    """Any instruction without errors; often a reduction, or one that comes back to its lines soon."""
    while True:
        count = tuple(rng.choice((1, 1, 2, 3, rng.randint(1, most))) for _ in range(4))
        if np.prod(count) <= most and count[2] * count[3] <= 6:
            break

    def walk(lines, counts, extra=0, zeros=1):
        while True:
            high = rng.choice((1, 3, 40, lines))
            strides = tuple(rng.choice((*(0,) * zeros, 1, -1, rng.randint(-high, high))) for _ in counts)
            reach = [stride * (count - 1) for stride, count in zip(strides, counts, strict=True)]
            low, top = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0) + extra
            if top - low < lines:
                return rng.choice((-low, lines - 1 - top, rng.randint(-low, lines - 1 - top))), strides

    a_line, a_stride = walk(config.scratchpad_lines, count)
    acc_line, acc_stride = walk(config.accumulator_lines, count, zeros=rng.choice((1, 3)))
    w_line, w_stride = walk(config.scratchpad_lines, count[2:], config.rows - 1)
    return instruction(config, accumulate=rng.randrange(2), a_line=a_line, w_line=w_line, acc_line=acc_line,
                       count=count, a_stride=a_stride, acc_stride=acc_stride, w_stride=w_stride)


def random_scaled(config, rng):
    """A block-scaled instruction without errors, its blocks' sums each in a place of its own."""
    while True:
        fields = random_instruction(config, rng)
        fields |= random_scaled_fields(config, rng, fields["count"])
        own = len({sum(i * s for i, s in zip(index, fields["acc_stride"], strict=False))
                   for index in itertools.product(*map(range, fields["count"][:2]))})
        if fields["block_tiles"] == 1 or (own == np.prod(fields["count"][:2]) and fields["acc_stride"][2] == 0):
            return fields


def bad_instructions(config, rng):
    """Instructions with an error, and (code, address) of what comes first."""
    lines, accs, rows = config.scratchpad_lines, config.accumulator_lines, config.rows
    field, pad, acc = ErrorCode.FIELD, ErrorCode.SCRATCHPAD_RANGE, ErrorCode.ACCUMULATOR_RANGE
    for level in range(4):
        count = [2, 2, 2, 2]
        count[level] = 0
        # A zero count comes before any wrong line.
        yield {"count": tuple(count), "w_line": lines, "a_line": lines, "acc_line": accs}, field, 0
        for stride, at in ((-1, -1), (-0x8000, -0x8000), (0x7FFF, 0x7FFF)):
            strides = tuple(stride if i == level else 0 for i in range(4))
            count = tuple(3 if i == level else 2 for i in range(4))
            yield {"count": count, "a_stride": strides}, pad, at
            yield {"count": count, "acc_stride": strides}, acc, at
            if level >= 2:
                yield {"count": count, "w_line": 0, "w_stride": strides[2:]}, pad, at
    # A line just too far, after all others; a tile's weights before its vectors; A before the accumulators.
    for row in range(rows):
        yield {"w_line": lines - row, "a_line": lines, "acc_line": accs}, pad, lines
    yield {"w_line": lines - rows, "a_line": 0xFFFF, "acc_line": accs}, pad, 0xFFFF
    yield {"acc_line": accs}, acc, accs
    yield {"a_line": lines - 3, "a_stride": (1, 0, 0, 0), "count": (4, 1, 1, 1)}, pad, lines
    yield {"acc_line": accs - 5, "acc_stride": (0, 0, 1, 0), "count": (1, 1, 6, 1)}, acc, accs
    yield ({"w_line": lines - 3 * rows, "w_stride": (rows, 0), "count": (2, 2, 4, 1), "acc_line": accs - 3,
            "acc_stride": (0, 0, 1, 0)}, pad, lines)
    wrong = ElementFormat.E3M2 if config.block_scaled else ElementFormat.INT4
    yield {"a_format": wrong, "a_line": lines}, field, wrong.value
    yield {"w_format": wrong, "a_line": lines}, field, wrong.value
    yield {"scaled": 1, "block_tiles": 128 // rows + 1}, field, 128 // rows + 1
    yield {"scaled": 1}, field, 0
    if config.block_scaled:
        scaled = {"scaled": 1, "block_tiles": 2, "count": (4, 1, 3, 2)}
        yield scaled | {"w_scale_line": lines, "a_scale_line": lines, "acc_line": accs}, acc, accs
        yield scaled | {"w_scale_line": lines, "a_scale_line": lines}, pad, lines
        yield scaled | {"w_scale_line": lines - 1, "w_scale_stride": (0, -0x8000)}, pad, lines - 1 - 0x8000
        yield scaled | {"w_scale_line": lines - 1, "w_scale_stride": (1, 0)}, pad, lines
        yield scaled | {"a_scale_line": 0, "a_scale_stride": (-1, 0)}, pad, -1
        yield scaled | {"a_scale_line": lines - 1, "count": (config.line_bytes + 1, 1, 1, 1)}, pad, lines
    # The next tile's weights are wrong too, and are asked for earlier.
    yield ({"w_line": lines - 2 * rows, "w_stride": (rows, 0), "count": (4 * rows, 1, 3, 1), "acc_line": accs - 5,
            "acc_stride": (0, 0, 3, 0)}, pad, lines)
    yield ({"w_line": lines - 2 * rows, "w_stride": (rows, 0), "count": (4 * rows, 1, 3, 1), "acc_line": accs - 3,
            "acc_stride": (0, 0, 3, 0)}, acc, accs)
