"""The head of a DMA unit: checks a transfer's fields and makes a descriptor of it for each of its two sides."""

from typing import NamedTuple

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.hdl import Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, Unit
from ..layouts import unit_layout
from .index import IndexedAddress, IndexPort

__all__ = ["OpenInstructions", "RUN_WIDTH", "Transfer", "run_descriptor", "segment_descriptor"]

#: Bits of a run's length: 24 bits of row_bytes times 16 bits of rows.
RUN_WIDTH = 40


def run_descriptor() -> data.StructLayout:
    """A transfer's memory side: `planes` times `runs` runs of `length` + 1 consecutive bytes.

    `bad` marks an instruction that ends in an error before its first byte, `beyond` an address that has
    bits above the bus's address width.
    """
    return data.StructLayout({
        "address": 64, "length": RUN_WIDTH, "runs": 16, "planes": 16, "row_stride": signed(32),
        "plane_stride": signed(32), "index": INDEX_WIDTH, "bad": 1, "beyond": 1})


def segment_descriptor(config: ChipConfig) -> data.StructLayout:
    """A transfer's scratchpad side: rows with `behind` + 1 bytes after their first segment, or none if negative.

    `first`: bytes that the first segment takes from memory. With `bad` it is one segment, and `line` the value of
    the field at fault; or, with `wrong` too, its index is, and Transfer.wrong_index the value. Where the index has
    no line, it is one segment in that line.
    """
    return data.StructLayout({
        "segment_bytes": 8, "first": 8, "behind": signed(25), "rows": 16, "planes": 16, "line": 16,
        "strides": data.ArrayLayout(signed(16), 3), "fill": 8, "fill_only": 1,
        "index": INDEX_WIDTH, "bad": 1, **({"wrong": 1} if config.indices else {})})


