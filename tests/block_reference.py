"""Block-scaled arithmetic once more, in rational numbers and from the formats' bit fields: for tests only."""

from fractions import Fraction

import numpy as np

from kiwicha_host.operands import FORMATS

NAN = 0x7FC00000
INFINITY = 0x7F800000
#: Exponent bits, mantissa bits and bias; for integers bits and the power of two of a 1.
FIELDS = {"e4m3": (4, 3, 7), "e3m2": (3, 2, 3), "e2m3": (2, 3, 1), "e2m1": (2, 1, 1)}
INTEGERS = {"int8": (8, -6), "int4": (4, 0)}


def bits_of(name: str) -> int:
    return sum(FIELDS[name][:2]) + 1 if name in FIELDS else INTEGERS[name][0]


def value(name: str, code: int) -> Fraction | None:
    """What a code stands for; None for NaN."""
    if name in INTEGERS:
        bits, power = INTEGERS[name]
        return (code - (code >> (bits - 1) << bits)) * Fraction(2) ** power
    exponent_bits, mantissa_bits, bias = FIELDS[name]
    magnitude = code & ((1 << exponent_bits + mantissa_bits) - 1)
    if name == "e4m3" and magnitude == 0x7F:
        return None
    exponent, mantissa = divmod(magnitude, 1 << mantissa_bits)
    fraction = Fraction(mantissa, 1 << mantissa_bits) + (exponent > 0)
    power = Fraction(2) ** (max(exponent, 1) - bias)
    return (-1 if code >> (exponent_bits + mantissa_bits) else 1) * fraction * power


def magnitudes(name: str) -> np.ndarray:
    """A float format's values that are not negative, in the order of their codes: float64."""
    values = [value(name, code) for code in range(1 << bits_of(name) - 1)]
    return np.array([float(item) for item in values if item is not None])


def as_elements(name: str, codes: np.ndarray) -> np.ndarray:
    """Codes as an array of the format's type."""
    if name == "int4":
        return ((codes.astype(np.int8) ^ 8) - 8).astype(FORMATS[name])
    return codes.astype(np.uint8).view(FORMATS[name])


def round_fp32(x: Fraction, negative_zero: bool = False) -> int:
    """The bits of the FP32 number nearest to `x`, ties to even, with subnormals; overflow to infinity."""
    sign = 1 << 31 if x < 0 or (x == 0 and negative_zero) else 0
    x = abs(x)
    if x == 0:
        return sign
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > x         # now 2^exponent <= x < 2^(exponent + 1)
    quantum = max(exponent, -126) - 23
    steps = round(x / Fraction(2) ** quantum)       # a Fraction rounds to the nearest integer, ties to even
    # A carry out of the significand steps the exponent; a subnormal's exponent field is 0.
    return sign | min(steps + ((quantum + 149) << 23), INFINITY)


def add_fp32(x: int, y: int) -> int:
    """The sum of two FP32 numbers, as bits."""
    specials = {item for item in (x, y) if item & INFINITY == INFINITY}
    if specials:
        return specials.pop() if specials in ({INFINITY}, {INFINITY | 1 << 31}) else NAN
    total = sum(Fraction(float(np.uint32(item).view(np.float32))) for item in (x, y))
    return round_fp32(total, negative_zero=x == y == 1 << 31)


def dot(a_name, a_codes, a_scales, b_name, b_codes, b_scales, block, acc=0) -> int:
    """One result as FP32 bits: codes [K] and scales [blocks] of a row of A and a column of B."""
    for i, start in enumerate(range(0, len(a_codes), block)):
        pairs = [(value(a_name, int(x)), value(b_name, int(y))) for x, y in
                 zip(a_codes[start:start + block], b_codes[start:start + block], strict=True)]
        if 255 in (a_scales[i], b_scales[i]) or any(None in pair for pair in pairs):
            return NAN
        total = sum((x * y for x, y in pairs), Fraction(0))
        acc = add_fp32(acc, round_fp32(total * Fraction(2) ** (int(a_scales[i]) + int(b_scales[i]) - 254)))
    return acc


def nearest(name: str, x: np.ndarray) -> np.ndarray:
    """Codes of a float format's values nearest to float64 `x`, ties to even, saturated; zeros keep their sign."""
    values = magnitudes(name)
    above = np.clip(np.searchsorted(values, np.abs(x)), 1, len(values) - 1)
    low, high = np.abs(x) - values[above - 1], values[above] - np.abs(x)
    code = np.where((low < high) | ((low == high) & (above % 2 == 1)), above - 1, above)
    return (code + np.where(np.signbit(x), 1 << bits_of(name) - 1, 0)).astype(np.uint8)
