"""The coefficients of exp2, reciprocal and rsqrt: made here, and their error proved.

``python -m bench.function_table`` prints the error of each curve over every fraction, and fails if one is not
within its bound; with ``--write`` it makes ``rtl/kiwicha/function_table.py`` first.

Method: by Chebyshev's theorem a polynomial of degree 2 is the best one if its error reaches its maximum four
times, with alternating signs. On so short a segment a curve is almost a cubic, for which the four places are the
segment's ends and a quarter of its length from them. c2 follows from the values there, and is rounded; then c1
and c0, each the best with what was rounded before. All of it in 50 decimal digits, so that the table is the same
on every machine.
"""

import sys
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

import kiwicha
from kiwicha.functions import C0_BITS, C1_BITS, C2_BITS, FRACTION_BITS, OFFSET_BITS, SEGMENTS_OF, Curve
from kiwicha_host.golden.functions import curve_values

__all__ = ["BOUND", "CurveError", "curve_error", "fit", "table_source"]

TABLE = Path(kiwicha.__file__).with_name("function_table.py")
#: What the polynomial may miss a curve by, in units of the last place of a result between 1 and 2. Half a unit for
#: rounding the result, and 0.18 for rounding exp2's operand, must fit into the one unit that the contract allows.
BOUND = 0.3

_EXACT: dict[Curve, Callable[[Decimal], Decimal]] = {
    Curve.EXP2: lambda t: Decimal(2) ** t, Curve.RECIPROCAL: lambda t: 2 / (1 + t),
    Curve.RSQRT_EVEN: lambda t: 2 / (1 + t).sqrt(), Curve.RSQRT_ODD: lambda t: (2 / (1 + t)).sqrt()}
_REAL: dict[Curve, Callable[[np.ndarray], np.ndarray]] = {
    Curve.EXP2: np.exp2, Curve.RECIPROCAL: lambda t: 2 / (1 + t),
    Curve.RSQRT_EVEN: lambda t: 2 / np.sqrt(1 + t), Curve.RSQRT_ODD: lambda t: np.sqrt(2 / (1 + t))}


def fit(curve: Curve) -> Iterator[int]:
    """The words of a curve's segments: c0, c1 and c2, from the upper bits to the lower."""
    sign = 1 if curve == Curve.EXP2 else -1
    with localcontext(prec=50):
        width = Decimal(1) / SEGMENTS_OF
        places = [part * width / 4 for part in (0, 1, 3, 4)]
        for segment in range(SEGMENTS_OF):
            rest = [_EXACT[curve](segment * width + u) for u in places]
            bend = (rest[0] + rest[3] - rest[1] - rest[2]) * 8 / (3 * width ** 2)
            c2 = round(bend * 2 ** (C2_BITS - 1))
            rest = [value - Decimal(c2) / 2 ** (C2_BITS - 1) * u ** 2
                    for value, u in zip(rest, places, strict=True)]
            slope = (rest[3] - rest[0] + rest[2] - rest[1]) * 2 / (3 * width)
            c1 = round(sign * slope * 2 ** (C1_BITS - 1))
            rest = [value - sign * Decimal(c1) / 2 ** (C1_BITS - 1) * u
                    for value, u in zip(rest, places, strict=True)]
            c0 = round((max(rest) + min(rest) - 2) / 2 * 2 ** C0_BITS)
            for value, bits in ((c0, C0_BITS), (c1, C1_BITS), (c2, C2_BITS)):
                assert 0 <= value < 1 << bits, (curve, segment, c0, c1, c2)
            yield c0 << C1_BITS + C2_BITS | c1 << C2_BITS | c2


def table_source() -> str:
    """The text of the module that holds the table."""
    words = [f"{word:016x}" for curve in Curve for word in fit(curve)]
    lines = "\n".join(" ".join(words[first:first + 4]) for first in range(0, len(words), 4))
    bits = f"{C0_BITS}, {C1_BITS}, {C2_BITS}"
    return f'''"""The segments of :mod:`kiwicha.functions`, curve by curve: c0, c1, c2 in {bits} bits.

``python -m bench.function_table --write`` makes this file.
"""

__all__ = ["WORDS"]

_TABLE = """
{lines}
"""

WORDS = tuple(int(word, 16) for word in _TABLE.split())
'''


class CurveError(NamedTuple):
    """What a curve misses by, over every fraction of it, in units of the last place."""
    low: float
    high: float
    monotone: bool
    #: Whether all of it is at least 1 and below 2.
    within: bool


def curve_error(curve: Curve) -> CurveError:
    """Each value against float64, whose own error is below 2^-27 units of the last place: exp2 of its library is
    taken to be right to 4 of its own units, and division and square root are correctly rounded."""
    # Only exp2 has fractions below the operand's last bit.
    step = 1 if curve == Curve.EXP2 else 4
    low, high, monotone, within = 0., 0., True, True
    before = None
    for start in range(0, 1 << FRACTION_BITS, 1 << OFFSET_BITS):
        fractions = np.arange(start, start + (1 << OFFSET_BITS), step, dtype=np.int64)
        values = curve_values(np.int64(curve.value), fractions)
        errors = (values - _REAL[curve](fractions * 2. ** -FRACTION_BITS) * (1 << C0_BITS)) * 2. ** (23 - C0_BITS)
        rises = np.diff(values if before is None else np.concatenate([[before], values]))
        monotone &= bool((rises >= 0).all() if curve == Curve.EXP2 else (rises <= 0).all())
        within &= bool((values >> C0_BITS == 1).all())
        low, high, before = min(low, float(errors.min())), max(high, float(errors.max())), values[-1]
    return CurveError(low, high, monotone, within)


@click.command()
@click.option("--write", is_flag=True, help="Write the table first.")
def main(write: bool) -> None:
    """Print and check the error of each curve's polynomials."""
    if write:
        TABLE.write_text(table_source(), encoding="utf-8")
        # What was imported is the table before.
        print(f"{TABLE} is written")
        return
    wrong = False
    for curve in Curve:
        error = curve_error(curve)
        good = -BOUND <= error.low <= error.high <= BOUND and error.monotone and error.within
        wrong |= not good
        print(f"{curve.name:11} {error.low:+.3f} to {error.high:+.3f} ulp, "
              f"{'' if error.monotone else 'not '}monotone, {'' if error.within else 'not '}from 1 to below 2")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