class Transfer(wiring.Component):
    """Takes LOAD or STORE instructions, hands each to the burst generator and to the segment generator.

    Rows that follow one another without a gap become one run per plane, so that short rows make long bursts.
    The length of such a run is a product; it is formed by shift and add, since multipliers are for the array.

    Latency 3 cycles, plus one per bit of `rows` beyond the first for contiguous rows, plus that of
    :class:`.IndexedAddress` for an index; one instruction at a time.

    Errors: FIELD (`bad`): address 0 if row_bytes, rows, planes, segment_bytes or, if it is `indexed`, index_bound
    is 0, else segment_bytes if that is more than a line, else 1 if it is `indexed` and must not be, else
    index_word if a line has no such word. SCRATCHPAD_RANGE: index_line. INDEX (`bad` and `wrong`): then nothing
    more is done, until reset.

    Members
    -------
    i : In(stream of unit_layout(unit))
    runs : Out(stream of run_descriptor())
        Nothing for a good instruction with `fill_only`.
    segments : Out(stream of segment_descriptor())
    index : Out(IndexPort), indexing : Out(1), wrong_index : Out(32)
        Only in a chip with `indices`. `indexing`: an index is read, or multiplied.
    """

    def __init__(self, config: ChipConfig, unit: Unit):
        self.config = config
        self.unit = unit
        super().__init__({
            "i": In(stream.Signature(unit_layout(unit))),
            "runs": Out(stream.Signature(run_descriptor())),
            "segments": Out(stream.Signature(segment_descriptor(config))),
            **({"index": Out(IndexPort(config)), "indexing": Out(1), "wrong_index": Out(32)}
               if config.indices else {}),
        })

    def elaborate(self, platform):
        m = Module()
        fields = Signal(unit_layout(self.unit), reset_less=True)
        found = Signal(data.StructLayout({"zero": 1, "bad": 1, "beyond": 1, "merged": 1}))
        behind = Signal(signed(25), reset_less=True)
        fill_only = fields.fill_only if self.unit is Unit.LOAD else Const(0, 1)
        contiguous = Signal()
        m.submodules.length = length = _RunLength()
        m.d.comb += [
            contiguous.eq(fields.row_stride == fields.row_bytes),
            length.rows.eq(fields.rows), length.row_bytes.eq(fields.row_bytes), length.merged.eq(found.merged),
        ]
        zero, other, value = self._check(fields, fill_only)
        runs_sent, segments_sent = Signal(), Signal()
        # An instruction may come. A register: this enables every bit of the instruction's register.
        takes = Signal(init=1)
        m.d.comb += self.i.ready.eq(takes)
        with m.If(takes):
            m.d.sync += [fields.eq(self.i.payload), takes.eq(~self.i.valid)]
        with m.FSM() as steps:
            with m.State("CHECK"):
                m.d.comb += length.load.eq(1)
                m.d.sync += [
                    found.zero.eq(zero), found.bad.eq(zero | other),
                    found.beyond.eq(fields.address[self.config.address_width:].any()),
                    found.merged.eq(contiguous),
                    behind.eq(fields.row_bytes - fields.segment_bytes - 1),
                    segments_sent.eq(0),
                ]
                with m.If(~takes):
                    m.next = "MULTIPLY"
                    if self.config.indices:
                        with m.If(fields.indexed):
                            m.next = "INDEX"
            begin = self._begin(m, steps, fields, found)
            with m.State("MULTIPLY"):
                m.d.comb += length.advance.eq(1)
                m.d.sync += runs_sent.eq(fill_only & ~found.bad)
                with m.If(length.done):
                    m.next = "SEND"
            with m.State("SEND"):
                runs_done = runs_sent | self.runs.ready
                segments_done = segments_sent | self.segments.ready
                m.d.comb += [self.runs.valid.eq(~runs_sent), self.segments.valid.eq(~segments_sent)]
                m.d.sync += [runs_sent.eq(runs_done), segments_sent.eq(segments_done)]
                with m.If(runs_done & segments_done):
                    m.d.sync += takes.eq(1)
                    m.next = "CHECK"
                    if self.config.indices:
                        with m.If(begin.wrong):
                            m.next = "STOP"
        self._run(m, fields, found, begin, length.o)
        self._segment(m, fields, found, begin, behind, fill_only, Mux(found.zero, 0, value))
        return m

    def _check(self, fields, fill_only):
        """Whether a field is zero that must not be; whether another has no meaning, and the value of the first."""
        zero = Cat(fields[name] == 0 for name in ("row_bytes", "rows", "planes", "segment_bytes")).any()
        over, indexed = fields.segment_bytes > self.config.line_bytes, fields.indexed
        if not self.config.indices:
            return zero, over | indexed, Mux(over, fields.segment_bytes, 1)
        zero |= indexed & (fields.index_bound == 0)
        other = over | (indexed & (fill_only | (fields.index_word >= self.config.line_bytes // 4)))
        return zero, other, Mux(over, fields.segment_bytes, Mux(fill_only, 1, fields.index_word))

    def _begin(self, m, steps, fields, found):
        """Where the transfer begins, and the step in which that is found if it is indexed."""
        if not self.config.indices:
            return _Begin(fields.address, found.beyond, Const(0, 1), Const(0, 1))
        m.submodules.indexed = indexed = IndexedAddress(self.config, self.unit)
        connect(m, indexed.port, flipped(self.index))
        astray = Signal()
        m.d.sync += astray.eq(fields.indexed & (fields.index_line >= self.config.scratchpad_lines))
        m.d.comb += [indexed.load.eq(steps.ongoing("CHECK")), indexed.fields.eq(fields),
                     self.wrong_index.eq(indexed.index)]
        with m.State("INDEX"):
            m.d.comb += [indexed.runs.eq(~found.bad & ~astray), self.indexing.eq(indexed.runs)]
            with m.If(found.bad | astray | indexed.done):
                m.next = "MULTIPLY"
        with m.State("STOP"):
            pass    # until reset: the index has to stay until it is told
        return _Begin(indexed.o, indexed.beyond, astray, indexed.wrong)

    def _run(self, m, fields, found, begin, length):
        run = self.runs.payload
        m.d.comb += [
            run.address.eq(begin.address), run.length.eq(length), run.runs.eq(Mux(found.merged, 1, fields.rows)),
            run.planes.eq(fields.planes),
            run.row_stride.eq(fields.row_stride), run.plane_stride.eq(fields.plane_stride),
            run.index.eq(fields.index), run.bad.eq(found.bad | begin.astray | begin.wrong),
            run.beyond.eq(begin.beyond),
        ]

    def _segment(self, m, fields, found, begin, behind, fill_only, value):
        segment, bad = self.segments.payload, found.bad | begin.wrong
        single = bad | begin.astray
        line = Mux(begin.astray, fields.index_line, fields.line) if self.config.indices else fields.line
        m.d.comb += [
            segment.segment_bytes.eq(fields.segment_bytes),
            segment.behind.eq(behind | single.replicate(len(behind))),
            segment.rows.eq(Mux(single, 1, fields.rows)), segment.planes.eq(Mux(single, 1, fields.planes)),
            segment.first.eq(Mux(fill_only | single, 0, Mux(behind[-1], fields.row_bytes, fields.segment_bytes))),
            segment.line.eq(Mux(found.bad, value, line)),
            segment.strides[0].eq(fields.segment_line_stride), segment.strides[1].eq(fields.row_line_stride),
            segment.strides[2].eq(fields.plane_line_stride),
            segment.fill_only.eq(fill_only), segment.index.eq(fields.index), segment.bad.eq(bad),
        ]
        if self.unit is Unit.LOAD:
            m.d.comb += segment.fill.eq(fields.fill)
        if self.config.indices:
            m.d.comb += segment.wrong.eq(begin.wrong)


class _Begin(NamedTuple):
    """Where a transfer begins; or there is no such line of the index, or the index is wrong."""
    address: Value
    beyond: Value
    astray: Value
    wrong: Value


class _RunLength(wiring.Component):
    """Bytes of a run, less one: `row_bytes`, times `rows` if they are merged; shift and add.

    Latency: a cycle for each bit of `rows` up to its highest one, or a single one if not merged.

    Members
    -------
    load : In(1)
        Start with `rows` and `row_bytes`.
    merged : In(1)
        From the cycle after `load` on.
    advance : In(1)
        To the next bit.
    done : Out(1)
        This is the last: `o` is there in the next cycle.
    o : Out(40)
    """

    load: In(1)
    rows: In(16)
    row_bytes: In(24)
    merged: In(1)
    advance: In(1)
    done: Out(1)
    o: Out(RUN_WIDTH)

    def elaborate(self, platform):
        m = Module()
        product = Signal(RUN_WIDTH, reset_less=True)
        factor = Signal(16, reset_less=True)
        addend = Signal(RUN_WIDTH, reset_less=True)
        m.d.comb += [self.o.eq(product), self.done.eq((factor[1:] == 0) | ~self.merged)]
        with m.If(self.load):
            m.d.sync += [factor.eq(self.rows), addend.eq(self.row_bytes), product.eq(-1)]
        with m.Elif(self.advance):
            m.d.sync += [factor.eq(factor >> 1), addend.eq(addend << 1)]
            with m.If(factor[0] | ~self.merged):
                m.d.sync += product.eq(product + addend)
        return m


class OpenInstructions(wiring.Component):
    """Whether a unit has instructions that have not retired. Latency: none.

    Members
    -------
    came, retire : In(1)
        The unit takes an instruction; the oldest one ends.
    clear : In(1)
        Forget them.
    none : Out(1)
        There is none. The one that comes in this cycle does not count yet.
    """

    came: In(1)
    retire: In(1)
    clear: In(1)
    none: Out(1)

    def elaborate(self, platform):
        m = Module()
        count, came = Signal(range(128)), Signal()
        m.d.sync += came.eq(self.came)
        with m.If(self.clear):
            m.d.sync += count.eq(0)
        with m.Else():
            m.d.sync += count.eq(count + came - self.retire)
        m.d.comb += self.none.eq((count == 0) & ~came)
        return m
