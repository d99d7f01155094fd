"""Layers of the vector unit that make something of all channels of each place together."""

from dataclasses import dataclass, field

import numpy as np

from .layers import RowLayer

__all__ = ["LayerNormLayer", "RmsNormLayer", "RotaryLayer", "SoftmaxLayer", "TopLayer"]


@dataclass(frozen=True)
class SoftmaxLayer(RowLayer):
    """Softmax over the channels of each place.

    Of a code that is `d` less than the largest of its place, the exponential is word number `-d & 255` of A's
    table; `factor` has the result's scale. The sum of all exponentials of a place is below 2^31.
    """


@dataclass(frozen=True)
class LayerNormLayer(RowLayer):
    """Layer normalization over the channels of each place.

    Codes have a mean and a variance. Of such a one less the mean, over the root of variance plus `epsilon`, the
    result is (that + shift) * gain, rounded, plus the zero point, clamped. All is computed of d, by which a code
    is less than the largest of its place: A's table has, as word number `-d & 255`, -d as FP32.

    Parameters
    ----------
    epsilon : in steps of A, squared
    shift, gain : float32 [channels]
    """
    epsilon: float = 0.0
    shift: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    gain: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def square_unit(self) -> int:
        """Squares and epsilon are summed in steps of 1 / that: a power of two, so that sums stay below 2^31."""
        return 1 << int(np.log2((1 << 31) / (self.channels * (255 ** 2 + self.epsilon) + 1)))


@dataclass(frozen=True)
class RmsNormLayer(RowLayer):
    """Root mean square normalization over the channels of each place.

    A code less A's zero point, which A's table has as FP32, times 1 / the root of the mean of squares plus
    `epsilon`, times `gain`; rounded, plus the zero point, clamped. Sums of squares are below 2^31.

    Parameters
    ----------
    epsilon : in steps of A, squared
    gain : float32 [channels]
    """
    epsilon: float = 0.0
    gain: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True)
class RotaryLayer(RowLayer):
    """Rotary positions: A times one number for each place and channel, plus B times another; rounded, plus the
    zero point, clamped.

    A's table has, as FP32, what codes of either are less their zero point. B is a second feature map like A.

    Parameters
    ----------
    cos, sin : float32 [places, channels], the numbers for A and for B
    """
    cos: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    sin: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def has_second(self) -> bool:
        return True


@dataclass(frozen=True)
class TopLayer(RowLayer):
    """The `count` largest of each place's codes times `factor`, and their channels; of equal ones the first.

    For a chip with `top_k`. There is no table. The result's channels are bytes, the lowest of a word first: of so
    many FP32 numbers, and then of as many uint32.
    """
    count: int = 1

    @property
    def out_channels(self) -> int:
        return 8 * self.count
