"""A serial port as bus master: UART receiver and transmitter, and the bridge that obeys their bytes.

The bridge speaks LiteX's "uartbone" protocol, so that its tools work too: a command byte (1 write, 2 read,
both with rising addresses; 3 write, 4 read, at one address), a byte with the number of words, a 32-bit word
address, and for a write the words; a read is answered by the words and a write by nothing. All numbers go
most significant byte first.
"""

from contextlib import contextmanager

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out, connect, flipped

from kiwicha.lib.stream import Queue

from .word_bus import BusGuard, WordBus

__all__ = ["Command", "UartBone", "UartReceiver", "UartTransmitter"]


class Command(enum.Enum, shape=8):
    WRITE = 1
    READ = 2
    WRITE_FIXED = 3
    READ_FIXED = 4


def _check_divisor(divisor):
    if not isinstance(divisor, int) or isinstance(divisor, bool) or not 4 <= divisor <= 1 << 20:
        raise ValueError(f"UART divisor must be from 4 to {1 << 20} cycles per bit, not {divisor!r}")


class UartReceiver(wiring.Component):
    """8 data bits, no parity, one stop bit; samples each bit in its middle.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    pin : In(1)
        The line, asynchronous; high when idle.
    o : Out(stream of 8 bits)
        A byte, valid for one cycle: whoever listens must take it then.
    broken : Out(1)
        One cycle high: a byte came without its stop bit and is dropped.
    """

    def __init__(self, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"pin": In(1, init=1), "o": Out(stream.Signature(8, always_ready=True)),
                          "broken": Out(1)})

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.pin, line, init=1)
        timer = Signal(range(self.divisor))
        bits = Signal(8)
        count = Signal(range(10))
        m.d.sync += [self.o.valid.eq(0), self.broken.eq(0), timer.eq(timer - 1)]
        with m.FSM(name="receiver"):
            with m.State("IDLE"):
                # From the falling edge, seen up to a cycle late, to the middle of the start bit.
                m.d.sync += [timer.eq(self.divisor // 2 - 2), count.eq(0)]
                with m.If(~line):
                    m.next = "BITS"
            with m.State("BITS"):
                with m.If(timer == 0):
                    m.d.sync += [timer.eq(self.divisor - 1), count.eq(count + 1)]
                    with m.If((count == 0) & line):
                        m.next = "IDLE"     # a spike, no start bit
                    with m.Elif(count == 9):
                        m.d.sync += [self.o.valid.eq(line), self.o.payload.eq(bits), self.broken.eq(~line)]
                        m.next = "STOP"
                    with m.Else():
                        m.d.sync += bits.eq(Cat(bits[1:], line))
            with m.State("STOP"):
                # After a break the line must first become idle again.
                with m.If(line):
                    m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """The mirror of :class:`UartReceiver`: takes a byte every 10 * divisor cycles.

    Members
    -------
    i : In(stream of 8 bits)
    pin : Out(1)
    """

    def __init__(self, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "pin": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        timer = Signal(range(self.divisor))
        # The bits still to send, a stop bit last; nothing but ones is idle.
        bits = Signal(9, init=0x1FF)
        left = Signal(range(11))
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(left == 0):
            m.d.sync += timer.eq(self.divisor - 1)
            with m.If(self.i.valid):
                m.d.sync += [self.pin.eq(0), bits.eq(Cat(self.i.payload, 1)), left.eq(10)]
        with m.Elif(timer == 0):
            m.d.sync += [timer.eq(self.divisor - 1), self.pin.eq(bits[0]), bits.eq(Cat(bits[1:], 1)),
                         left.eq(left - 1)]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        return m


class UartBone(wiring.Component):
    """The bridge: bytes from `rx` become requests on `bus`, answers become bytes on `tx`.

    A host may send one more command while a read is being answered; a 16-byte queue holds it. A command that
    stays incomplete for `timeout` cycles is forgotten, and so is one with a damaged byte. A word whose answer
    does not come within `bus_timeout` cycles reads as all ones; until that answer has come, further
    words read so at once, and words written are lost.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit of the serial line, at least 4.
    timeout : int
        Cycles of silence that end an incomplete command.
    bus_timeout : int
        Cycles to wait for the bus.

    Members
    -------
    rx, tx : the serial line's pins; high when idle
    bus : Out(WordBus())
    active : Out(1)
        A command is being received or carried out.
    """

    def __init__(self, divisor: int, *, timeout: int = 1 << 23, bus_timeout: int = 1 << 12):
        _check_divisor(divisor)
        if timeout < 20 * divisor:
            raise ValueError(f"UartBone timeout must be at least two bytes ({20 * divisor}), not {timeout!r}")
        self.divisor = divisor
        self.timeout = timeout
        self.bus_timeout = bus_timeout
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "bus": Out(WordBus()), "active": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.submodules.queue = queue = Queue(8, 16)
        m.submodules.guard = guard = BusGuard(self.bus_timeout)
        connect(m, guard.o, flipped(self.bus))
        m.d.comb += [receiver.pin.eq(self.rx), self.tx.eq(transmitter.pin),
                     queue.i.valid.eq(receiver.o.valid), queue.i.payload.eq(receiver.o.payload)]

        m.submodules.bridge = bridge = _Bridge()
        connect(m, queue.o, bridge.i)
        connect(m, bridge.o, transmitter.i)
        connect(m, bridge.bus, guard.i)
        silence = Signal(range(self.timeout + 1))
        drop = Signal()
        waiting = self.active & queue.o.ready & ~queue.o.valid
        m.d.sync += [silence.eq(Mux(waiting, silence + 1, 0)),
                     drop.eq((silence == self.timeout - 1) | receiver.broken)]
        m.d.comb += [queue.clear.eq(drop), bridge.drop.eq(drop), self.active.eq(bridge.active)]
        return m


class _Bridge(wiring.Component):
    """Commands to requests on the bus, and its answers to bytes; one word at a time.

    Latency: a request 2 cycles after the last byte of its command or word; the first byte of an answer a cycle
    after it. Throughput: whatever the line brings and takes.

    Members
    -------
    i : In(stream of 8 bits)
    drop : In(1)
        Forget a command that is not complete.
    o : Out(stream of 8 bits)
    bus : Out(WordBus())
    active : Out(1)
        A command is being received or carried out.
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "drop": In(1), "o": Out(stream.Signature(8)),
                          "bus": Out(WordBus()), "active": Out(1)})

    def elaborate(self, platform):
        m = Module()
        # The command; words still to do; the word under way, shifted in from the line or out to it, and its bytes.
        state = Signal(data.StructLayout({
            "write": 1, "fixed": 1, "address": 30, "left": 8, "word": 32, "byte": 2}))
        request = self.bus.request
        m.d.comb += [request.p.address.eq(state.address), request.p.write.eq(state.write),
                     request.p.data.eq(state.word)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += state.word.eq(Cat(self.i.payload, state.word))
        with m.FSM(name="bridge") as fsm:
            m.d.comb += self.active.eq(~fsm.ongoing("COMMAND"))
            self._receive(m, state)
            self._carry_out(m, state)
        return m

    def _receive(self, m, state):
        """The states that take bytes, and give up when told to."""
        byte, last = self.i.payload, state.byte == 3

        @contextmanager
        def on_byte(name):
            with m.State(name):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    yield
                if name != "COMMAND":
                    with m.If(self.drop):
                        m.next = "COMMAND"

        with on_byte("COMMAND"):
            m.d.sync += [state.byte.eq(0), state.write.eq(byte[0]), state.fixed.eq(byte[:3] >= 3)]
            with m.If(byte.matches(*Command)):
                m.next = "LENGTH"
        with on_byte("LENGTH"):
            m.d.sync += state.left.eq(byte)
            m.next = "ADDRESS"
        with on_byte("ADDRESS"):
            m.d.sync += state.byte.eq(state.byte + 1)
            with m.If(last):
                m.d.sync += state.address.eq(Cat(byte, state.word))
                m.next = "NEXT"
        with on_byte("DATA"):
            m.d.sync += state.byte.eq(state.byte + 1)
            with m.If(last):
                m.next = "REQUEST"

    def _carry_out(self, m, state):
        """The states that read and write words."""
        with m.State("NEXT"):
            with m.If(state.left == 0):
                m.next = "COMMAND"
            with m.Elif(state.write):
                m.next = "DATA"
            with m.Else():
                m.next = "REQUEST"
        with m.State("REQUEST"):
            m.d.comb += self.bus.request.valid.eq(1)
            with m.If(self.bus.request.ready):
                m.next = "ANSWER"
        with m.State("ANSWER"):
            with m.If(self.bus.answer.valid):
                m.d.sync += [state.left.eq(state.left - 1), state.word.eq(self.bus.answer.p.data)]
                with m.If(~state.fixed):
                    m.d.sync += state.address.eq(state.address + 1)
                with m.If(state.write):
                    m.next = "NEXT"
                with m.Else():
                    m.next = "SEND"
        with m.State("SEND"):
            m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(state.word[24:])]
            with m.If(self.o.ready):
                m.d.sync += [state.word.eq(state.word << 8), state.byte.eq(state.byte + 1)]
                with m.If(state.byte == 3):
                    m.next = "NEXT"
