"""Feature maps' places in memory, and pooling windows: what they cover, and which are alike. Pairs are (y, x)."""

from dataclasses import dataclass

from ..ir.layers import Pool
from ..program.memory_map import ceil_div

__all__ = ["Rect", "Strides", "Window", "bound", "covered", "windows"]


@dataclass(frozen=True)
class Rect:
    """Rows y to y + h - 1 and columns x to x + w - 1."""
    y: int
    x: int
    h: int
    w: int

    @property
    def size(self) -> int:
        return self.h * self.w


@dataclass(frozen=True)
class Strides:
    """Bytes in memory from one place to the next along x and y, and from one image to the next."""
    x: int
    y: int
    image: int

    @classmethod
    def dense(cls, channels: int, size: tuple[int, int]) -> "Strides":
        """Of a feature map that nothing else is in."""
        return cls(channels, size[1] * channels, size[0] * size[1] * channels)


@dataclass(frozen=True)
class Window:
    """Results `first` to `first + count - 1` along one axis, whose windows have the same `taps`.

    The first window starts at `start` of the feature map, the next `step` later.
    """
    first: int
    count: int
    start: int
    step: int
    taps: int
    tap_step: int


def windows(pool: Pool | None, size: tuple[int, int], axis: int, first: int, count: int) -> list[Window]:
    """Results `first` to `first + count - 1` along an axis, in runs of equal windows on a map of `size`."""
    if pool is None:
        return [Window(first, count, first, 1, 1, 0)]
    runs: list[Window] = []
    for index in range(first, first + count):
        start, taps = _taps(pool, axis, index, size[axis])
        if runs and runs[-1].taps == taps:
            last = runs[-1]
            step = start - last.start if last.count == 1 else last.step
            if start == last.start + last.count * step:
                runs[-1] = Window(last.first, last.count + 1, last.start, step, taps, last.tap_step)
                continue
        runs.append(Window(index, 1, start, 0, taps, pool.dilations[axis]))
    return runs


def covered(pool: Pool | None, size: tuple[int, int], out: Rect) -> Rect:
    """What of a map of `size` the windows of the results `out` cover."""
    if pool is None:
        return out
    (y, h), (x, w) = (_span(pool, axis, first, count, size[axis])
                      for axis, first, count in ((0, out.y, out.h), (1, out.x, out.w)))
    return Rect(y, x, h, w)


def bound(pool: Pool | None, size: tuple[int, int], axis: int, count: int) -> int:
    """At most so many rows (or columns) of a map of `size` are needed for `count` results along an axis."""
    if pool is None:
        return count
    needed = (count - 1) * pool.strides[axis] + (pool.kernel[axis] - 1) * pool.dilations[axis] + 1
    return min(size[axis], needed)


def _taps(pool: Pool, axis: int, index: int, size: int) -> tuple[int, int]:
    """First element and number of elements of one window, without its padding."""
    dilation = pool.dilations[axis]
    start = index * pool.strides[axis] - pool.pads[axis]
    skipped = max(0, ceil_div(-start, dilation))
    start += skipped * dilation
    return start, min(pool.kernel[axis] - skipped, ceil_div(size - start, dilation))


def _span(pool: Pool, axis: int, first: int, count: int, size: int) -> tuple[int, int]:
    """(start, size) of what windows `first` to `first + count - 1` cover."""
    ends = [_taps(pool, axis, index, size) for index in range(first, first + count)]
    low = min(start for start, _ in ends)
    high = max(start + (taps - 1) * pool.dilations[axis] + 1 for start, taps in ends)
    return low, high - low
