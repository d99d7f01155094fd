"""MATMUL."""

import math
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS, MAX_BLOCK, ElementFormat
from kiwicha.isa import ErrorCode

from .. import numerics
from ..block import decode
from ..scaled import add_fp32, decode_elements, decode_integers, scaled_terms
from .access import Lines, Memory, State, at, need, raise_first, walk

__all__ = ["matmul"]


def matmul(state: State, memory: Memory, f: dict[str, Any]) -> None:
    config = state.config
    counts, a_strides, acc_strides = ([f[f"{name}{level}"] for level in (3, 2, 1, 0)]
                                      for name in ("count", "a_stride", "acc_stride"))
    for count in reversed(counts):
        need(count, count >= 1)
    _check_formats(config, f)
    w_strides = [f["w_stride3"], f["w_stride2"], 1]
    w_counts = [*counts[:2], config.rows]
    walks = (Lines(ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines, f["w_line"], w_counts, w_strides),
             Lines(ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines, f["a_line"], counts, a_strides),
             Lines(ErrorCode.ACCUMULATOR_RANGE, config.accumulator_lines, f["acc_line"], counts, acc_strides))
    # The whole tile comes before its vectors, and of a vector the line of A before the accumulator's.
    raise_first(*(((*index[:2], -1) if order == 0 else (*index, order), walk.fault(index))
                   for order, walk in enumerate(walks) if (index := walk.astray())),
                 *(_astray_scales(config, f, counts) if f["scaled"] else ()))
    if f["scaled"]:
        _matmul_scaled(state, f, counts, a_strides, acc_strides, w_strides)
        return

    # Without its zero strides, which are reductions, the walk says which lines change. If it visits each once,
    # the result is their sum, whatever the order.
    places = [1 if stride == 0 else count for count, stride in zip(counts, acc_strides, strict=True)]
    lines = walk(f["acc_line"], places, acc_strides) if math.prod(places) <= config.accumulator_lines else None
    if lines is None or np.bincount(lines.reshape(-1)).max() > 1:
        _matmul_in_order(state, f, counts, a_strides, acc_strides, w_strides)
        return
    if not f["accumulate"]:
        state.accumulator[lines] = 0
    for i3 in range(counts[0]):
        a_line, w_line = f["a_line"] + i3 * a_strides[0], f["w_line"] + i3 * w_strides[0]
        at_once = max(1, (1 << 18) // (counts[2] * counts[3] * config.columns))     # for memory's sake
        for i2 in range(0, counts[1], at_once):
            tiles = min(at_once, counts[1] - i2)
            a_lines = walk(a_line + i2 * a_strides[1], [tiles, *counts[2:]], a_strides[1:]).reshape(tiles, -1)
            vectors = decode_integers(state.scratchpad[a_lines], f["a_format"], config.rows)
            w_lines = walk(w_line + i2 * w_strides[1], [tiles, config.rows], w_strides[1:])
            weights = decode_integers(state.scratchpad[w_lines], f["w_format"], config.columns)
            where = lines[i3 % places[0]]
            if acc_strides[1] == 0:     # consecutive tiles are parts of one longer dot product
                vectors = vectors.transpose(1, 0, 2).reshape(1, -1, tiles * config.rows)
                weights = weights.reshape(1, tiles * config.rows, config.columns)
            else:
                where = where[i2:i2 + tiles]
            sums = numerics.gemm_int(vectors, weights).reshape(-1, *counts[2:], config.columns)
            reduced = tuple(axis for axis in (1, 2) if acc_strides[axis + 1] == 0)
            state.accumulator[where] += sums.sum(axis=reduced, keepdims=True, dtype=np.int32)


def _matmul_in_order(state: State, f: dict[str, Any], counts: list[int], a_strides: list[int],
                     acc_strides: list[int], w_strides: list[int]) -> None:
    """One vector after the other, for programs that come back to accumulator lines in other ways."""
    config = state.config
    for index in np.ndindex(*counts):
        a_line, w_line, acc_line = (
            f[name] + sum(i * stride for i, stride in zip(index, strides, strict=False))
            for name, strides in (("a_line", a_strides), ("w_line", w_strides[:2]), ("acc_line", acc_strides)))
        weights = decode_integers(state.scratchpad[w_line:w_line + config.rows], f["w_format"], config.columns)
        vector = decode_integers(state.scratchpad[a_line:a_line + 1], f["a_format"], config.rows)
        first = not any(i for i, stride in zip(index, acc_strides, strict=True) if stride == 0)
        if first and not f["accumulate"]:
            state.accumulator[acc_line] = 0
        state.accumulator[acc_line] += numerics.gemm_int(vector, weights)[0]


def _check_formats(config: ChipConfig, f: dict[str, Any]) -> None:
    """FIELD for a format or block that this chip has not."""
    for name in ("a_format", "w_format"):
        code = f[name]
        number = getattr(code, "value", code)
        need(number, isinstance(code, ElementFormat) and code.name.lower() in config.formats
              and (bool(f["scaled"]) or not FORMATS[code.name.lower()].is_float))
    if f["scaled"]:
        need(f["block_tiles"], config.block_scaled and 1 <= f["block_tiles"] <= MAX_BLOCK // config.rows)


def _astray_scales(config: ChipConfig, f: dict[str, Any], counts: list[int]):
    """The first line of scales of either kind that does not exist, as its place in the order and as an error."""
    blocks = -(-counts[1] // f["block_tiles"])
    lines = -(-counts[2] * counts[3] // config.line_bytes)
    for operand, per_block in (("w", 1), ("a", lines)):
        walk = Lines(ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines, f[f"{operand}_scale_line"],
                      [counts[0], blocks, per_block],
                      [f[f"{operand}_scale_stride3"], f[f"{operand}_scale_stride2"], 1])
        if index := walk.astray():
            tile = (index[0], min((index[1] + 1) * f["block_tiles"], counts[1]) - 1)
            # A tile's scales come before its rows; a vector's behind its line of A, with the first to use them.
            place = (-2,) if operand == "w" else (*divmod(index[2] * config.line_bytes, counts[3]), 1.5)
            yield (*tile, *place), walk.fault(index)


def _matmul_scaled(state: State, f: dict[str, Any], counts: list[int], a_strides: list[int],
                   acc_strides: list[int], w_strides: list[int]) -> None:
    """Block-scaled: one tile after the other, and one vector after the other where they share a line."""
    if _matmul_blocks(state, f, counts, a_strides, acc_strides, w_strides):
        return
    config, size = state.config, f["block_tiles"]
    columns, vectors = config.columns, counts[2] * counts[3]
    scale_lines = -(-vectors // config.line_bytes)
    inner_first = ~np.array([any(i and not stride for i, stride in zip(index, acc_strides[2:], strict=True))
                             for index in np.ndindex(*counts[2:])])
    for i3, i2 in np.ndindex(*counts[:2]):
        block, ends = i2 // size, i2 % size == size - 1 or i2 == counts[1] - 1
        a_lines = walk(at(f["a_line"], a_strides[:2], (i3, i2)), counts[2:], a_strides[2:]).reshape(-1)
        lines = walk(at(f["acc_line"], acc_strides[:2], (i3, i2)), counts[2:], acc_strides[2:]).reshape(-1)
        w_line = at(f["w_line"], w_strides[:2], (i3, i2))
        tile = decode_elements(state.scratchpad[w_line:w_line + config.rows], f["w_format"], columns)
        values = decode_elements(state.scratchpad[a_lines], f["a_format"], config.rows)
        scales = None
        if ends:
            a_scale, w_scale = (f[f"{name}_scale_line"] + i3 * f[f"{name}_scale_stride3"]
                                + block * f[f"{name}_scale_stride2"] for name in "aw")
            scales = (state.scratchpad[a_scale:a_scale + scale_lines].reshape(-1)[:vectors],
                      state.scratchpad[w_scale, :columns])
        begins = i2 % size == 0
        first = inner_first & (bool(acc_strides[1]) | (block == 0)) & (bool(acc_strides[0]) | (i3 == 0))
        replace = first & (not f["accumulate"])
        shared = len(np.unique(lines)) < vectors
        for part in ([slice(i, i + 1) for i in range(vectors)] if shared else [slice(None)]):
            state.partial.add(lines[part], values[part], tile, begins)
            if scales is not None:
                terms = state.partial.scaled(lines[part], scales[0][part], scales[1])
                old = state.accumulator[lines[part]].view(np.float32)
                old = np.where(replace[part, None], np.float32(0), old)
                state.accumulator[lines[part]] = add_fp32(old, terms).view(np.int32)


def _matmul_blocks(state: State, f: dict[str, Any], counts: list[int], a_strides: list[int],
                   acc_strides: list[int], w_strides: list[int]) -> bool:
    """All columns at once, if level 2 is the only reduction and no element is NaN; or else False."""
    config, size = state.config, f["block_tiles"] * state.config.rows
    where = walk(f["acc_line"], [counts[0], *counts[2:]], [acc_strides[0], *acc_strides[2:]])
    where = where.reshape(counts[0], -1)
    if acc_strides[1] or np.unique(where).size < where.size:
        return False
    alike = [counts[0] if a_strides[0] else 1, *counts[1:]]
    a_lines = walk(f["a_line"], alike, a_strides).reshape(*alike[:2], -1).swapaxes(1, 2)
    w_lines = walk(f["w_line"], [*counts[:2], config.rows], w_strides)
    a, w = (decode(decode_elements(state.scratchpad[lines], f[name], count)) for lines, name, count in (
        (a_lines, "a_format", config.rows), (w_lines, "w_format", config.columns)))
    if np.isnan(a).any() or np.isnan(w).any():
        return False
    rest = -counts[1] % f["block_tiles"] * config.rows
    a, w = a.reshape(*a.shape[:2], -1), w.reshape(len(w), -1, config.columns)
    if rest:
        a, w = np.pad(a, ((0, 0), (0, 0), (0, rest))), np.pad(w, ((0, 0), (0, rest), (0, 0)))
    a = a.reshape(*a.shape[:2], -1, size)
    # Whole numbers of one small unit, far fewer than 2^53: exact in any order.
    total = a.swapaxes(1, 2) @ w.reshape(len(w), -1, size, config.columns)
    terms = scaled_terms(total, *_scales(state, f, counts))
    sums = np.zeros((*where.shape, config.columns), np.float32)
    if f["accumulate"]:
        sums = state.accumulator[where].view(np.float32)
    for block in range(terms.shape[1]):
        sums = add_fp32(sums, terms[:, block])
    state.accumulator[where] = sums.view(np.int32)
    return True


def _scales(state: State, f: dict[str, Any], counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """E8M0 codes of A and of the weights: [level 3, blocks, vectors], [level 3, blocks, columns]."""
    vectors, blocks = counts[2] * counts[3], -(-counts[1] // f["block_tiles"])
    a, w = (state.scratchpad[walk(f[f"{name}_scale_line"], [counts[0], blocks, lines], [
        f[f"{name}_scale_stride3"], f[f"{name}_scale_stride2"], 1])].reshape(counts[0], blocks, -1)
        for name, lines in (("a", -(-vectors // state.config.line_bytes)), ("w", 1)))
    return a[..., :vectors], w[..., :state.config.columns]
