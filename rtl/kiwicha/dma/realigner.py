"""A queue of bytes between words of any alignment: the realigner of both DMA directions."""

from itertools import pairwise

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..lib.delay import delay
from ..timing import REALIGNER_IN, REALIGNER_ROWS, turn_stages

__all__ = ["ByteSink", "ByteSource", "Realigner", "Settled", "word_layout"]


def word_layout(size: int, tag) -> data.StructLayout:
    """A word of bytes: those in `mask` are meant, and `tag` was given with it."""
    return data.StructLayout({"data": data.ArrayLayout(8, size), "mask": size, "tag": tag})


class ByteSink(wiring.Signature):
    """Where words of bytes go, from their source's side.

    Members
    -------
    room : In(1)
        A word may be announced by `reserve` in this cycle.
    reserve : Out(1), count : Out(range(size + 1))
        `count` bytes will come; no sooner than in this cycle.
    valid : Out(1), word : Out(struct)
        Bytes `first` to `last` of `data`.
    """

    def __init__(self, size: int):
        self.size = size
        super().__init__({
            "room": In(1),
            "reserve": Out(1),
            "count": Out(range(size + 1)),
            "valid": Out(1),
            "word": Out(data.StructLayout({
                "data": data.ArrayLayout(8, size), "first": range(size), "last": range(size)})),
        })

    def __repr__(self):
        return f"ByteSink({self.size})"


class ByteSource(wiring.Signature):
    """Where words of bytes come from, from the side of whoever takes them.

    Members
    -------
    claim : Out(range(size + 1))
        One cycle before a word can be taken, its bytes; else 0.
    want : Out(range(size + 1)), none : Out(1), enough : In(1), take : Out(1)
        With `take`, which needs `enough`, the next `want` bytes leave, the first to byte `first` of the word;
        `want` was claimed. `enough`: all that was claimed is there, or `none`, which lets `want` count as 0 from
        then to the next reset.
    first : Out(range(size)), tag : Out(tag)
    """

    def __init__(self, size: int, tag):
        self.size = size
        self.tag = tag
        super().__init__({
            "claim": Out(range(size + 1)), "want": Out(range(size + 1)), "none": Out(1), "enough": In(1),
            "take": Out(1), "first": Out(range(size)), "tag": Out(tag),
        })

    def __repr__(self):
        return f"ByteSource({self.size}, {self.tag!r})"


class Settled(wiring.Component):
    """`o` is high once `i` has been high for `cycles` cycles on end: what was in a pipeline has come out."""

    def __init__(self, cycles: int):
        self.cycles = cycles
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        passed = Signal(self.cycles)
        m.d.sync += passed.eq(Mux(self.i, Cat(self.i, passed), 0))
        m.d.comb += self.o.eq(self.i & passed[-1])
        return m


