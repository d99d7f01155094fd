"""One layer on one configuration: the lines its input takes, its weight tiles, and its tiles of output."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kiwicha import ChipConfig

from ...ir.layers import Layer
from ...program.memory_map import ceil_div, column_parameters
from ...program.packing import int8_parts
from ..emitter import element_lines, is_clamped
from ..geometry import Rect, Strides, bound, covered
from ..product.spans import split

__all__ = ["ConvPlan", "plan_layer"]


@dataclass(frozen=True)
class ConvPlan:
    """A layer as the array computes it; all pairs are (y, x).

    `fold` says which of the kernel's axes the host's arrangement of the input turned into channels: "", "x" or
    "yx"; `channels`, `size`, `kernel` and so on are those after that. The input is in memory as rows of `channels`
    bytes, `source` apart (closer than they are long if folded); the output as rows of `layer.out_channels`
    elements, `target` apart.
    """
    config: ChipConfig
    layer: Layer
    fold: str
    channels: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    source: Strides
    target: Strides

    @cached_property
    def geometry(self) -> tuple[Hashable, ...]:
        """All that a program's cycles hang on: plans that have it in common differ in their numbers only."""
        layer = self.layer
        return (self.fold, self.channels, self.size, self.kernel, self.strides, self.dilations, self.pads,
                self.source, self.target, layer.weights.shape, layer.conv_size, layer.out_size,
                layer.pool, layer.element, is_clamped(layer), self.weight_tiles,
                tuple(map(tuple, self.kept[:1] if self._alike else self.kept)))

    # The input.

    @property
    def segments(self) -> int:
        """Lines per pixel of the input."""
        return ceil_div(self.channels, self.config.rows)

    @property
    def padded(self) -> tuple[int, int]:
        """Size of the input with its padding."""
        conv = self.layer.conv_size
        used = [self.reach(i, conv[i]) for i in range(2)]
        return max(used[0], self.pads[0] + self.size[0]), max(used[1], self.pads[1] + self.size[1])

    @property
    def lines(self) -> int:
        """Scratchpad lines of one padded input image."""
        return self.padded[0] * self.padded[1] * self.segments

    def reach(self, axis: int, count: int) -> int:
        """Padded input pixels that `count` pixels of the convolution need along an axis."""
        return (count - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def offsets(self, width: int, block: int) -> list[int]:
        """For each weight tile of a block, the line of its first input pixel, in an input `width` pixels wide."""
        key = width, 0 if self._alike else block
        if key not in self._offsets:
            segments, (down, right) = self.segments, self.dilations
            self._offsets[key] = [(y * down * width + x * right) * segments + segment
                                  for _, y, x, segment in self.kept[block]]
        return self._offsets[key]

    @cached_property
    def _offsets(self) -> dict[tuple[int, int], list[int]]:
        return {}

    @property
    def _alike(self) -> bool:
        """Whether all blocks have the same weight tiles."""
        return self.kept[0] is self.kept[-1]

    def arrange(self, images: np.ndarray) -> np.ndarray:
        """Input codes [N, H, W, C] as they have to be in memory, [N, bytes of an image]."""
        layer = self.layer
        if self.fold:
            (top, left), (h, w) = layer.pads, layer.conv_size
            rows = (h - 1) * layer.strides[0] + (layer.kernel[0] - 1) * layer.dilations[0] + 1
            columns = (w - 1) * layer.strides[1] + layer.kernel[1]
            padded = np.full((len(images), max(rows, top + layer.size[0]), max(columns, left + layer.size[1]),
                              layer.channels), layer.x_zero, np.int8)
            padded[:, top:top + layer.size[0], left:left + layer.size[1]] = images
            images = padded[:, :rows, :columns]
        if self.fold == "yx":
            taps = (np.arange(h)[:, None] * layer.strides[0] + np.arange(layer.kernel[0]) * layer.dilations[0])
            images = images[:, taps].transpose(0, 1, 3, 2, 4)       # [N, h, columns, kernel y, C]
        return np.ascontiguousarray(images).reshape(len(images), -1)

    # The output.

    @property
    def blocks(self) -> int:
        """Blocks of output channels, as many as there are array columns in each."""
        return ceil_div(self.layer.out_channels, self.config.columns)

    @cached_property
    def block_results(self) -> int:
        """Lines of a block's results at one place."""
        return element_lines(self.config, self.layer.element)

    @property
    def place_lines(self) -> int:
        """Lines of all results at one place."""
        return self.blocks * self.block_results

    @property
    def out_lines(self) -> int:
        return self.layer.out_size[0] * self.layer.out_size[1] * self.place_lines

    def conv_rect(self, out: Rect) -> Rect:
        """What of the convolution the pooling windows of `out` cover."""
        return covered(self.layer.pool, self.layer.conv_size, out)

    def conv_bound(self, axis: int, count: int) -> int:
        """At most so many pixels of the convolution are needed for `count` outputs along an axis."""
        return bound(self.layer.pool, self.layer.conv_size, axis, count)

    def conv_pixels(self, height: int, width: int) -> int:
        """At most so many accumulator lines are needed for `height` x `width` outputs."""
        return self.conv_bound(0, height) * self.conv_bound(1, width)

    def tiles(self, fits: Callable[[int, int], bool]) -> list[Rect] | None:
        """Even parts of the output, as large as `fits(h, w)` allows; None if not even one pixel fits."""
        height, width = self.layer.out_size
        for h_parts, w_parts in _cuts(height, width):
            h, w = ceil_div(height, h_parts), ceil_div(width, w_parts)
            if fits(h, w):
                return [Rect(y, x, rows, columns)
                        for y, rows in split(height, h) for x, columns in split(width, w)]
        return None

    def tiles_within(self, lines: int) -> list[Rect] | None:
        """Even parts of the output, each of which needs at most so many accumulator lines."""
        return self.tiles(lambda h, w: self.conv_pixels(h, w) <= lines)

    # Weights and parameters.

    @cached_property
    def kept(self) -> list[list[tuple[int, int, int, int]]]:
        """For each block of output channels its weight tiles: part of the weights, y, x, segment of the input.

        Segments that a block's weights are all zero for are left out, as far as they are for every block: of
        depthwise and grouped layers most are.
        """
        config, (ky, kx) = self.config, self.kernel
        used = []
        for part in int8_parts(_folded_weights(self.layer.weights, self.fold)):
            dense = np.zeros((self.segments * config.rows, self.blocks * config.columns), bool)
            dense[:self.channels, :self.layer.out_channels] = part.any((0, 1))
            used.append(dense.reshape(self.segments, config.rows, self.blocks, config.columns).any((1, 3)))
        wanted = np.concatenate(used).T                                 # [blocks, parts * segments]
        count = max(1, int(wanted.sum(1).max()))
        if count == wanted.shape[1]:
            return [[(part, y, x, segment) for part in range(len(used)) for y in range(ky) for x in range(kx)
                     for segment in range(self.segments)]] * self.blocks
        first = np.argsort(~wanted, axis=1, kind="stable")[:, :count]   # all that is wanted, and zeros to fill up
        return [[(part, y, x, segment)
                 for part in range(len(used)) for y in range(ky) for x in range(kx)
                 for segment in sorted(row[row // self.segments == part] % self.segments)]
                for row in first]

    @property
    def weight_tiles(self) -> int:
        """Weight tiles per block of output channels."""
        return len(self.kept[0])

    def product_cycles(self, pixels: int) -> int:
        """MATMUL cycles of a block of output channels: for each weight tile at least those of its rows."""
        return self.weight_tiles * max(pixels, self.config.rows)

    @property
    def param_lines(self) -> int:
        return column_parameters(self.config, bias=True, scale=True)

    @property
    def block_lines(self) -> int:
        """Lines of one block of output channels: weight tiles, bias, scale."""
        return self.weight_tiles * self.config.rows + self.param_lines

    @property
    def weight_lines(self) -> int:
        return self.blocks * self.block_lines

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as the model has them."""
        return self.layer.weights.size

    @property
    def constant_bytes(self) -> int:
        """Bytes of weights, biases and scales that any chip would have to read."""
        return self.weight_bytes + 8 * self.layer.out_channels

    def packed(self, out: np.ndarray | None = None) -> np.ndarray:
        """Weights and parameters of all blocks as lines, uint8 [weight_lines, line_bytes]; `out`, if given, is as
        many zeros, and becomes these."""
        config, layer = self.config, self.layer
        outputs = self.blocks * config.columns
        parts = int8_parts(_folded_weights(layer.weights, self.fold))       # [ky, kx, channels, outputs] each
        shape = self.blocks, self.block_lines, config.line_bytes
        packed = np.zeros(shape, np.uint8) if out is None else out.reshape(shape)
        tiles = self.weight_tiles * config.rows
        for block, kept in enumerate(self.kept):
            first = block * config.columns
            padded = np.zeros((len(parts), *self.kernel, self.segments * config.rows, config.columns), np.int8)
            for number, part in enumerate(parts):
                here = part[..., first:first + config.columns]
                padded[number, :, :, :self.channels, :here.shape[-1]] = here
            rows = padded.reshape(len(parts), *self.kernel, self.segments, config.rows, config.columns)
            lines = rows if rows[..., 0].size == tiles else rows[tuple(np.array(kept).T)]
            packed[block, :tiles, :config.columns] = lines.reshape(tiles, config.columns).view(np.uint8)
        half = self.param_lines // 2
        for first, values in ((tiles, layer.bias), (tiles + half, layer.scale)):
            row = np.zeros(outputs, values.dtype)
            row[:layer.out_channels] = values
            parameters = packed[:, first:first + half].reshape(self.blocks, -1)
            parameters[:, :4 * config.columns] = row.view(np.uint8).reshape(self.blocks, -1)
            packed[:, first:first + half] = parameters.reshape(self.blocks, half, config.line_bytes)
        return packed.reshape(-1, config.line_bytes)


def plan_layer(config: ChipConfig, layer: Layer, from_host: bool, source: Strides | None = None,
               target: Strides | None = None) -> ConvPlan:
    """The plan with the fewest weight tiles; only an input that the host arranges can be folded.

    Without `source` or `target`, input or output are alone in their memory.
    """
    (ky, kx), (sy, sx), (h, w) = layer.kernel, layer.strides, layer.conv_size
    c, element_bytes = layer.channels, np.dtype(layer.element).itemsize
    out = target or Strides.dense(layer.out_channels * element_bytes, layer.out_size)
    plain = ConvPlan(config, layer, "", c, layer.size, layer.kernel, layer.strides, layer.dilations, layer.pads,
                     source or Strides.dense(c, layer.size), out)
    plans = [plain]
    if from_host and layer.dilations[1] == 1:
        rows = (h - 1) * sy + (ky - 1) * layer.dilations[0] + 1
        columns = (w - 1) * sx + kx
        plans.append(ConvPlan(config, layer, "x", kx * c, (rows, w), (ky, 1), (sy, 1), (layer.dilations[0], 1),
                              (0, 0), Strides(sx * c, columns * c, rows * columns * c), out))
        plans.append(ConvPlan(config, layer, "yx", kx * ky * c, (h, w), (1, 1), (1, 1), (1, 1), (0, 0),
                              Strides(sx * ky * c, columns * ky * c, h * columns * ky * c), out))
    return min(plans, key=lambda plan: plan.weight_tiles)       # the first, and so the plainest, of equals


def _folded_weights(weights: np.ndarray, fold: str) -> np.ndarray:
    """[outputs, channels, ky, kx] as [ky, kx, channels, outputs] of the folded layer."""
    outputs, channels, ky, kx = weights.shape
    if fold == "yx":
        return weights.transpose(3, 2, 1, 0).reshape(1, 1, kx * ky * channels, outputs)
    if fold == "x":
        return weights.transpose(2, 3, 1, 0).reshape(ky, 1, kx * channels, outputs)
    return weights.transpose(2, 3, 1, 0)


def _cuts(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Numbers of parts in y and x to try: whole rows first."""
    for parts in range(1, height + 1):
        yield parts, 1
    for parts in range(2, width + 1):
        yield height, parts
