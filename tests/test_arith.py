"""Parameters of the arithmetic units: what they refuse, and how they say it."""

import re

import pytest

from kiwicha.arith.scaled import ScaledToFloat


@pytest.mark.parametrize("width", ["44", 4.0, None, True])
def test_scaled_width_is_an_integer(width):
    with pytest.raises(TypeError, match=re.escape(f"ScaledToFloat width must be an integer, not {width!r}")):
        ScaledToFloat(width)


@pytest.mark.parametrize("width", [1, 45, -3])
def test_scaled_width_is_in_range(width):
    with pytest.raises(ValueError, match=re.escape(f"ScaledToFloat width must be from 2 to 44, not {width}")):
        ScaledToFloat(width)


def test_scaled_shows_its_width():
    assert ScaledToFloat(44).width == 44