def _rotated(lanes, amount, step, limit):
    """Lanes moved up by `amount` (2 bits, or 1) times `step`, cyclically."""
    count = len(lanes)
    result = []
    for lane in range(count):
        choices = [lanes[(lane - turn * step) % count] for turn in range(limit)]
        while len(choices) > 1:
            bit = amount[(limit // len(choices)).bit_length() - 1]
            choices = [Mux(bit, odd, even) for even, odd in zip(choices[::2], choices[1::2], strict=True)]
        result.append(choices[0])
    return result


def _turns(lanes, ascending):
    """The (lowest bit, number of choices) of each pipeline stage of a rotator: 2 bits a stage."""
    bits = (lanes - 1).bit_length()
    stages = [(low, 4 if low + 1 < bits else 2) for low in range(0, bits, 2)]
    return stages if ascending else stages[::-1]


class Realigner(wiring.Component):
    """Bytes in as words with a gap at either end, bytes out the same way: one word in, one out, each cycle.

    The bytes wait in one LUT RAM of 16 rows per lane, a lane being a byte of the wider side. A word is turned on
    its way in so that its first byte comes to the lane after the last byte before it, and turned on its
    way out to where it is wanted. Two bits of a turn take one pipeline stage; the pipelines never stall:
    room is reserved before a word comes, and whoever takes a word has a place for it.

    Latency: `sink` to `enough` 3 + R(in_bytes) cycles, `take` to `o_valid` 3 + R(lanes) cycles, where R is half
    the bits of a turn, rounded up.

    Parameters
    ----------
    in_bytes, out_bytes : int
        Bytes of a word on either side, powers of two.
    tag : ShapeLike
        Travels with each word taken.

    Members
    -------
    sink : In(ByteSink(in_bytes))
    source : In(ByteSource(out_bytes, tag))
    o_valid : Out(1), o : Out(word_layout(out_bytes, tag))
        The word taken.
    """

    ROWS = REALIGNER_ROWS

    def __init__(self, in_bytes: int, out_bytes: int, tag):
        for name, value in (("in_bytes", in_bytes), ("out_bytes", out_bytes)):
            if not isinstance(value, int) or value < 4 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two from 4, not {value!r}")
        self.in_bytes = in_bytes
        self.out_bytes = out_bytes
        self.lanes = max(in_bytes, out_bytes)
        self.capacity = self.ROWS * self.lanes
        super().__init__({
            "sink": In(ByteSink(in_bytes)),
            "source": In(ByteSource(out_bytes, tag)),
            "o_valid": Out(1),
            "o": Out(word_layout(out_bytes, tag)),
        })
        self._tag = tag

    @property
    def push_latency(self) -> int:
        """Cycles from a word on `sink` to `enough`."""
        return REALIGNER_IN + turn_stages(self.in_bytes)

    def elaborate(self, platform):
        m = Module()
        written = Signal(range(self.in_bytes + 1))
        unclaimed = Signal(signed(self.capacity.bit_length() + 1))
        # Registered: `take` hangs on the carry chain behind `enough`, and this goes to the address of each lane.
        taken = Signal(range(self.out_bytes + 1))
        m.d.comb += self.source.enough.eq(self.source.none | ~unclaimed[-1])
        m.d.sync += [
            unclaimed.eq(unclaimed + written - self.source.claim),
            taken.eq(Mux(self.source.take & ~self.source.none, self.source.want, 0)),
        ]
        self._reserve(m, taken)
        reads = [self._lane(m, lane) for lane in range(self.lanes)]
        self._write(m, [write for write, _ in reads], written)
        self._read(m, [read for _, read in reads], taken)
        return m

    def _reserve(self, m, taken):
        """Free bytes, from registers only: `room` is three cycles late, hence the margin of three more words."""
        free = Signal(range(self.capacity + 1), init=self.capacity)
        reserved = Signal()
        count = delay(m, self.sink.count, "reserved_count")
        m.d.sync += [
            reserved.eq(self.sink.reserve),
            free.eq(free + taken - Mux(reserved, count, 0)),
            self.sink.room.eq(free >= 4 * self.in_bytes),
        ]

    def _lane(self, m, lane):
        m.submodules[f"lane{lane}"] = memory = Memory(shape=8, depth=self.ROWS, init=[])
        return memory.write_port(), memory.read_port(domain="comb")

    def _write(self, m, ports, written):
        size = self.in_bytes
        low = (size - 1).bit_length()
        groups = self.lanes // size
        valid = Signal()
        word = Signal(self.sink.word.shape(), reset_less=True)
        pointer = Signal(range(self.capacity))
        m.d.sync += [valid.eq(self.sink.valid), word.eq(self.sink.word)]
        count = word.last - word.first + 1
        with m.If(valid):
            m.d.sync += pointer.eq(pointer + count)

        # Only the count is reset. A word on its way is still written, before any that comes after the reset.
        place = data.StructLayout({"turn": low, "offset": low, "word": len(pointer) - low,
                                   "next": len(pointer) - low})
        at = Signal(place, name="at0", reset_less=True)
        at_count = Signal(range(size + 1), name="count0")
        lanes = [Signal(9, name=f"in0_{i}", reset_less=True) for i in range(size)]
        m.d.sync += [
            at_count.eq(Mux(valid, count, 0)), at.turn.eq(pointer[:low] - word.first),
            at.offset.eq(pointer[:low]), at.word.eq(pointer[low:]), at.next.eq(pointer[low:] + 1),
        ]
        for i, lane in enumerate(lanes):
            m.d.sync += lane.eq(Cat(word.data[i], valid & (i >= word.first) & (i <= word.last)))
        for number, (bit, choices) in enumerate(_turns(size, True), 1):
            following = [Signal(9, name=f"in{number}_{i}", reset_less=True) for i in range(size)]
            moved = _rotated(lanes, at.turn[bit:], 1 << bit, choices)
            after = Signal(place, name=f"at{number}", reset_less=True)
            count_after = Signal.like(at_count, name=f"count{number}")
            m.d.sync += [lane.eq(value) for lane, value in zip(following, moved, strict=True)]
            m.d.sync += [after.eq(at), count_after.eq(at_count)]
            lanes, at, at_count = following, after, count_after

        m.d.comb += written.eq(at_count)
        shift = (groups - 1).bit_length()
        for i, lane in enumerate(lanes):
            where = Signal(len(at.word), name=f"where{i}")
            # A lane below the first byte's has wrapped around into the next word.
            m.d.comb += where.eq(Mux(i < at.offset, at.next, at.word))
            for group in range(groups):
                port = ports[group * size + i]
                m.d.comb += [
                    port.addr.eq(where[shift:]),
                    port.data.eq(lane[:8]),
                    port.en.eq(lane[8] & (where[:shift] == group)),
                ]

    def _read(self, m, ports, taken):
        low = (self.lanes - 1).bit_length()
        pointer = Signal(range(self.capacity))
        m.d.sync += pointer.eq(pointer + taken)

        fate = data.StructLayout({"turn": low, "first": range(self.out_bytes),
                                  "stop": range(self.out_bytes + 1), "tag": self._tag})
        row = Signal(range(self.ROWS), reset_less=True)
        offset = Signal(low, reset_less=True)
        at = Signal(fate, name="fate0", reset_less=True)
        first, tag = delay(m, self.source.first, "first_then"), delay(m, self.source.tag, "tag_then")
        valids = [Signal(name=f"fate{number}_valid") for number in range(3 + len(_turns(self.lanes, False)))]
        m.d.sync += [late.eq(early) for early, late in pairwise([self.source.take, *valids])]
        m.d.sync += [
            row.eq(pointer[low:]), offset.eq(pointer[:low]),
            # A turn down by (offset - first) is a turn up by its negative.
            at.turn.eq(first - pointer[:low]), at.first.eq(first),
            at.stop.eq(first + taken), at.tag.eq(tag),
        ]
        lanes = [Signal(8, name=f"out0_{i}", reset_less=True) for i in range(self.lanes)]
        for i, (port, lane) in enumerate(zip(ports, lanes, strict=True)):
            m.d.comb += port.addr.eq(row + (i < offset))
            m.d.sync += lane.eq(port.data)
        after = Signal(fate, name="fate1", reset_less=True)
        m.d.sync += after.eq(at)
        at = after
        for number, (bit, choices) in enumerate(_turns(self.lanes, False), 1):
            following = [Signal(8, name=f"out{number}_{i}", reset_less=True) for i in range(self.lanes)]
            moved = _rotated(lanes, at.turn[bit:], 1 << bit, choices)
            after = Signal(fate, name=f"fate{number + 1}", reset_less=True)
            mask = Signal(self.out_bytes, name=f"mask{number}", reset_less=True)
            m.d.sync += [lane.eq(value) for lane, value in zip(following, moved, strict=True)]
            m.d.sync += [after.eq(at)]
            m.d.sync += mask.eq(Cat((i >= at.first) & (i < at.stop) for i in range(self.out_bytes)))
            lanes, at = following, after
        m.d.comb += [self.o_valid.eq(valids[-1]), self.o.mask.eq(mask), self.o.tag.eq(at.tag)]
        m.d.comb += [self.o.data[i].eq(lanes[i]) for i in range(self.out_bytes)]
