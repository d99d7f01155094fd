"""Indices: words of the scratchpad that say where in memory a transfer begins."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import Unit
from ..layouts import unit_layout
from ..lib.delay import delay_valid
from ..memory.ports import LINE_ADDRESS, ReadPort
from ..timing import READ_LATENCY

__all__ = ["ADDRESS_WIDTH", "IndexPort", "IndexReader", "IndexedAddress"]

#: Bits of an address of 64 bits plus a product of 32 bits and 32 signed ones, exactly, with its sign.
ADDRESS_WIDTH = 66


class IndexPort(wiring.Signature):
    """Reads one word of the scratchpad, from the reader's side.

    A request (word number `word` of line `line`) is accepted when `request.valid` and `request.ready` are both
    high, and may be withdrawn before; some cycles later `valid` is high for one cycle with the word in `data`. A
    reader has one at a time.
    """

    def __init__(self, config: ChipConfig):
        words = config.line_bytes // 4
        super().__init__({
            "request": Out(stream.Signature(data.StructLayout({"line": LINE_ADDRESS, "word": range(words)}))),
            "data": In(32), "valid": In(1),
        })


class IndexReader(wiring.Component):
    """Puts LOAD's and STORE's reads of indices between those of STORE's lines.

    An index goes first: there are few of them. The lines pass without a delay, but for the cycles in which the
    port is an index's. Latency: :data:`kiwicha.timing.INDEX_READ` cycles from a request's acceptance to its word,
    if nobody has the bank. Throughput: one index at a time; LOAD's goes first.

    Members
    -------
    load, store : In(IndexPort)
    lines : In(ReadPort)
        STORE's.
    read : Out(ReadPort)
        To the scratchpad.
    """

    def __init__(self, config: ChipConfig):
        self._port, width = IndexPort(config), 8 * config.line_bytes
        super().__init__({"load": In(self._port), "store": In(self._port),
                          "lines": In(ReadPort(width)), "read": Out(ReadPort(width))})

    def elaborate(self, platform):
        m = Module()
        load, store, lines, read = self.load, self.store, self.lines, self.read
        # The one that is asked for, or under way; whose it is.
        asks, busy, is_store = Signal(), Signal(), Signal()
        place = Signal.like(load.request.payload)
        came = delay_valid(m, asks & read.request.ready, "came", READ_LATENCY)
        m.d.comb += [
            load.request.ready.eq(~busy), store.request.ready.eq(~busy & ~load.request.valid),
            read.request.valid.eq(asks | lines.request.valid),
            read.request.payload.eq(Mux(asks, place.line, lines.request.payload)),
            lines.request.ready.eq(read.request.ready & ~asks),
            lines.data.eq(read.data), lines.valid.eq(read.valid & ~came),
        ]
        with m.If(~busy):
            m.d.sync += [place.eq(Mux(load.request.valid, load.request.payload, store.request.payload)),
                         is_store.eq(~load.request.valid)]
        wanted = ~busy & (load.request.valid | store.request.valid)
        m.d.sync += [
            busy.eq(wanted | (busy & ~came)), asks.eq(wanted | (asks & ~read.request.ready)),
            load.valid.eq(came & ~is_store), store.valid.eq(came & is_store),
        ]
        # Registered: what the port answers has passed a multiplexer of all banks.
        word = Signal(32)
        m.d.sync += word.eq(read.data.word_select(place.word, 32))
        m.d.comb += [load.data.eq(word), store.data.eq(word)]
        return m


class IndexedAddress(wiring.Component):
    """Where a transfer begins: `address`, plus the index times `index_stride` if it has one.

    The product is formed by shift and add, since multipliers are for the array, and nothing of the sum is lost.

    Latency: `o` is `address` a cycle after `load`, and the sum a cycle after `done`. That is, from the first cycle
    of `runs` on, :data:`kiwicha.timing.INDEX_READ` + 1 cycles and one for each bit of `index_bound`; more if the
    port is late.

    Members
    -------
    load : In(1), fields : In(unit_layout(unit))
        Start with these; they stay for as long as it runs.
    runs : In(1)
        From the cycle after `load` on, until `done`.
    port : Out(IndexPort)
    done : Out(1)
        This is the last cycle.
    wrong : Out(1), index : Out(32)
        With `done`, and until the next load: the index is not less than `index_bound`; the index then.
    o : Out(64), beyond : Out(1)
        The sum's lower bits; a cycle later, whether there are more than the bus's addresses have.
    """

    def __init__(self, config: ChipConfig, unit: Unit):
        self._config = config
        super().__init__({
            "load": In(1), "fields": In(unit_layout(unit)), "runs": In(1), "port": Out(IndexPort(config)),
            "done": Out(1), "wrong": Out(1), "index": Out(32), "o": Out(64), "beyond": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        fields, port = self.fields, self.port
        total = Signal(signed(ADDRESS_WIDTH), reset_less=True)
        addend = Signal(signed(64), reset_less=True)
        index, limit = Signal(32, reset_less=True), Signal(32, reset_less=True)
        asked, came, below = Signal(), Signal(), Signal()
        m.d.comb += [
            port.request.valid.eq(self.runs & ~asked), port.request.p.line.eq(fields.index_line),
            port.request.p.word.eq(fields.index_word),
            self.done.eq(came & (~below | (limit[1:] == 0))), self.wrong.eq(came & ~below), self.index.eq(index),
            self.o.eq(total),
        ]
        m.d.sync += self.beyond.eq(total[self._config.address_width:].any())
        with m.If(self.load):
            m.d.sync += [total.eq(fields.address), addend.eq(fields.index_stride), limit.eq(fields.index_bound),
                         asked.eq(0), came.eq(0)]
        with m.Elif(~came):
            m.d.sync += [asked.eq(asked | port.request.ready), came.eq(port.valid),
                         index.eq(port.data), below.eq(port.data < limit)]
        with m.Elif(below):     # behind the last bit the index is zero
            m.d.sync += [index.eq(index >> 1), limit.eq(limit >> 1), addend.eq(Cat(0, addend[:-1]))]
            with m.If(index[0]):
                m.d.sync += total.eq(total + addend)
        return m
