"""A layer of the vector unit on one configuration: its tables, and the places that it walks over."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import Reduce
from kiwicha.timing import word_lines

from ...errors import CompileError
from ...ir.layers import Pool, RowLayer, VectorLayer
from ...ir.number_layers import NumberLayer
from ...ir.row_layers import LayerNormLayer, RmsNormLayer, RotaryLayer, SoftmaxLayer, TopLayer
from ...program.memory_map import ceil_div
from ..emitter import Addresses
from ..geometry import Rect, Strides, Window, bound, covered, windows

__all__ = ["Box", "VectorPlan"]

#: Passes, and numbers of rows. The largest code of a row, the sum of its exponentials, and the results.
_SOFTMAX = 3, 3
#: The largest code; sums; sums of squares; numbers in units of the deviation; the results.
_LAYER_NORM = 5, 9
#: The sum of squares; the results.
_RMS_NORM = 2, 4
#: Both products, and their sum, which is the results.
_ROTARY = 3


@dataclass(frozen=True)
class Box:
    """Images of `channels` bytes a place, of which each operand and the result are that far apart in memory.

    Parameters
    ----------
    images, channels : how many
    size, out_size : of operand A and of the result, (y, x)
    source, second, target : of operand A, of B if that is another, and of the result; B's are zero along an axis
        where it has one place that counts for all
    pool : the window
    passes : how often each result's operands are gone through
    row_lines : lines of each place besides, if all its channels must be there at once; else 0
    row_results : numbers that are made of all a tile's rows, each of the one before
    words : the results are so many of these, of each place, and no codes
    constants : so many bytes in memory, behind the layer's tables, are for each place of an image; they come to
        the lines that it has besides
    elements : of A, of B and of the result, by NumPy's names
    lines : of a block of channels of each of these
    """
    images: int
    channels: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    source: Strides
    second: Strides | None
    target: Strides
    pool: Pool | None
    passes: int = 1
    row_lines: int = 0
    row_results: int = 0
    words: int = 0
    constants: int = 0
    elements: tuple[str, str, str] = ("int8", "int8", "int8")
    lines: tuple[int, int, int] = (1, 1, 1)

    @property
    def taps(self) -> int:
        """Places of a window."""
        return prod(self.pool.kernel) if self.pool else 1

    def beside(self, h: int, w: int) -> tuple[int, int]:
        """Rows and columns of B that go with h x w results: one, where it counts for all."""
        second = self.second
        return (h, w) if second is None else (h if second.y else 1, w if second.x else 1)

    def covered(self, out: Rect) -> Rect:
        """What of A the results `out` need."""
        return covered(self.pool, self.size, out)

    def windows(self, axis: int, first: int, count: int) -> list[Window]:
        """Results `first` to `first + count - 1` along an axis, in runs of equal windows."""
        return windows(self.pool, self.size, axis, first, count)

    def most_covered(self, h: int, w: int) -> int:
        """At most so many places of A are needed for h x w results."""
        return bound(self.pool, self.size, 0, h) * bound(self.pool, self.size, 1, w)

    def flat(self) -> "Box":
        """The same with fewer dimensions, as far as operands and result are alike without gaps: what follows each
        other in memory is more channels of one place."""
        if self.pool is not None or self.row_lines:
            return self
        images, channels, (h, w) = self.images, self.channels, self.size
        views = [(view, np.dtype(element).itemsize) for view, element in zip(
            (self.source, self.second, self.target), self.elements, strict=True) if view is not None]
        if w == 1 or all(view.x == channels * size for view, size in views):
            channels, w = channels * w, 1
            if h == 1 or all(view.y == channels * size for view, size in views):
                channels, h = channels * h, 1
                if images == 1 or all(view.image == channels * size for view, size in views):
                    channels, images = channels * images, 1
        return replace(self, images=images, channels=channels, size=(h, w), out_size=(h, w))


@dataclass(frozen=True)
class VectorPlan:
    """A layer of the vector unit; `source`, `second` and `target` as those of a :class:`Box`.

    Raises
    ------
    CompileError
        A window has no place in the layer's input.
    """
    config: ChipConfig
    layer: VectorLayer
    source: Strides
    second: Strides | None
    target: Strides

    def __post_init__(self) -> None:
        layer = self.layer
        if layer.pool is not None and any(run.taps < 1 for axis in range(2) for run in windows(
                layer.pool, layer.size, axis, 0, layer.out_size[axis])):
            raise CompileError(f"layer {layer.name!r}: a window lies in the padding alone")

    @property
    def needs(self) -> tuple[str, ...]:
        """Which switches a chip must have for it."""
        if isinstance(self.layer, TopLayer):
            return ("top_k",)
        return ("functions",) if isinstance(self.layer, RowLayer | NumberLayer) else ()

    def box(self, images: int) -> Box:
        """What it does for so many images."""
        layer = self.layer
        return self.of(Box(images, layer.channels, layer.size, layer.out_size, self.source, self.second,
                           self.target, layer.pool)).flat()

    @cached_property
    def image(self) -> Box:
        """What it does for one."""
        return self.box(1)

    def of(self, box: Box) -> Box:
        """`box` with what this kind of layer has besides."""
        layer, numbers = self.layer, ceil_div(self.layer.channels, self.config.columns)
        if isinstance(layer, TopLayer):
            count = 2 * layer.count
            return replace(box, row_lines=count * word_lines(self.config), row_results=1, words=count)
        if isinstance(layer, RotaryLayer):
            lines = 2 * numbers * word_lines(self.config)
            return replace(box, passes=_ROTARY, row_lines=lines, constants=lines * self.config.line_bytes)
        if isinstance(layer, SoftmaxLayer):
            (passes, results), words = _SOFTMAX, 2
        elif isinstance(layer, LayerNormLayer):
            (passes, results), words = _LAYER_NORM, 4 + numbers
        elif isinstance(layer, RmsNormLayer):
            (passes, results), words = _RMS_NORM, 2
        else:
            return box
        return replace(box, passes=passes, row_lines=words * word_lines(self.config), row_results=results)

    def addresses(self, at: Addresses) -> Addresses:
        """Where it and its operands are, of a layer that is at `at`."""
        return at

    def factor(self, places: int) -> np.float32:
        """The factor of a result whose window has so many places in A."""
        layer = self.layer
        summed = layer.pool is not None and layer.reduce == Reduce.SUM
        return layer.factor[places if summed else -1]

    # Tables.

    @property
    def _tables(self) -> list[np.ndarray]:
        return [table for table in (self.layer.a_table, self.layer.b_table) if table is not None and table.size]

    @property
    def weight_bytes(self) -> int:
        return sum(table.nbytes for table in self._tables)

    @property
    def constant_bytes(self) -> int:
        """Any chip would have to read them."""
        return self.weight_bytes

    @property
    def weight_lines(self) -> int:
        return ceil_div(self.weight_bytes, self.config.line_bytes)

    @property
    def resident_lines(self) -> int:
        """Those that must be in the scratchpad for all tiles."""
        return self.weight_lines

    def packed(self) -> np.ndarray:
        """Tables A and B as lines, uint8 [weight_lines, line_bytes]."""
        tables = [np.zeros(0, np.uint8), *(table.view(np.uint8) for table in self._tables)]
        return np.concatenate(tables).reshape(-1, self.config.line_bytes)
