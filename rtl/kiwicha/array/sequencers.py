"""What MATMUL reads: the vectors of A and the rows of the weight tiles, of one instruction after the other."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, LEVELS, Unit, unit_layout
from ..memory.walker import POINTER_WIDTH, LoopNest, Pointer
from ..stream import Skid

__all__ = ["Vector", "VectorSequencer", "WeightRow", "WeightSequencer"]

#: Levels 2 and 3 go from one weight tile to the next.
TILE_LEVEL = 2


class Vector(data.Struct):
    """One vector of A, and where its products go."""
    line: signed(POINTER_WIDTH)     #: scratchpad line
    acc: signed(POINTER_WIDTH)      #: accumulator line
    add: 1                          #: add to the accumulators, rather than replace them
    swap: 1                         #: the first of a tile
    last: 1                         #: the last of its instruction
    index: INDEX_WIDTH              #: of its instruction
    no_count: 1                     #: its instruction has a zero count
    no_line: 1                      #: there is no such scratchpad line
    no_acc: 1                       #: there is no such accumulator line
    bad: 1                          #: any of these three


def WeightRow(config: ChipConfig) -> data.StructLayout:
    """One row of a weight tile: its scratchpad line, and whether there is no such line."""
    return data.StructLayout({
        "line": signed(POINTER_WIDTH),
        "row": range(config.rows),
        "first": 1,
        "last": 1,
        "no_line": 1,
    })


class _Sequencer(wiring.Component):
    """Takes instructions and makes a stream of items of each, without a bubble from one to the next.

    An item passes loop nest and pointers, a register behind the range checks, and a register slice: it
    appears on `o` three cycles after `i` took its instruction, and then one in each cycle. `i.ready` depends
    on registers only.

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
        m.submodules.nest = self._nest = nest = LoopNest(self._levels)
        m.submodules.skid = skid = Skid(self._item)
        active, valid = Signal(), Signal()
        self._room = room = Signal()        # the register in front of the slice takes an item
        final = ~active | nest.done
        self._item_now = Signal(self._item, reset_less=True)
        m.d.comb += [
            room.eq(~valid | skid.i.ready),
            # Without an instruction, what is loaded does not matter.
            nest.step.eq(~active | room),
            nest.load.eq(final),
            self.i.ready.eq(nest.step & final),
            skid.i.valid.eq(valid),
            skid.i.payload.eq(self._item_now),
            self.o.valid.eq(skid.o.valid),
            self.o.payload.eq(skid.o.payload),
            skid.o.ready.eq(self.o.ready | self.abort),
            self.busy.eq(active | valid | skid.o.valid),
        ]
        with m.If(self.i.ready):
            m.d.sync += active.eq(self.i.valid)
        with m.If(room):
            m.d.sync += valid.eq(active)
        with m.If(self.abort):
            m.d.sync += [active.eq(0), valid.eq(0)]
        self._walk(m)
        return m

    def _walk(self, m):
        raise NotImplementedError

    def _held(self, m, name, value):
        """`value`, computed from the instruction that comes, as a register while it runs."""
        held = Signal.like(value, name=name, reset_less=True)
        with m.If(self.i.ready):
            m.d.sync += held.eq(value)
        return held

    def _pointer(self, m, name, base, strides):
        """A pointer that follows the loop nest from the coming instruction's `base`; returns its value."""
        m.submodules[name] = pointer = Pointer(self._levels)
        m.d.comb += [
            pointer.load.eq(self._nest.load),
            pointer.base.eq(base),
            pointer.step.eq(self._nest.step),
            pointer.carry.eq(self._nest.carry),
        ]
        for level, stride in enumerate(strides):
            if isinstance(stride, int):
                m.d.comb += pointer.strides[level].eq(stride)
            else:
                m.d.comb += pointer.strides[level].eq(self._held(m, f"{name}_stride{level}", stride))
        return pointer.value


class VectorSequencer(_Sequencer):
    """The vectors of A: all four levels."""

    def __init__(self, config: ChipConfig):
        super().__init__(config, Vector, LEVELS)

    def _walk(self, m):
        fields, nest, vector = self.i.p, self._nest, self._item_now
        counts, a_strides, acc_strides = ([fields[f"{name}{level}"] for level in range(LEVELS)]
                                          for name in ("count", "a_stride", "acc_stride"))
        m.d.comb += [port.eq(count) for port, count in zip(nest.counts, counts, strict=True)]
        line = self._pointer(m, "a", fields.a_line, a_strides)
        acc = self._pointer(m, "acc", fields.acc_line, acc_strides)
        index = self._held(m, "index", fields.index)
        accumulate = self._held(m, "accumulate", fields.accumulate)
        no_count = self._held(m, "no_count", Cat(*(count == 0 for count in counts)).any())
        reduces = self._held(m, "reduces", Cat(*(stride == 0 for stride in acc_strides)))
        no_line = _outside(line, self.config.scratchpad_lines)
        no_acc = _outside(acc, self.config.accumulator_lines)
        with m.If(self._room):
            m.d.sync += [
                vector.line.eq(line),
                vector.acc.eq(acc),
                vector.add.eq(accumulate | (reduces & ~nest.first).any()),
                vector.swap.eq(nest.first[:TILE_LEVEL].all()),
                vector.last.eq(nest.done),
                vector.index.eq(index),
                vector.no_count.eq(no_count),
                vector.no_line.eq(no_line),
                vector.no_acc.eq(no_acc),
                vector.bad.eq(no_count | no_line | no_acc),
            ]


class WeightSequencer(_Sequencer):
    """The rows of the weight tiles: levels 2 and 3, and below them the rows of a tile, one line each."""

    def __init__(self, config: ChipConfig):
        super().__init__(config, WeightRow(config), 1 + LEVELS - TILE_LEVEL)

    def _walk(self, m):
        fields, nest, item = self.i.p, self._nest, self._item_now
        m.d.comb += [port.eq(count) for port, count in
                     zip(nest.counts, (self.config.rows, fields.count2, fields.count3), strict=True)]
        line = self._pointer(m, "w", fields.w_line, (1, fields.w_stride2, fields.w_stride3))
        row = Signal(range(self.config.rows))
        with m.If(nest.step):
            m.d.sync += row.eq(Mux(nest.load | nest.last[0], 0, row + 1))
        with m.If(self._room):
            m.d.sync += [
                item.line.eq(line),
                item.row.eq(row),
                item.first.eq(nest.first[0]),
                item.last.eq(nest.last[0]),
                item.no_line.eq(_outside(line, self.config.scratchpad_lines)),
            ]


def _outside(line, lines):
    """Whether `line`, signed, is not one of `lines`, a power of two."""
    return line[lines.bit_length() - 1:].any()
