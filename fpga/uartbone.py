"""A serial port as bus master: UART receiver and transmitter, and the bridge that obeys their bytes.

The bridge speaks LiteX's "uartbone" protocol, so that its tools work too: a command byte (1 write, 2 read,
both with rising addresses; 3 write, 4 read, at one address), a byte with the number of words, a 32-bit word
address, and for a write the words; a read is answered by the words and a write by nothing. All numbers go
most significant byte first.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import enum, stream, wiring
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

        get = Signal()
        silence = Signal(range(self.timeout + 1))
        drop = Signal()
        m.d.comb += get.eq(queue.o.valid & queue.o.ready)
        m.d.sync += [silence.eq(Mux(get | ~self.active | ~queue.o.ready, 0, silence + 1)),
                     drop.eq((silence == self.timeout - 1) | receiver.broken)]
        m.d.comb += queue.clear.eq(drop)
        self._bridge(m, queue, get, drop, transmitter.i, guard.i)
        return m

    def _bridge(self, m, queue, get, drop, send, bus):
        write = Signal()
        fixed = Signal()
        address = Signal(30)
        left = Signal(8)
        # The word under way, shifted in from the line or out to it, and its bytes so far.
        word = Signal(32)
        byte = Signal(2)
        shifted = Cat(queue.o.payload, word[:24])
        m.d.comb += [bus.request.p.address.eq(address), bus.request.p.write.eq(write),
                     bus.request.p.data.eq(word)]
        with m.If(get):
            m.d.sync += word.eq(shifted)
        with m.FSM(name="bridge") as fsm:
            m.d.comb += self.active.eq(~fsm.ongoing("COMMAND"))

            def receive(state, then):
                # A state that takes bytes and gives up when told to.
                with m.State(state):
                    m.d.comb += queue.o.ready.eq(1)
                    with m.If(get):
                        then()
                    if state != "COMMAND":
                        with m.If(drop):
                            m.next = "COMMAND"

            def command():
                m.d.sync += [byte.eq(0), write.eq(queue.o.payload[0]), fixed.eq(queue.o.payload[:3] >= 3)]
                with m.If(queue.o.payload.matches(*Command)):
                    m.next = "LENGTH"

            def length():
                m.d.sync += left.eq(queue.o.payload)
                m.next = "ADDRESS"

            def address_byte():
                m.d.sync += byte.eq(byte + 1)
                with m.If(byte == 3):
                    m.d.sync += address.eq(shifted)
                    m.next = "NEXT"

            def data_byte():
                m.d.sync += byte.eq(byte + 1)
                with m.If(byte == 3):
                    m.next = "REQUEST"

            receive("COMMAND", command)
            receive("LENGTH", length)
            receive("ADDRESS", address_byte)
            receive("DATA", data_byte)
            with m.State("NEXT"):
                with m.If(left == 0):
                    m.next = "COMMAND"
                with m.Elif(write):
                    m.next = "DATA"
                with m.Else():
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += bus.request.valid.eq(1)
                with m.If(bus.request.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(bus.answer.valid):
                    m.d.sync += [left.eq(left - 1), word.eq(bus.answer.p.data)]
                    with m.If(~fixed):
                        m.d.sync += address.eq(address + 1)
                    with m.If(write):
                        m.next = "NEXT"
                    with m.Else():
                        m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [send.valid.eq(1), send.payload.eq(word[24:])]
                with m.If(send.ready):
                    m.d.sync += [word.eq(word << 8), byte.eq(byte + 1)]
                    with m.If(byte == 3):
                        m.next = "NEXT"
