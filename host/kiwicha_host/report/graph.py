"""A model's parts as a drawing: what runs on the chip, what on the host, and the tensors between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Piece", "graph_svg"]

_WIDTH, _GAP, _LINE, _LEFT, _LANE = 460, 26, 16, 20, 12
#: Operators that a box names; of the others it says how many there are.
_NAMED = 5
#: Lanes beside the boxes, for tensors that pass some of them.
_LANES = 24


@dataclass(frozen=True)
class Piece:
    """Operators that run together.

    Parameters
    ----------
    place : "chip", "host", or "edge" for the model's inputs and outputs
    ops : what they are called
    inputs, outputs : names of tensors
    """
    place: str
    ops: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def graph_svg(pieces: Sequence[Piece]) -> str:
    """The parts from top to bottom, in the order in which they run; a line is a tensor."""
    tops, bottom = [], 10
    for piece in pieces:
        tops.append(bottom)
        bottom += _height(piece) + _GAP
    parts = [_box(piece, top) for piece, top in zip(pieces, tops, strict=True)]
    ends = [top + _height(piece) for piece, top in zip(pieces, tops, strict=True)]
    made = {name: number for number, piece in enumerate(pieces) for name in piece.outputs}
    lane = 0
    for number, piece in enumerate(pieces):
        for name in dict.fromkeys(piece.inputs):
            source = made.get(name, number)
            if source >= number:
                continue
            if source == number - 1:
                path = f"M {_LEFT + _WIDTH / 2} {ends[source]} V {tops[number]}"
            else:
                x, lane = _LEFT + _WIDTH + _LANE * (1 + lane % _LANES), lane + 1
                path = (f"M {_LEFT + _WIDTH} {ends[source] - 6} H {x} V {tops[number] + 6} H {_LEFT + _WIDTH}")
            parts.append(f'<path class="tensor" d="{path}"><title>{escape(name)}</title></path>')
    width = _LEFT + _WIDTH + _LANE * (min(lane, _LANES) + 2)
    return (f'<svg class="graph" width="{width}" height="{bottom}" viewBox="0 0 {width} {bottom}" role="img" '
            'aria-label="Parts of the model">\n' + "\n".join(parts) + "\n</svg>")


def _shown(piece: Piece) -> list[str]:
    more = len(piece.ops) - _NAMED
    return [*piece.ops[:_NAMED], *([f"and {more} more"] if more > 0 else [])]


def _height(piece: Piece) -> int:
    return _LINE * len(_shown(piece)) + 10


def _box(piece: Piece, top: int) -> str:
    # So many characters fit a box's width.
    lines = [text if len(text) <= 68 else text[:65] + "..." for text in _shown(piece)]
    texts = "".join(f'<text x="{_LEFT + 8}" y="{top + 5 + _LINE * (i + 1) - 4}">{escape(text)}</text>'
                    for i, text in enumerate(lines))
    return (f'<g class="{piece.place}"><title>{escape(piece.place)}: {escape(", ".join(piece.ops))}</title>'
            f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_height(piece)}" rx="4"/>{texts}</g>')
