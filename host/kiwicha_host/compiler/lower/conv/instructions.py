"""Instructions of a convolution: transfers between memory and scratchpad, products, epilogues."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import ScaleMode, Unit

from ...program.loops import Dim, nests, reductions
from ..emitter import Emitter, result_fields, transfer, transfer_channels
from ..geometry import Rect, Window, windows
from .plan import ConvPlan

__all__ = ["Accumulators", "Place", "Weights", "epilogue", "load_input", "pad_input", "store_output", "unit"]


@dataclass(frozen=True)
class Place:
    """Where images are in the scratchpad: `width` pixels a row, `stride` lines from one image to the next.

    `keys` are the buffers, one per image.
    """
    line: int
    width: int
    stride: int
    keys: tuple[Hashable, ...]

    def shifted(self, lines: int) -> "Place":
        return Place(self.line + lines, self.width, self.stride, self.keys)

    def images(self, first: int, count: int) -> "Place":
        return Place(self.line + first * self.stride, self.width, self.stride, self.keys[first:first + count])


@dataclass(frozen=True)
class Weights:
    """`tiles` weight tiles from number `first` of a block, at `line`, and the buffer they are in."""
    line: int
    first: int
    tiles: int
    key: Hashable


class Accumulators:
    """Slots for results, in turn in the two halves: one is read while the other is written."""

    def __init__(self, config: ChipConfig, size: int):
        self._half = config.accumulator_lines // 2
        self._size = size
        self.slots = 2 * (self._half // size)
        self._next = 0

    def take(self) -> tuple[int, Hashable]:
        """First line and buffer of the next slot."""
        index, self._next = self._next, (self._next + 1) % self.slots
        return self.slot(index)

    def slot(self, index: int) -> tuple[int, Hashable]:
        """First line and buffer of a slot."""
        return index % 2 * self._half + index // 2 * self._size, ("acc", self._half, self._size, index)


def load_input(emitter: Emitter, plan: ConvPlan, address: int, place: Place, region: Rect) -> None:
    """Bring `region` of the padded input of images that follow each other from `address` on; not its padding."""
    y, x, h, w = _inside(plan, region)
    if not (h and w):
        return
    memory = address + (y - plan.pads[0]) * plan.source.y + (x - plan.pads[1]) * plan.source.x
    segments = plan.segments
    line = place.line + ((y - region.y) * place.width + x - region.x) * segments
    transfer(emitter, Unit.LOAD, memory, line, place.keys, plan.channels, plan.config.rows, [
        (w, (plan.source.x, segments)), (h, (plan.source.y, place.width * segments)),
        (len(place.keys), (plan.source.image, place.stride))])


def store_output(emitter: Emitter, plan: ConvPlan, address: int, place: Place, region: Rect,
                 blocks: tuple[int, int] | None = None) -> None:
    """Write `region` of the output of images that follow each other from `address` on.

    `blocks` are the first and the number of the blocks of channels to write; None for all.
    """
    first, count = blocks or (0, plan.blocks)
    apart, columns, element = plan.target, plan.config.columns, plan.layer.element
    channels = min(plan.layer.out_channels, (first + count) * columns) - first * columns
    memory = (address + region.y * apart.y + region.x * apart.x
              + first * columns * np.dtype(element).itemsize)
    transfer_channels(
        emitter, Unit.STORE, plan.config, memory, place.line + first * plan.block_results, place.keys, channels,
        element, [(region.w, (apart.x, plan.place_lines)), (region.h, (apart.y, place.width * plan.place_lines)),
                  (len(place.keys), (apart.image, place.stride))])


def _inside(plan: ConvPlan, region: Rect) -> tuple[int, int, int, int]:
    """What of `region` of the padded input is no padding: y, x, h, w."""
    spans = []
    for axis, first, count in ((0, region.y, region.h), (1, region.x, region.w)):
        low, high = max(first, plan.pads[axis]), min(first + count, plan.pads[axis] + plan.size[axis])
        spans.append((low, max(0, high - low)))
    (y, h), (x, w) = spans
    return y, x, h, w


def pad_input(emitter: Emitter, plan: ConvPlan, place: Place, region: Rect) -> None:
    """Write the zero point to what of `region` is padding."""
    y, x, h, w = _inside(plan, region)
    if not (h and w):
        strips = [region]
    else:
        bottom, right = region.y + region.h, region.x + region.w
        strips = [Rect(region.y, region.x, y - region.y, region.w),
                  Rect(y + h, region.x, bottom - y - h, region.w),
                  Rect(y, region.x, h, x - region.x), Rect(y, x + w, h, right - x - w)]
    for strip in strips:
        if not strip.size:
            continue
        line = place.line + ((strip.y - region.y) * place.width + strip.x - region.x) * plan.segments
        dims = [(strip.w * plan.segments, (1,)), (strip.h, (place.width * plan.segments,)),
                (len(place.keys), (place.stride,))]
        for nest in nests(dims, 3):
            (segments, (segment_lines,)), (rows, (row_lines,)), (planes, (plane_lines,)) = nest.dims
            emitter.add(Unit.LOAD, writes=place.keys, fill_only=1, fill=plan.layer.x_zero & 0xFF, segment_bytes=1,
                        address=0, row_bytes=segments, rows=rows, planes=planes, line=line + nest.offsets[0],
                        segment_line_stride=segment_lines, row_line_stride=row_lines,
                        plane_line_stride=plane_lines)


def unit(emitter: Emitter, plan: ConvPlan, source: Place, block: int, part: Weights,
         slot: tuple[int, Hashable], out: Rect) -> None:
    """Products of output channels' `block` for `out`, all images of `source`, into an accumulator slot.

    `source.line` is the first line of the input region that the convolution of `out` needs.
    """
    conv = plan.conv_rect(out)
    offsets = plan.offsets(source.width, block)
    rows, (acc_line, acc_key) = plan.config.rows, slot
    (sy, sx), segments = plan.strides, plan.segments
    pixels = [(conv.w, (sx * segments, 1)), (conv.h, (sy * source.width * segments, conv.w)),
              (len(source.keys), (source.stride, conv.size))]
    for first, reduction in reductions(offsets[part.first:part.first + part.tiles]):
        inner = reduction.dims[0][0]
        for pixel in nests(pixels, 2):
            emitter.add(
                Unit.MATMUL, reads=[*source.keys, part.key], writes=[acc_key],
                accumulate=int(part.first + first > 0),
                a_line=source.line + reduction.offsets[0] + pixel.offsets[0],
                w_line=part.line + first * rows, w_stride2=rows, w_stride3=inner * rows,
                acc_line=acc_line + pixel.offsets[1], **pixel.counts((0, 1)), **reduction.counts((2, 3)),
                **pixel.fields("a_stride", 0, (0, 1)), **reduction.fields("a_stride", 0, (2, 3)),
                **pixel.fields("acc_stride", 1, (0, 1)))


def epilogue(emitter: Emitter, plan: ConvPlan, params: tuple[int, Hashable], slot: tuple[int, Hashable],
             target: Place, out: Rect, lines: int) -> None:
    """Results of one block of output channels: scaled, clamped, pooled, to `target`, whose line is `out`'s first.

    `lines` is the number of lines per pixel of `target`.
    """
    layer, conv, images = plan.layer, plan.conv_rect(out), len(target.keys)
    scale_mode = ScaleMode.NONE if layer.element == "int32" else ScaleMode.COLUMN
    common = {"bias": 1, "scale_mode": scale_mode, "param_line": params[0], **result_fields(layer)}
    for y in windows(layer.pool, layer.conv_size, 0, out.y, out.h):
        for x in windows(layer.pool, layer.conv_size, 1, out.x, out.w):
            pixels = _pixels(conv, out, y, x, target, lines, images)
            for nest in nests(pixels, 2):
                acc = (y.start - conv.y) * conv.w + x.start - conv.x
                line = ((y.first - out.y) * target.width + x.first - out.x) * lines
                emitter.add(
                    Unit.VECTOR, reads=[slot[1], params[1]], writes=target.keys,
                    a_line=slot[0] + acc + nest.offsets[0], out_line=target.line + line + nest.offsets[1],
                    count0=x.taps, a_stride0=x.tap_step, count1=y.taps, a_stride1=y.tap_step * conv.w,
                    **nest.counts((2, 3)), **nest.fields("a_stride", 0, (2, 3)),
                    **nest.fields("out_stride", 1, (2, 3)), **common)


def _pixels(conv: Rect, out: Rect, y: Window, x: Window, target: Place, lines: int, images: int) -> list[Dim]:
    return [(x.count, (x.step, lines)), (y.count, (y.step * conv.w, target.width * lines)),
            (images, (conv.size, target.stride))]
