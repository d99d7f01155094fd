"""What block-scaled products must be, for the benches: significands as whole numbers, FP32 by numpy."""

import ml_dtypes
import numpy as np

from kiwicha.formats import ElementFormat

_TYPES = {
    ElementFormat.INT8: np.int8, ElementFormat.INT4: ml_dtypes.int4, ElementFormat.E4M3: ml_dtypes.float8_e4m3fn,
    ElementFormat.E3M2: ml_dtypes.float6_e3m2fn, ElementFormat.E2M3: ml_dtypes.float6_e2m3fn,
    ElementFormat.E2M1: ml_dtypes.float4_e2m1fn,
}
_BITS = {ElementFormat.INT8: 8, ElementFormat.INT4: 4, ElementFormat.E4M3: 8, ElementFormat.E3M2: 6,
         ElementFormat.E2M3: 6, ElementFormat.E2M1: 4}
#: Powers of two of a significand of 1, OCP MX.
_EXPONENT = {ElementFormat.INT8: -6, ElementFormat.INT4: 0, ElementFormat.E4M3: -9, ElementFormat.E3M2: -4,
             ElementFormat.E2M3: -3, ElementFormat.E2M1: -1}
_NAN = np.uint32(0x7FC00000).view(np.float32)


def elements(lines, code, count):
    """The first `count` elements of lines of bytes: significands as float64, NaN where they are."""
    lines = lines.view(np.uint8)
    if _BITS[code] == 4:
        lines = np.stack([lines & 15, lines >> 4], axis=-1).reshape(len(lines), -1)
    codes = lines[:, :count] & ((1 << _BITS[code]) - 1)
    if code == ElementFormat.INT4:
        return ((codes.astype(int) ^ 8) - 8).astype(np.float64)
    values = np.ascontiguousarray(codes).view(_TYPES[code]).astype(np.float64)
    return values if code == ElementFormat.INT8 else values * 2.0 ** -_EXPONENT[code]


def bad_field(config, f):
    """The value of the field that has no meaning, if there is one (as a 1-tuple)."""
    for code in (f["a_format"], f["w_format"]):
        if code.name.lower() not in config.formats or (code.name.startswith("E") and not f["scaled"]):
            return (code.value,)
    if f["scaled"] and not (config.block_scaled and 1 <= f["block_tiles"] <= 128 // config.rows):
        return (f["block_tiles"],)
    return ()


def random_scaled_fields(config, rng, count):
    """Fields that make an instruction block-scaled."""
    codes = [ElementFormat[name.upper()] for name in config.formats]
    tiles = rng.randint(1, min(128 // config.rows, 4))
    lines, per_block = -(-count[0] * count[1] // config.line_bytes), -(-count[2] // tiles)

    def walk(extra):
        while True:
            strides = tuple(rng.choice((0, 1, -1, rng.randint(-9, 9))) for _ in range(2))
            reach = [strides[0] * (per_block - 1), strides[1] * (count[3] - 1)]
            low, top = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach) + extra
            if top - low < config.scratchpad_lines:
                return rng.randint(-low, config.scratchpad_lines - 1 - top), strides

    (a_line, a_stride), (w_line, w_stride) = walk(lines - 1), walk(0)
    return {"scaled": 1, "block_tiles": tiles, "a_format": rng.choice(codes), "w_format": rng.choice(codes),
            "a_scale_line": a_line, "a_scale_stride": a_stride, "w_scale_line": w_line, "w_scale_stride": w_stride}


class BlockModel:
    """The partial sums, as whole numbers, and the tile that is at work."""

    def __init__(self, config):
        self.sums = np.zeros((config.accumulator_lines, config.columns))
        self.nans = np.zeros((config.accumulator_lines, config.columns), bool)
        self.a_scale_line = self.w_scale_line = 0

    def tile(self, f, i2, i3):
        block, place = divmod(i2, f["block_tiles"])
        self.begin, self.end = place == 0, place == f["block_tiles"] - 1 or i2 == f["count"][2] - 1
        self.exponent = _EXPONENT[f["a_format"]] + _EXPONENT[f["w_format"]]
        self.a_scale_line, self.w_scale_line = (
            f[f"{name}_scale_line"] + block * f[f"{name}_scale_stride"][0] + i3 * f[f"{name}_scale_stride"][1]
            for name in "aw")

    def vector(self, line, vector, tile, old, now, a_scale, w_scale):
        """The accumulators after one vector: bits of FP32 as int32."""
        nans = np.isnan(vector).any() | np.isnan(tile).any(axis=0)
        sums = np.nan_to_num(vector) @ np.nan_to_num(tile)
        self.sums[line] = sums + (0 if self.begin else self.sums[line])
        self.nans[line] = nans | (False if self.begin else self.nans[line])
        if not self.end:
            return now
        exponents = self.exponent + int(a_scale) + w_scale.astype(int) - 254
        with np.errstate(all="ignore"):
            terms = np.ldexp(self.sums[line], exponents).astype(np.float32)
            terms[self.nans[line] | (a_scale == 255) | (w_scale == 255)] = np.nan
            total = old.view(np.float32) + terms
        return np.where(np.isnan(total), _NAN, total).view(np.int32)
