"""What MATMUL reads: the vectors of A and the rows of the weight tiles, of one instruction after the other."""

from typing import NamedTuple

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..formats import FORMATS, MAX_BLOCK
from ..isa import LEVELS, Unit
from ..layouts import unit_layout
from ..lib.loop_nest import LoopNest, Pointer
from ..lib.stream import RegisterSlice
from .blocks import Blocks
from .items import Vector, WeightRow

__all__ = ["ActivationAddressGenerator", "WeightAddressGenerator"]

#: Levels 2 and 3 go from one weight tile to the next.
WEIGHTS_LEVEL = 2


class _Walk(NamedTuple):
    """What the loops of an address generator and its items have in common."""
    nest: LoopNest
    #: The register that the next item goes to.
    item: data.View
    #: It takes an item; and there is one.
    room: Signal
    advance: Signal
    #: The item is not the loop nest's, which waits for it.
    extra: Signal


class _AddressGenerator(wiring.Component):
    """Takes instructions and makes a stream of items of each, with a cycle in between.

    An item passes loop nest and pointers, a register behind the range checks, and a register slice: it
    appears on `o` three cycles after `i` took its instruction, and then one in each cycle. An instruction enables
    the registers of its strides, counts and fields, hundreds of bits, so that must not wait for `i.valid`: while
    the generator is idle they take whatever is there. `i.ready` is a register.

    Members
    -------
    i : In(stream)
        Instructions.
    o : Out(stream)
        Items, in order. They go on after one with an error, without meaning.
    abort : In(1)
        Drop everything, in three cycles.
    busy : Out(1)
        There is something to drop.
    """

    def __init__(self, config: ChipConfig, item, levels: int):
        self.config = config
        self._item = item
        self._levels = levels
        super().__init__({
            "i": In(stream.Signature(unit_layout(Unit.MATMUL))),
            "o": Out(stream.Signature(item)),
            "abort": In(1),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.nest = nest = LoopNest(self._levels)
        m.submodules.register_slice = register_slice = RegisterSlice(self._item)
        active, valid = Signal(), Signal()
        room, advance, extra = Signal(), Signal(), Signal()
        item = Signal(self._item, reset_less=True)
        m.d.comb += [
            room.eq(~valid | register_slice.i.ready),
            self.i.ready.eq(~active),
            nest.load.eq(~active),
            nest.advance.eq(~active | (room & ~extra)),
            advance.eq(active & room),
            register_slice.i.valid.eq(valid),
            register_slice.i.payload.eq(item),
            self.o.valid.eq(register_slice.o.valid),
            self.o.payload.eq(register_slice.o.payload),
            register_slice.o.ready.eq(self.o.ready | self.abort),
            self.busy.eq(active | valid | register_slice.o.valid),
        ]
        with m.If(~active):
            m.d.sync += active.eq(self.i.valid)
        with m.Elif(nest.advance & nest.done):
            m.d.sync += active.eq(0)
        with m.If(room):
            m.d.sync += valid.eq(active)
        with m.If(self.abort):
            m.d.sync += [active.eq(0), valid.eq(0)]
        self._generate(m, _Walk(nest, item, room, advance, extra))
        return m

    def _generate(self, m, walk):
        """Drive the loop nest's counts, and `walk.item` with `walk.room`."""
        raise NotImplementedError

    def _held(self, m, name, value):
        """`value`, computed from the instruction that comes, as a register while it runs."""
        held = Signal.like(value, name=name, reset_less=True)
        with m.If(self.i.ready):
            m.d.sync += held.eq(value)
        return held

    def _pointer(self, m, nest, name, base, strides, carry=None):
        """A pointer that goes from the coming instruction's `base` with the loop nest; returns its value."""
        m.submodules[name] = pointer = Pointer(len(strides))
        carries = nest.carry if carry is None else Cat(carry)
        m.d.comb += [
            pointer.load.eq(nest.load),
            pointer.base.eq(base),
            pointer.advance.eq(nest.advance),
            pointer.carry.eq(carries & ~nest.load.replicate(len(strides))),
        ]
        for level, stride in enumerate(strides):
            if isinstance(stride, int):
                m.d.comb += pointer.strides[level].eq(stride)
            else:
                m.d.comb += pointer.strides[level].eq(self._held(m, f"{name}_stride{level}", stride))
        return pointer.value

    def _blocks(self, m, nest, level):
        """Follows the scale blocks, whose weight tiles the loop nest's `level` counts."""
        m.submodules.blocks = blocks = Blocks()
        m.d.comb += [
            blocks.load.eq(self.i.ready), blocks.size.eq(self.i.p.block_tiles),
            blocks.advance.eq(nest.advance & nest.carry[level]),
            blocks.restart.eq(nest.advance & nest.carry[level + 1]),
            blocks.last.eq(nest.last[level]),
        ]
        return blocks


class ActivationAddressGenerator(_AddressGenerator):
    """The vectors of A: all four levels."""

    def __init__(self, config: ChipConfig):
        super().__init__(config, Vector(config), LEVELS)

    def _generate(self, m, walk):
        fields, nest, vector = self.i.p, walk.nest, walk.item
        counts, a_strides, acc_strides = ([fields[f"{name}{level}"] for level in range(LEVELS)]
                                          for name in ("count", "a_stride", "acc_stride"))
        m.d.comb += [port.eq(count) for port, count in zip(nest.counts, counts, strict=True)]
        line = self._pointer(m, nest, "a", fields.a_line, a_strides)
        acc = self._pointer(m, nest, "acc", fields.acc_line, acc_strides)
        index = self._held(m, "index", fields.index)
        accumulate = self._held(m, "accumulate", fields.accumulate)
        no_field, value = (self._held(m, name, found)
                           for name, found in zip(("no_field", "value"), self._check(m, counts), strict=True))
        reduces = self._held(m, "reduces", Cat(*(stride == 0 for stride in acc_strides)))
        format_ = self._held(m, "format", fields.a_format)
        first, no_scale = nest.first, Const(0, 1)
        if self.config.block_scaled:
            first, no_scale = self._generate_scales(m, walk)
        no_line = _outside(line, self.config.scratchpad_lines)
        no_acc = _outside(acc, self.config.accumulator_lines)
        with m.If(walk.room):
            m.d.sync += [
                vector.line.eq(line),
                vector.acc.eq(acc),
                vector.format.eq(format_),
                vector.add.eq(accumulate | (reduces & ~first).any()),
                vector.swap.eq(nest.first[:WEIGHTS_LEVEL].all()),
                vector.last.eq(nest.done),
                vector.index.eq(index),
                vector.no_field.eq(no_field),
                vector.value.eq(value),
                vector.no_line.eq(no_line),
                vector.no_acc.eq(no_acc),
                vector.bad.eq(no_field | no_line | no_acc | no_scale),
            ]

    def _check(self, m, counts):
        """Whether a field of the coming instruction has no meaning for this chip, and its value."""
        fields, config = self.i.p, self.config
        # A block of more elements than the largest could overflow its sum.
        no_block = (fields.block_tiles == 0) | (fields.block_tiles > MAX_BLOCK // config.rows)
        found, value = Signal(name="found"), Signal(8, name="found_value")
        with m.If(Cat(*(count == 0 for count in counts)).any()):
            m.d.comb += found.eq(1)
        for operand in (fields.a_format, fields.w_format):
            with m.Elif(~_is_in(operand, config.formats) | (_is_float(operand) & ~fields.scaled)):
                m.d.comb += [found.eq(1), value.eq(operand)]
        with m.Elif(fields.scaled & (no_block if config.block_scaled else 1)):
            m.d.comb += [found.eq(1), value.eq(fields.block_tiles)]
        return found, value

    def _generate_scales(self, m, walk):
        """A byte of a scale line for each vector of a block's last weight tile.

        Returns which levels are in their first (in the first block, all of level 2 is), and whether a scale line
        is to be fetched that does not exist.
        """
        fields, nest, vector = self.i.p, walk.nest, walk.item
        blocks = self._blocks(m, nest, WEIGHTS_LEVEL)
        scaled = self._held(m, "scaled", fields.scaled)
        exponent = self._held(m, "exponent", _exponent(fields.a_format) + _exponent(fields.w_format))
        byte = Signal(range(self.config.line_bytes))
        line = self._pointer(
            m, nest, "scale", fields.a_scale_line, (1, fields.a_scale_stride2, fields.a_scale_stride3),
            [nest.carry[:WEIGHTS_LEVEL].any() & byte.all() & blocks.end,
             nest.carry[2] & blocks.end, nest.carry[3]])
        fetch = scaled & blocks.end & (byte == 0)
        no_scale = _outside(line, self.config.scratchpad_lines)
        with m.If(nest.advance):
            m.d.sync += byte.eq(Mux(nest.load | nest.carry[WEIGHTS_LEVEL:].any(), 0, byte + 1))
        with m.If(walk.room):
            m.d.sync += [
                vector.scaled.eq(scaled), vector.begin.eq(blocks.begin), vector.end.eq(blocks.end),
                vector.exponent.eq(exponent), vector.scale_line.eq(line), vector.scale_byte.eq(byte),
                vector.fetch.eq(fetch),
                vector.no_scale.eq(no_scale),
            ]
        first = Cat(nest.first[:WEIGHTS_LEVEL], Mux(scaled, blocks.first, nest.first[2]), nest.first[3])
        return first, fetch & no_scale


class WeightAddressGenerator(_AddressGenerator):
    """The rows of the weight tiles: levels 2 and 3, and below them the rows of a weight tile, one line each."""

    def __init__(self, config: ChipConfig):
        super().__init__(config, WeightRow(config), 1 + LEVELS - WEIGHTS_LEVEL)

    def _generate(self, m, walk):
        fields, nest, item = self.i.p, walk.nest, walk.item
        m.d.comb += [port.eq(count) for port, count in
                     zip(nest.counts, (self.config.rows, fields.count2, fields.count3), strict=True)]
        line = self._pointer(m, nest, "w", fields.w_line, (1, fields.w_stride2, fields.w_stride3))
        row = Signal(range(self.config.rows))
        with m.If(nest.advance):
            m.d.sync += row.eq(Mux(nest.load | nest.last[0], 0, row + 1))
        format_ = self._held(m, "format", fields.w_format)
        ahead = 0
        if self.config.block_scaled:
            ahead, line = self._generate_scales(m, walk, line)
            with m.If(walk.room):
                m.d.sync += item.scale.eq(walk.extra)
        with m.If(walk.room):
            m.d.sync += [
                item.line.eq(line),
                item.row.eq(row),
                item.format.eq(format_),
                item.first.eq(nest.first[0] & ~ahead),
                item.last.eq(nest.last[0] & ~walk.extra),
                item.no_line.eq(_outside(line, self.config.scratchpad_lines)),
            ]

    def _generate_scales(self, m, walk, line):
        """A scale line ahead of a block's last weight tile: whether it has gone ahead, and the line to read."""
        fields, nest = self.i.p, walk.nest
        blocks = self._blocks(m, nest, 1)
        scaled = self._held(m, "scaled", fields.scaled)
        strides = (fields.w_scale_stride2, fields.w_scale_stride3)
        scale = self._pointer(m, nest, "scale", fields.w_scale_line, strides,
                              [nest.carry[1] & blocks.end, nest.carry[2]])
        ahead = Signal()
        m.d.comb += walk.extra.eq(scaled & blocks.end & nest.first[0] & ~ahead)
        with m.If(walk.advance):
            m.d.sync += ahead.eq(walk.extra)
        with m.If(self.i.ready):
            m.d.sync += ahead.eq(0)
        return ahead, Mux(walk.extra, scale, line)


def _outside(line, lines):
    """Whether `line`, signed, is not one of `lines`, a power of two."""
    return line[lines.bit_length() - 1:].any()


def _is_in(code, names):
    """Whether the element format is one of those named."""
    return Cat(code == FORMATS[name].code for name in names).any()


def _is_float(code):
    return _is_in(code, [name for name, item in FORMATS.items() if item.is_float])


def _exponent(code):
    """The power of two of a significand of 1: a small table."""
    value = Const(0, signed(5))
    for item in FORMATS.values():
        value = Mux(code == item.code, Const(item.exponent, signed(5)), value)
    return value
