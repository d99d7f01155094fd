"""Block RAM as the chip's main memory, for boards without a memory controller."""

from itertools import pairwise

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from fpga.word_bus import WordBus
from kiwicha.bus.axi import AxiRead, AxiWrite, Resp
from kiwicha.config import ChipConfig
from kiwicha.lib.delay import copies, delay, delay_valid
from kiwicha.lib.stream import Queue

__all__ = ["Ram"]

#: Read beats under way between request and response queue: address register, block RAM, output register.
_LATENCY = 3


class Ram(wiring.Component):
    """Memory of `size` bytes from address 0, with the chip's two buses and a word bus for the host.

    Reads and writes move one beat per cycle each, at once, and bursts follow one another without a gap; how long
    the first beat of a read takes is `kiwicha_host.memory_latency.BLOCK_RAM`. Answers come in order. A word from
    the host takes the cycle of a beat. Outside of the memory both buses answer DECERR, the word bus an error.
    What a read returns that comes before the answer to a write of the same bytes is undefined, as for the chip's
    own memories; so is a host's word that is read in the cycle after it was written.

    Parameters
    ----------
    config : ChipConfig
        For the buses' shapes.
    size : int
        Bytes: a power of two, at least 4096.

    Members
    -------
    read : In(AxiRead(config))
    write : In(AxiWrite(config))
    word : In(WordBus())
    """

    def __init__(self, config: ChipConfig, size: int):
        if not isinstance(size, int) or size < 4096 or size & (size - 1):
            raise ValueError(f"Ram size must be a power of two of at least 4096 bytes, not {size!r}")
        self.config = config
        self.size = size
        super().__init__({"read": In(AxiRead(config)), "write": In(AxiWrite(config)), "word": In(WordBus())})

    def elaborate(self, platform):
        m = Module()
        lane_bits = (self.config.bus_bytes - 1).bit_length()
        depth = self.size // self.config.bus_bytes
        # One memory per byte: deep and narrow blocks, no multiplexers behind them, and a write enable each.
        self._address = Signal(range(depth))
        self._reads = Signal()
        self._data = Signal(self.config.bus_width)
        self._write_address = Signal(range(depth))
        self._write_data = Signal(self.config.bus_width)
        self._strobe = Signal(self.config.bus_bytes)
        # The blocks lie all over the die: an address for each half of them, on the way for a cycle of its own.
        addresses = copies(m, self._write_address, "write_address_of_half", 2)
        strobe = delay_valid(m, self._strobe, "strobe_late", 1)
        write_data = delay(m, self._write_data, "write_data_late")
        out = Signal(self.config.bus_width)
        for i in range(self.config.bus_bytes):
            # The program promises not to depend on collisions, so no logic is spent on them.
            memory = Memory(shape=8, depth=depth, init=[], attrs={"no_rw_check": 1})
            m.submodules[f"lane{i}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [write.addr.eq(addresses[2 * i // self.config.bus_bytes]),
                         write.data.eq(write_data.word_select(i, 8)), write.en.eq(strobe[i]),
                         read.addr.eq(self._address), read.en.eq(self._reads),
                         out.word_select(i, 8).eq(read.data)]
        # The output of a block RAM is late: straight into a register.
        m.d.sync += self._data.eq(out)

        # The host's word waits in a register: what is behind it stops the buses.
        self._word = word = Signal(self.word.request.p.shape(), reset_less=True)
        self._word_valid = Signal()
        m.d.sync += [word.eq(self.word.request.p), self._word_valid.eq(self.word.request.valid)]
        take = self._elaborate_word(m, lane_bits)
        self._elaborate_read(m, lane_bits, take & ~word.write)
        self._elaborate_write(m, lane_bits, take & word.write)
        return m

    def _outside(self, address):
        """Whether a byte address is beyond the memory."""
        return address[(self.size - 1).bit_length():].any()

    def _burst(self, m, name, channel, extra):
        """A queue of addresses and the burst under way: `line`, `last`, `outside`, `valid`, to `step`."""
        layout = data.StructLayout({"line": range(self.size // self.config.bus_bytes), "left": 8, "outside": 1,
                                    **extra})
        m.submodules[f"{name}_queue"] = queue = Queue(layout, 4)
        lane_bits = (self.config.bus_bytes - 1).bit_length()
        m.d.comb += [
            queue.i.valid.eq(channel.valid), channel.ready.eq(queue.i.ready),
            queue.i.p.line.eq(channel.p.address >> lane_bits), queue.i.p.left.eq(channel.p.length),
            queue.i.p.outside.eq(self._outside(channel.p.address)),
            *(queue.i.p[field].eq(channel.p[field]) for field in extra),
        ]
        burst = Signal(layout, name=f"{name}_burst")
        valid = Signal(name=f"{name}_valid")
        step = Signal(name=f"{name}_step")
        last = Signal(name=f"{name}_last")
        m.d.sync += last.eq(last)
        m.d.comb += queue.o.ready.eq(~valid | (step & last))
        with m.If(queue.o.ready):
            m.d.sync += [burst.eq(queue.o.payload), valid.eq(queue.o.valid), last.eq(queue.o.p.left == 0)]
        with m.Elif(step):
            m.d.sync += [burst.line.eq(burst.line + 1), burst.left.eq(burst.left - 1), last.eq(burst.left == 1)]
        return burst, valid, step, last

    def _elaborate_read(self, m, lane_bits, word):
        burst, valid, step, last = self._burst(m, "read", self.read.ar, {"id": self.read.ar.p.shape()["id"].shape})
        tag = data.StructLayout({"valid": 1, "last": 1, "outside": 1, "id": burst.id.shape()})
        tags = [Signal(tag, name=f"tag{i}") for i in range(_LATENCY)]
        m.submodules.answers = answers = Queue(self.read.r.p.shape(), 8)
        # Beats that may still be asked for: what is under way must find room.
        room = Signal(range(8 + 1), init=8)
        sent = Signal()
        m.d.comb += [step.eq(valid & (room != 0) & ~word), sent.eq(self.read.r.valid & self.read.r.ready)]
        m.d.sync += room.eq(room - step + sent)
        m.d.sync += [
            self._address.eq(Mux(word, self._word.address >> (lane_bits - 2), burst.line)),
            self._reads.eq(word | step),
            tags[0].valid.eq(step), tags[0].last.eq(last), tags[0].outside.eq(burst.outside),
            tags[0].id.eq(burst.id), *(b.eq(a) for a, b in pairwise(tags)),
        ]
        m.d.comb += [
            answers.i.valid.eq(tags[-1].valid), answers.i.p.last.eq(tags[-1].last),
            answers.i.p.id.eq(tags[-1].id), answers.i.p.data.eq(self._data),
            answers.i.p.resp.eq(Mux(tags[-1].outside, Resp.DECERR, Resp.OKAY)),
            self.read.r.valid.eq(answers.o.valid), self.read.r.payload.eq(answers.o.payload),
            answers.o.ready.eq(self.read.r.ready),
        ]

    def _elaborate_write(self, m, lane_bits, word):
        burst, valid, step, last = self._burst(m, "write", self.write.aw, {})
        w, request = self.write.w, self._word
        m.submodules.responses = responses = Queue(self.write.b.p.shape(), 4)
        m.d.comb += [w.ready.eq(valid & responses.i.ready & ~word), step.eq(w.valid & w.ready)]
        m.d.sync += [
            self._write_address.eq(Mux(word, request.address >> (lane_bits - 2), burst.line)),
            self._write_data.eq(Mux(word, request.data.replicate(self.config.bus_bytes // 4), w.p.data)),
            self._strobe.eq(Mux(step & ~burst.outside, w.p.strobe, 0)),
        ]
        with m.If(word):
            m.d.sync += self._strobe.eq(0b1111 << (request.address[:lane_bits - 2] << 2))
        m.d.comb += [
            responses.i.valid.eq(step & last),
            responses.i.p.resp.eq(Mux(burst.outside, Resp.DECERR, Resp.OKAY)),
            self.write.b.valid.eq(responses.o.valid), self.write.b.payload.eq(responses.o.payload),
            responses.o.ready.eq(self.write.b.ready),
        ]

    def _elaborate_word(self, m, lane_bits):
        """The host's words: taken at once; returns when one is done. The answer comes when the data is there."""
        answer = self.word.answer
        outside = self._outside(Cat(0, 0, self._word.address))
        arriving = Signal(_LATENCY)
        failed = Signal()
        lane = Signal(lane_bits - 2)
        m.d.comb += self.word.request.ready.eq(1)
        m.d.sync += [arriving.eq(Cat(self._word_valid, arriving)), answer.valid.eq(arriving[-1])]
        with m.If(self._word_valid):
            m.d.sync += [failed.eq(outside), lane.eq(self._word.address)]
        words = Array(self._data.word_select(i, 32) for i in range(self.config.bus_bytes // 4))
        m.d.sync += [answer.p.data.eq(Mux(failed, 0xFFFF_FFFF, words[lane])), answer.p.error.eq(failed)]
        return self._word_valid & ~outside
