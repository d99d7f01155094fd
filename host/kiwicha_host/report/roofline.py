"""The roofline plot as SVG: what the chip can attain at an arithmetic intensity, and what a run did."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from kiwicha import ChipConfig

__all__ = ["Point", "roofline_svg"]

_WIDTH, _HEIGHT = 720, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 20, 52
#: Size of a character of a label, and how far it is from its point.
_CHAR, _LINE, _AWAY = 7, 14, 9
#: Left, top, right, bottom; and how many boxes a sloping line is.
_Box = tuple[float, float, float, float]
_PIECES = 40


@dataclass(frozen=True)
class Point:
    """A run, or a layer of it: MACs/byte, MACs/cycle, the text beside it and the one when it is pointed at."""
    intensity: float
    rate: float
    label: str
    title: str
    kind: str = "run"


class _Axes:
    """Decades that hold the roofs' corner and all points, and where their values are on the paper."""

    def __init__(self, config: ChipConfig, points: Sequence[Point]):
        peak, corner = config.peak_macs_per_cycle, config.peak_macs_per_cycle / config.bus_bytes
        self.x = _decades([corner / 20, corner * 20, *(point.intensity for point in points)])
        self.y = _decades([peak / 50, peak * 1.3, *(point.rate for point in points)])

    def place(self, intensity: float, rate: float) -> tuple[float, float]:
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(rate) - self.y[0]) / (self.y[1] - self.y[0])
        return (_LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM))


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def roofline_svg(config: ChipConfig, points: Sequence[Point]) -> str:
    """An ``<svg>`` element; points without MACs, bytes or cycles are not in it."""
    points = [point for point in points if point.intensity > 0 and point.rate > 0]
    axes = _Axes(config, points)
    roofs, taken = _roofs(config, axes)
    parts = [*_grid(axes), *roofs, *_points(axes, points, taken)]
    return (f'<svg class="roofline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="Roofline plot">{"".join(parts)}</svg>')


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    return (f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" '
            f'x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>')


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _number(exponent: int) -> str:
    return f"{10 ** exponent:,}" if 0 <= exponent < 6 else f"{10.0 ** exponent:.4g}"


def _grid(axes: _Axes) -> list[str]:
    (x0, x1), (y0, y1) = axes.x, axes.y
    parts = []
    step = -(-(x1 - x0) // 7)
    for exponent in range(x0, x1 + 1, step):
        bottom, top = axes.place(10.0 ** exponent, 10.0 ** y0), axes.place(10.0 ** exponent, 10.0 ** y1)
        parts += [_line("grid", bottom, top),
                  _text(bottom[0], bottom[1] + 17, _number(exponent), 'text-anchor="middle"')]
    for exponent in range(y0, y1 + 1):
        left, right = axes.place(10.0 ** x0, 10.0 ** exponent), axes.place(10.0 ** x1, 10.0 ** exponent)
        parts += [_line("grid", left, right),
                  _text(left[0] - 8, left[1] + 4, _number(exponent), 'text-anchor="end"')]
    return [*parts, _text(_WIDTH / 2, _HEIGHT - 10, "arithmetic intensity, MACs/byte", 'text-anchor="middle"'),
            _text(0, 0, "MACs/cycle", f'text-anchor="middle" transform="translate(14 {_HEIGHT / 2}) rotate(-90)"')]


def _roofs(config: ChipConfig, axes: _Axes) -> tuple[list[str], list[_Box]]:
    """The two roofs with their names, and what no label may cover: these names and the lines, in pieces."""
    peak, bus = config.peak_macs_per_cycle, config.bus_bytes
    low = max(10.0 ** axes.x[0], 10.0 ** axes.y[0] / bus)
    start, corner = axes.place(low, low * bus), axes.place(peak / bus, peak)
    end = axes.place(10.0 ** axes.x[1], peak)
    middle = (start[0] + corner[0]) / 2, (start[1] + corner[1]) / 2
    angle = math.degrees(math.atan2(corner[1] - start[1], corner[0] - start[0]))
    turn = f'transform="translate({middle[0]:.1f} {middle[1]:.1f}) rotate({angle:.1f})"'
    name = f"array: {peak} MACs/cycle"
    lines = [(*corner, *end), (end[0] - 4 - len(name) * _CHAR, end[1] - 7 - _LINE, end[0], end[1])]
    across, down = (corner[0] - start[0]) / _PIECES, (corner[1] - start[1]) / _PIECES
    # With the room for its name above it.
    lines += [(start[0] + i * across, start[1] + (i + 1) * down - 2 * _LINE,
               start[0] + (i + 1) * across, start[1] + i * down) for i in range(_PIECES)]
    return [_line("roof", start, corner), _line("roof", corner, end),
            _text(end[0] - 4, end[1] - 7, name, 'text-anchor="end"'),
            _text(0, -7, f"bus: {bus} bytes/cycle", f'text-anchor="middle" {turn}')], lines


def _points(axes: _Axes, points: Sequence[Point], taken: Sequence[_Box]) -> list[str]:
    """Each point with its label where that covers no other label, no point and nothing that is `taken`."""
    places = [axes.place(point.intensity, point.rate) for point in points]
    taken = [*taken, *((x - 6, y - 6, x + 6, y + 6) for x, y in places)]
    parts = []
    for point, (x, y) in zip(points, places, strict=True):
        box = next((box for box in _boxes(x, y, len(point.label) * _CHAR)
                    if not any(_overlap(box, other) for other in taken)), None)
        if box is not None:
            taken.append((box[0] - _CHAR / 2, box[1], box[2] + _CHAR / 2, box[3]))
            near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
            if math.dist(near, (x, y)) > 2 * _AWAY:
                parts.append(_line("leader", (x, y), near))
            parts.append(_text(box[0], box[3] - 3, point.label))
        parts.append(f'<circle class="{point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
                     f'<title>{escape(point.title)}</title></circle>')
    return parts


def _boxes(x: float, y: float, width: float) -> Iterator[_Box]:
    """Places for a label around a point, the nearest first, on the paper."""
    for away in range(_AWAY, 12 * _AWAY, _AWAY):
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            left = x + dx * away - (0, width / 2, width)[1 - dx]
            middle = y + dy * (away + _LINE / 2)
            box = left, middle - _LINE / 2, left + width, middle + _LINE / 2
            if all(low < first and last < high for low, first, last, high in (
                    (_LEFT, box[0], box[2], _WIDTH - _RIGHT), (_TOP, box[1], box[3], _HEIGHT - _BOTTOM))):
                yield box


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
