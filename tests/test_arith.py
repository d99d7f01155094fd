"""Parameters of the arithmetic units and the edge decoder: what they refuse, and how they say it."""

import re

import pytest

from kiwicha import ChipConfig
from kiwicha.arith.scaled import ScaledToFloat
from kiwicha.array.decode import EdgeDecoder


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
