"""Fetch: reads the program from memory ahead of its use, and checks it as it arrives."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..bus.axi import AxiRead, ReadId, is_error
from ..config import ChipConfig
from ..isa import INDEX_WIDTH, INSTRUCTION_BYTES, INSTRUCTIONS, PAGE_BITS, ErrorCode
from ..lib.delay import delay
from ..timing import FETCH_BUFFER, FETCH_BURST
from .check import Check, Verdict
from .unit import ErrorReport, Window

__all__ = ["Fetch", "Fetched"]

INSTRUCTION_BITS = (INSTRUCTION_BYTES - 1).bit_length()


class Fetched(data.Struct):
    """One instruction and what the check found; `to` has the bit of the unit that it is for, if it is good."""
    bits: 8 * INSTRUCTION_BYTES
    verdict: Verdict
    to: len(INSTRUCTIONS)


class Fetch(wiring.Component):
    """Reads `count` instructions from `program` with bursts of up to FETCH_BURST, in order.

    Bursts are asked for whenever the buffer has FETCH_BURST free places: up to 4 are in flight,
    enough to keep up one instruction every 10 cycles with a memory latency of 100. `r` is always
    ready. An error waits until every instruction before it has gone through `o`.

    Latency: `start` to `ar.valid` 3 cycles; last beat of an instruction to `o.valid` 9 cycles.
    Throughput: a beat each cycle in, an instruction every 3 cycles out.

    Errors: FIELD for a program that is not aligned to 64 bytes, WINDOW and BUS_READ.

    Members
    -------
    start : In(1)
        Begin; only while `quiet`.
    program : In(64), count : In(24), window : In(Window)
        Must not change while fetching.
    bus : Out(AxiRead)
    o : Out(stream.Signature(Fetched))
    index : Out(24)
        Index of the instruction on `o`, or of the next to appear there.
    error : Out(ErrorReport)
    abort : In(1)
        Ask for nothing more, drop everything, and wait for what has been asked.
    quiet : Out(1)
        Nothing asked for that has not come.
    progress : Out(1)
        The bus moved.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        self._beats = INSTRUCTION_BYTES // config.bus_bytes
        super().__init__({
            "start": In(1),
            "program": In(64),
            "count": In(INDEX_WIDTH),
            "window": In(Window(config)),
            "bus": Out(AxiRead(config)),
            "o": Out(stream.Signature(Fetched)),
            "index": Out(INDEX_WIDTH),
            "error": Out(ErrorReport),
            "abort": In(1),
            "quiet": Out(1),
            "progress": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        failed = Signal()
        popped = Signal()
        asked = Signal(range(FETCH_BURST + 1))
        m.d.comb += [
            popped.eq(self.o.valid & self.o.ready),
            self.progress.eq((self.bus.ar.valid & self.bus.ar.ready) | (self.bus.r.valid & self.bus.r.ready)),
        ]
        with m.If(self.start | self.abort):
            m.d.sync += failed.eq(0)
        with m.If(self.start):
            m.d.sync += self.index.eq(0)
        with m.Elif(popped):
            m.d.sync += self.index.eq(self.index + 1)
        # Registered: `o.ready` is the OR of all the issue queues', after dispatch has picked the queue.
        gone = Signal()
        m.d.sync += gone.eq(popped & ~self.start & ~self.abort)
        self._elaborate_ask(m, failed, gone, asked)
        self._elaborate_receive(m, failed, asked, popped, gone)
        due = Signal()
        m.d.sync += due.eq(failed & (self.error.index == self.index) & ~self.start & ~self.abort)
        m.d.comb += self.error.valid.eq(due)
        return m

    def _fail(self, m, failed, code, index, address):
        m.d.sync += [failed.eq(1), self.error.code.eq(code), self.error.index.eq(index),
                     self.error.address.eq(address)]

    def _elaborate_ask(self, m, failed, gone, asked):
        """Ask for bursts as the buffer has room; `asked` is their length, a cycle before they are on the bus."""
        ar = self.bus.ar
        # What is next to be asked for. One bit more than an address, so that a program that runs over the top is
        # outside the window.
        next_ = Signal(data.StructLayout({
            "address": self._config.address_width + 1, "index": INDEX_WIDTH, "left": INDEX_WIDTH}))
        length = Signal(range(FETCH_BURST + 1))
        free = Signal(range(FETCH_BUFFER + 1))
        with m.If(self.start):
            m.d.sync += free.eq(FETCH_BUFFER)
        with m.Else():
            m.d.sync += free.eq(free - asked + gone)
        m.d.comb += [
            ar.p.address.eq(next_.address),
            ar.p.length.eq(length * self._beats - 1),
            ar.p.id.eq(ReadId.FETCH),
        ]
        start = self._elaborate_start(m)
        with m.FSM(name="ask"):
            with m.State("IDLE"):
                m.d.sync += [next_.address.eq(self.program[:self._config.address_width]), next_.index.eq(0),
                             next_.left.eq(self.count)]
                with m.If(self.start & ~start.none):
                    m.next = "PLAN"
                    with m.If(start.unaligned):
                        self._fail(m, failed, ErrorCode.FIELD, 0, self.program)
                        m.next = "IDLE"
                    with m.Elif(start.beyond):
                        self._fail(m, failed, ErrorCode.WINDOW, 0, self.program)
                        m.next = "IDLE"
            self._elaborate_bursts(m, failed, asked, free, next_, length)

    def _elaborate_start(self, m):
        """What a start would find. The host has written the registers long before it starts."""
        found = Signal(data.StructLayout({"none": 1, "unaligned": 1, "beyond": 1}))
        m.d.sync += [
            found.none.eq(self.count == 0),
            found.unaligned.eq(self.program[:INSTRUCTION_BITS] != 0),
            found.beyond.eq(self.program[self._config.address_width:] != 0),
        ]
        return found

    def _elaborate_bursts(self, m, failed, asked, free, next_, length):
        """The states of one burst: find its length, check its page, put it on the bus."""
        ar, page = self.bus.ar, next_.address[PAGE_BITS:]
        to_boundary = FETCH_BURST - next_.address[INSTRUCTION_BITS:INSTRUCTION_BITS + 2]
        too_low, too_high = Signal(), Signal()
        with m.State("PLAN"):
            m.d.sync += [
                length.eq(Mux(next_.left < to_boundary, next_.left, to_boundary)),
                too_low.eq(page < self.window.first),
                too_high.eq(page > self.window.last),
            ]
            with m.If(self.abort | failed | (next_.left == 0)):
                m.next = "IDLE"
            with m.Elif(free >= FETCH_BURST):
                m.next = "VERIFY"
        with m.State("VERIFY"):
            with m.If(self.abort | failed):
                m.next = "IDLE"
            with m.Elif(too_low | too_high):
                self._fail(m, failed, ErrorCode.WINDOW, next_.index, next_.address)
                m.next = "IDLE"
            with m.Else():
                m.d.comb += asked.eq(length)
                m.d.sync += ar.valid.eq(1)
                m.next = "ASK"
        with m.State("ASK"):
            with m.If(ar.ready):
                m.d.sync += [
                    ar.valid.eq(0),
                    next_.address.eq(next_.address + (length << INSTRUCTION_BITS)),
                    next_.index.eq(next_.index + length),
                    next_.left.eq(next_.left - length),
                ]
                m.next = "PLAN"

    def _elaborate_receive(self, m, failed, asked, popped, gone):
        """Put beats in their places, and offer an instruction when the check is through with it."""
        r = self.bus.r
        owed = Signal(range(FETCH_BUFFER * self._beats + 1))
        place = Signal(range(self._beats))
        slot = Signal(range(FETCH_BUFFER))
        index = Signal(INDEX_WIDTH)
        address = Signal(self._config.address_width - INSTRUCTION_BITS)
        in_first_burst = Signal()
        taken = Signal()
        ends = taken & (place == self._beats - 1)
        bad = is_error(r.p.resp)
        m.d.comb += [
            r.ready.eq(1),
            taken.eq(r.valid & (owed != 0)),
            self.quiet.eq((owed == 0) & ~self.bus.ar.valid),
        ]
        m.d.sync += owed.eq(owed + asked * self._beats - taken)
        with m.If(self.start):
            m.d.sync += [place.eq(0), slot.eq(0), index.eq(0), in_first_burst.eq(1),
                         address.eq(self.program[INSTRUCTION_BITS:])]
        with m.Elif(taken):
            m.d.sync += place.eq(place + 1)
            with m.If(ends):
                m.d.sync += [slot.eq(slot + 1), index.eq(index + 1), address.eq(address + 1)]
                with m.If(address[:2] == FETCH_BURST - 1):
                    m.d.sync += in_first_burst.eq(0)
        stopped = Signal()
        with m.If(self.start):
            m.d.sync += stopped.eq(0)
        with m.Elif(taken & bad & ~stopped):
            m.d.sync += stopped.eq(1)
        # Registered: it hangs on the bus's `resp`, and enables the registers of the error.
        wrong = delay(m, taken & bad & ~stopped, "wrong")
        burst = delay(m, Cat(Mux(in_first_burst, self.program[INSTRUCTION_BITS:INSTRUCTION_BITS + 2], 0),
                             address[2:]), "burst")
        index_then = delay(m, index, "index_then")
        with m.If(wrong):
            # It may overtake a WINDOW error of a later burst: that one has a higher index.
            self._fail(m, failed, ErrorCode.BUS_READ, index_then, burst << INSTRUCTION_BITS)
        self._elaborate_buffer(m, taken & ~stopped & ~bad, place, slot, popped, gone)

    def _elaborate_buffer(self, m, taken, place, slot, popped, gone):
        """One LUT memory per beat of an instruction, so that all its bits can be read at once."""
        config = self._config
        m.submodules.check = check = Check(config)
        beat = Signal(config.bus_width)
        beat_valid, beat_place, beat_slot = Signal(), Signal.like(place), Signal.like(slot)
        m.d.sync += [beat.eq(self.bus.r.p.data), beat_valid.eq(taken & ~self.abort),
                     beat_place.eq(place), beat_slot.eq(slot)]
        m.d.comb += [check.beat.eq(beat), check.beat_valid.eq(beat_valid), check.place.eq(beat_place),
                     check.clear.eq(self.abort)]
        head, tail = Signal.like(slot), Signal.like(slot)
        for number in range(self._beats):
            storage = Memory(shape=config.bus_width, depth=FETCH_BUFFER, init=[])
            m.submodules[f"beats_{number}"] = storage
            write, read = storage.write_port(), storage.read_port(domain="comb")
            m.d.comb += [write.addr.eq(beat_slot), write.data.eq(beat), read.addr.eq(head),
                         write.en.eq(beat_valid & (beat_place == number))]
            # Two registers, as for the verdict, which belongs to it: out of LUT RAM, and on to every issue queue.
            bits = self.o.p.bits.word_select(number, config.bus_width)
            m.d.sync += bits.eq(delay(m, read.data, f"bits{number}"))
        m.submodules.verdicts = verdicts = Memory(shape=Verdict, depth=FETCH_BUFFER, init=[])
        write, read = verdicts.write_port(), verdicts.read_port(domain="comb")
        available = Signal(range(FETCH_BUFFER + 1))
        m.d.comb += [write.addr.eq(tail), write.data.eq(check.verdict), write.en.eq(check.valid),
                     read.addr.eq(head)]
        # What is read is offered two cycles after `head` has come to it.
        there = Signal()
        verdict = delay(m, read.data, "verdict")
        good = verdict.kind == Verdict.Kind.OKAY
        m.d.sync += [
            self.o.p.verdict.eq(verdict),
            self.o.p.to.eq(Cat(good & (verdict.unit == unit) for unit in INSTRUCTIONS)),
            there.eq((available != gone) & ~popped), self.o.valid.eq(there & ~popped),
            available.eq(available + check.valid - gone),
        ]
        with m.If(check.valid):
            m.d.sync += tail.eq(tail + 1)
        with m.If(popped):
            m.d.sync += head.eq(head + 1)
        with m.If(self.start | self.abort):
            m.d.sync += [head.eq(0), tail.eq(0), available.eq(0), there.eq(0), self.o.valid.eq(0)]
