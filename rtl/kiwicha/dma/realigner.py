"""A queue of bytes between words of any alignment: the realigner of both DMA directions."""

from itertools import pairwise

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..lib.delay import delay

__all__ = ["Realigner", "Settled"]


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

    Latency: `push` to `enough` 3 + R(in_bytes) cycles, `take` to `o_valid` 3 + R(lanes) cycles, where R is half
    the bits of a turn, rounded up.

    Parameters
    ----------
    in_bytes, out_bytes : int
        Bytes of a word on either side, powers of two.
    tag : ShapeLike
        Travels with each word taken.

    Members
    -------
    room : Out(1)
        A word may be announced by `reserve` in this cycle.
    reserve : In(1), reserve_count : In(range(in_bytes + 1))
        `reserve_count` bytes will come; no sooner than in this cycle.
    push_valid : In(1), push : In(struct)
        Bytes `first` to `last` of `data`.
    claim : In(range(out_bytes + 1))
        One cycle before a word can be taken, its bytes; else 0.
    want : In(range(out_bytes + 1)), none : In(1), enough : Out(1), take : In(1)
        With `take`, which needs `enough`, the next `want` bytes leave, the first to byte `first` of the word;
        `want` was claimed. `enough`: all that was claimed is there, or `none`, which lets `want` count as 0 from
        then to the next reset.
    first : In(range(out_bytes)), tag : In(tag)
    o_valid : Out(1), o : Out(struct)
        The word taken: `data`, its `mask` of bytes that are meant, and `tag`.
    """

    ROWS = 16

    def __init__(self, in_bytes: int, out_bytes: int, tag):
        for name, value in (("in_bytes", in_bytes), ("out_bytes", out_bytes)):
            if not isinstance(value, int) or value < 4 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two from 4, not {value!r}")
        self.in_bytes = in_bytes
        self.out_bytes = out_bytes
        self.lanes = max(in_bytes, out_bytes)
        self.capacity = self.ROWS * self.lanes
        super().__init__({
            "room": Out(1),
            "reserve": In(1),
            "reserve_count": In(range(in_bytes + 1)),
            "push_valid": In(1),
            "push": In(data.StructLayout({
                "data": data.ArrayLayout(8, in_bytes), "first": range(in_bytes), "last": range(in_bytes)})),
            "claim": In(range(out_bytes + 1)),
            "want": In(range(out_bytes + 1)),
            "none": In(1),
            "enough": Out(1),
            "take": In(1),
            "first": In(range(out_bytes)),
            "tag": In(tag),
            "o_valid": Out(1),
            "o": Out(data.StructLayout({
                "data": data.ArrayLayout(8, out_bytes), "mask": out_bytes, "tag": tag})),
        })
        self._tag = tag

    @property
    def push_latency(self) -> int:
        return 3 + len(_turns(self.in_bytes, True))

    def elaborate(self, platform):
        m = Module()
        written = Signal(range(self.in_bytes + 1))
        unclaimed = Signal(signed(self.capacity.bit_length() + 1))
        # A cycle late: that there is a take is known late, and the lanes are many.
        taken = Signal(range(self.out_bytes + 1))
        m.d.comb += self.enough.eq(self.none | ~unclaimed[-1])
        m.d.sync += [
            unclaimed.eq(unclaimed + written - self.claim),
            taken.eq(Mux(self.take & ~self.none, self.want, 0)),
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
        count = delay(m, self.reserve_count, "reserved_count")
        m.d.sync += [
            reserved.eq(self.reserve),
            free.eq(free + taken - Mux(reserved, count, 0)),
            self.room.eq(free >= 4 * self.in_bytes),
        ]

    def _lane(self, m, lane):
        m.submodules[f"lane{lane}"] = memory = Memory(shape=8, depth=self.ROWS, init=[])
        return memory.write_port(), memory.read_port(domain="comb")

    def _write(self, m, ports, written):
        size = self.in_bytes
        low = (size - 1).bit_length()
        groups = self.lanes // size
        valid = Signal()
        word = Signal(self.push.shape(), reset_less=True)
        pointer = Signal(range(self.capacity))
        m.d.sync += [valid.eq(self.push_valid), word.eq(self.push)]
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
        first, tag = delay(m, self.first, "first_then"), delay(m, self.tag, "tag_then")
        valids = [Signal(name=f"fate{number}_valid") for number in range(3 + len(_turns(self.lanes, False)))]
        m.d.sync += [late.eq(early) for early, late in pairwise([self.take, *valids])]
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
