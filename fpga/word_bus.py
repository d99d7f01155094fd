"""A plain 32-bit bus: one request at a time, one answer for each. What a host bridge speaks on a board."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from kiwicha.bus.axi import AxiLite, Resp

__all__ = ["BusGuard", "WordBus", "WordDecoder", "WordToAxiLite"]


class WordBus(wiring.Signature):
    """32-bit words, from the master's side.

    Parameters
    ----------
    address_width : int
        Bits of a word address (a byte address without its two lowest bits).

    Members
    -------
    request : Out(stream)
        `address`, `write`, and the `data` to write. The next request comes after the answer to the last.
    answer : In(stream)
        One for each request, reads and writes: `data` (of a read) and `error`. Always taken at once.
    """

    def __init__(self, address_width: int = 30):
        if not isinstance(address_width, int) or not 1 <= address_width <= 30:
            raise ValueError(f"WordBus address_width must be from 1 to 30, not {address_width!r}")
        self.address_width = address_width
        super().__init__({
            "request": Out(stream.Signature(data.StructLayout({
                "address": address_width, "write": 1, "data": 32}))),
            "answer": In(stream.Signature(data.StructLayout({"data": 32, "error": 1}), always_ready=True)),
        })

    def __repr__(self):
        return f"WordBus({self.address_width})"


class BusGuard(wiring.Component):
    """Answers within a bounded time, whatever the bus behind it does.

    A word whose answer does not come in time is answered with an error and all ones. Until the late answer
    has come, further requests are answered so at once and do not reach the bus.

    Parameters
    ----------
    timeout : int
        Cycles from a request to the substitute for its answer, at least 8.

    Members
    -------
    i : In(WordBus())
    o : Out(WordBus())
    """

    def __init__(self, timeout: int):
        if not isinstance(timeout, int) or timeout < 8:
            raise ValueError(f"BusGuard timeout must be at least 8 cycles, not {timeout!r}")
        self._timeout = timeout
        super().__init__({"i": In(WordBus()), "o": Out(WordBus())})

    def elaborate(self, platform):
        m = Module()
        request, answer = self.i.request, self.i.answer
        timer = Signal(range(self._timeout))
        waiting = Signal()      # i waits for its answer
        owed = Signal()         # o has not answered yet
        refused = Signal()
        m.d.comb += [request.ready.eq(~waiting), refused.eq(request.valid & request.ready & owed)]
        m.d.sync += [answer.valid.eq(refused), answer.p.data.eq(0xFFFF_FFFF), answer.p.error.eq(1)]
        with m.If(waiting):
            m.d.sync += timer.eq(timer + 1)
            with m.If(timer == self._timeout - 1):
                m.d.sync += [waiting.eq(0), answer.valid.eq(1)]
        with m.Elif(request.valid & ~owed):
            m.d.sync += [waiting.eq(1), owed.eq(1), timer.eq(0), self.o.request.valid.eq(1),
                         self.o.request.payload.eq(request.payload)]
        with m.If(self.o.request.valid & self.o.request.ready):
            m.d.sync += self.o.request.valid.eq(0)
        with m.If(self.o.answer.valid):
            m.d.sync += [owed.eq(0), waiting.eq(0)]
            with m.If(waiting):
                m.d.sync += [answer.valid.eq(1), answer.payload.eq(self.o.answer.payload)]
        return m


class WordToAxiLite(wiring.Component):
    """Word bus to AXI4-Lite; every write has all four strobes set.

    Parameters
    ----------
    address_width : int
        Bits of the AXI4-Lite byte address; upper address bits of the word bus are ignored.

    Members
    -------
    i : In(WordBus(30))
    o : Out(AxiLite(address_width))
    """

    def __init__(self, address_width: int):
        super().__init__({"i": In(WordBus()), "o": Out(AxiLite(address_width))})

    def elaborate(self, platform):
        m = Module()
        request, answer = self.i.request, self.i.answer
        # Which channels still owe their handshake for the request in `taken`.
        taken = Signal.like(request.payload)
        need_address = Signal()
        need_data = Signal()
        waiting = Signal()
        address = taken.address << 2
        m.d.comb += [
            request.ready.eq(~waiting),
            self.o.aw.valid.eq(need_address & taken.write),
            self.o.aw.payload.eq(address),
            self.o.w.valid.eq(need_data),
            self.o.w.p.data.eq(taken.data),
            self.o.w.p.strobe.eq(0b1111),
            self.o.ar.valid.eq(need_address & ~taken.write),
            self.o.ar.payload.eq(address),
            self.o.b.ready.eq(waiting & taken.write),
            self.o.r.ready.eq(waiting & ~taken.write),
        ]
        with m.If(request.valid & request.ready):
            m.d.sync += [taken.eq(request.payload), waiting.eq(1), need_address.eq(1),
                         need_data.eq(request.p.write)]
        with m.If((self.o.aw.valid & self.o.aw.ready) | (self.o.ar.valid & self.o.ar.ready)):
            m.d.sync += need_address.eq(0)
        with m.If(self.o.w.valid & self.o.w.ready):
            m.d.sync += need_data.eq(0)
        done = Signal()
        resp = Signal(Resp)
        m.d.comb += [
            done.eq((self.o.b.valid & self.o.b.ready) | (self.o.r.valid & self.o.r.ready)),
            resp.eq(Mux(taken.write, self.o.b.payload, self.o.r.p.resp)),
        ]
        m.d.sync += [answer.valid.eq(done), answer.p.data.eq(self.o.r.p.data),
                     answer.p.error.eq(resp.as_value()[1])]
        with m.If(done):
            m.d.sync += waiting.eq(0)
        return m


class WordDecoder(wiring.Component):
    """Sends each request to one of several targets by its upper address bits.

    Parameters
    ----------
    select : int
        How many upper bits of the address choose.
    targets : dict of str to int
        Port name and the value of those bits. Other values are answered with an error.

    Members
    -------
    i : In(WordBus(30))
    <target> : Out(WordBus(30)), one for each; the address is passed on unchanged.
    """

    def __init__(self, select: int, targets: dict[str, int]):
        for name, value in targets.items():
            if not 0 <= value < 1 << select:
                raise ValueError(f"target {name} must have a value of {select} bits, not {value!r}")
        self._select = select
        self._targets = dict(targets)
        super().__init__({"i": In(WordBus()), **{name: Out(WordBus()) for name in targets}})

    def elaborate(self, platform):
        m = Module()
        request, answer = self.i.request, self.i.answer
        upper = request.p.address[-self._select:]
        ports = {name: getattr(self, name) for name in self._targets}
        none = Signal()
        m.d.comb += none.eq(1)
        for name, port in ports.items():
            here = Signal(name=f"here_{name}")
            m.d.comb += [here.eq(upper == self._targets[name]), port.request.payload.eq(request.payload),
                         port.request.valid.eq(request.valid & here)]
            with m.If(here):
                m.d.comb += [none.eq(0), request.ready.eq(port.request.ready)]
            # Only one answer can be under way.
            with m.If(port.answer.valid):
                m.d.sync += answer.payload.eq(port.answer.payload)
        with m.If(none):
            m.d.comb += request.ready.eq(1)
        nowhere = Signal()
        m.d.comb += nowhere.eq(request.valid & none)
        arrived = Signal()
        for port in ports.values():
            with m.If(port.answer.valid):
                m.d.comb += arrived.eq(1)
        m.d.sync += answer.valid.eq(arrived | nowhere)
        with m.If(nowhere):
            m.d.sync += [answer.p.data.eq(0xFFFF_FFFF), answer.p.error.eq(1)]
        return m
