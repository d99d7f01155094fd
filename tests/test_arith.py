"""Parameters of arithmetic units, the edge decoder and multipliers: what they refuse, and how they say it."""

import re

import pytest

from kiwicha import ChipConfig
from kiwicha.arith.scaled import ScaledToFloat
from kiwicha.array.decode import EdgeDecoder
from kiwicha.array.multiplier import (
    Ecp5MagnitudeMultiplier,
    Ecp5Multiplier,
    Ecp5PackedMultiplier,
)


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


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (("tiny", 4), TypeError, "config must be a ChipConfig, not 'tiny'"),
    ((ChipConfig(), "4"), TypeError, "EdgeDecoder count must be an integer, not '4'"),
    ((ChipConfig(), True), TypeError, "EdgeDecoder count must be an integer, not True"),
    ((ChipConfig(), 0), ValueError, "EdgeDecoder count must be at least 1, not 0"),
])
def test_decoder_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        EdgeDecoder(*arguments)


def test_decoder_of_integers_takes_one_cycle():
    decoder = EdgeDecoder(ChipConfig(), 3)
    assert (decoder.latency, decoder.count) == (1, 3)


@pytest.mark.parametrize(("variant", "arguments", "message"), [
    (Ecp5PackedMultiplier, {"width": 10}, "Ecp5PackedMultiplier operands must have 8 to 8 bits, not 10"),
    (Ecp5PackedMultiplier, {"width": 19, "sign_magnitude": True},
     "Ecp5PackedMultiplier must have sign_magnitude False, not True"),
    (Ecp5Multiplier, {"width": 19}, "Ecp5Multiplier operands must have 2 to 18 bits, not 19"),
    (Ecp5MagnitudeMultiplier, {"width": 19}, "Ecp5MagnitudeMultiplier must have sign_magnitude True, not False"),
    (Ecp5MagnitudeMultiplier, {"width": 20, "sign_magnitude": True},
     "Ecp5MagnitudeMultiplier operands must have 2 to 18 bits, not 19"),
])
def test_multiplier_refuses_operands(variant, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        variant(**arguments)


def test_multiplier_shows_its_operands():
    unit = Ecp5MagnitudeMultiplier(width=19, product_width=37, sign_magnitude=True)
    assert (unit.width, unit.sign_magnitude) == (19, True)
