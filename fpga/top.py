"""What goes on a board: the chip, its memory and the bridge to the host; around them pins and clock."""

from amaranth.hdl import ClockDomain, ClockSignal, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out, connect

from fpga.uartbone import UartBone
from fpga.word_bus import WordDecoder, WordToAxiLite
from kiwicha.chip import Chip
from kiwicha.config import ChipConfig
from kiwicha.isa import REGISTER_ADDRESS_WIDTH

from .boards import Board
from .ram import Ram

__all__ = ["BoardTop", "System"]

#: Upper four address bits of the host's words: main memory, and the chip's registers at 0xF000_0000.
MEMORY, REGISTERS = 0x0, 0xF


class System(wiring.Component):
    """Chip, memory and bridge, without anything that belongs to one board or FPGA; all in domain `sync`.

    Parameters
    ----------
    config : ChipConfig
    memory_bytes : int
        Main memory, from address 0.
    divisor : int
        Clock cycles per bit of the serial line.
    timeout : int, optional
        Cycles after which the bridge forgets an incomplete command; default 65536 bits.

    Members
    -------
    rx, tx : the serial line
    ended : Out(1)
        A program has ended, well or not, and the host has not looked yet.
    memory_busy : Out(1)
        A beat of data moves between chip and memory.
    host_busy : Out(1)
        The bridge is at work.
    """

    def __init__(self, config: ChipConfig, *, memory_bytes: int, divisor: int, timeout: int | None = None):
        self.config = config
        self._memory_bytes = memory_bytes
        self._divisor = divisor
        self._timeout = 65536 * divisor if timeout is None else timeout
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "ended": Out(1), "memory_busy": Out(1),
                          "host_busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.chip = chip = Chip(self.config)
        m.submodules.ram = ram = Ram(self.config, self._memory_bytes)
        m.submodules.bone = bone = UartBone(self._divisor, timeout=self._timeout)
        m.submodules.decoder = decoder = WordDecoder(4, {"memory": MEMORY, "registers": REGISTERS})
        m.submodules.registers = registers = WordToAxiLite(REGISTER_ADDRESS_WIDTH)
        connect(m, chip.memory_read, ram.read)
        connect(m, chip.memory_write, ram.write)
        connect(m, bone.bus, decoder.i)
        connect(m, decoder.memory, ram.word)
        connect(m, decoder.registers, registers.i)
        connect(m, registers.o, chip.host)
        m.d.comb += [bone.rx.eq(self.rx), self.tx.eq(bone.tx)]
        read, write = chip.memory_read.r, chip.memory_write.w
        m.d.sync += [self.ended.eq(chip.irq), self.host_busy.eq(bone.active),
                     self.memory_busy.eq((read.valid & read.ready) | (write.valid & write.ready))]
        return m


class _Stretch(wiring.Component):
    """Makes pulses visible: `o` stays high for 2**bits cycles after `i`."""

    def __init__(self, bits: int):
        self._bits = bits
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal(self._bits + 1)
        m.d.comb += self.o.eq(left[-1])
        with m.If(self.i):
            m.d.sync += left.eq(1 << self._bits)
        with m.Elif(self.o):
            m.d.sync += left.eq(left + 1)
        return m


class BoardTop(wiring.Component):
    """A whole board: :class:`System` on its PLL and pins.

    LED 0 blinks with the clock, 1 is memory traffic, 2 the host's, 3 a program that has ended; a board with fewer
    shows the first of them.
    """

    def __init__(self, config: ChipConfig, board: Board, *, clock_mhz: float, memory_bytes: int):
        self._board = board
        self._clock = board.pll.making(board.source_mhz * 1e6, clock_mhz * 1e6)
        self._divisor = round(self._clock.frequency / board.baud)
        error = self._clock.frequency / self._divisor / board.baud - 1
        if abs(error) > 0.02:
            raise ValueError(f"{clock_mhz:g} MHz cannot be divided to {board.baud} baud, it is off by {error:.1%}")
        self.system = System(config, memory_bytes=memory_bytes, divisor=self._divisor)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.source = source = io.Buffer("i", platform.request(self._board.clock, dir="-"))
        m.submodules.clock = clock = self._clock
        m.domains.board = ClockDomain(reset_less=True)
        m.domains.sync = ClockDomain(reset_less=True)
        m.d.comb += [ClockSignal("board").eq(source.i), clock.source.eq(source.i), ClockSignal().eq(clock.clock)]
        m.submodules.system = system = self.system

        # An extra register in the pin and in the fabric each: the serial line is slow.
        uart = platform.request("uart", 0, dir={pin.name: "-" for pin in platform.lookup("uart", 0).ios})
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        sent = Signal(init=1)
        m.d.sync += sent.eq(system.tx)
        m.d.comb += [system.rx.eq(rx.i), tx.o.eq(sent)]

        heart = Signal(26)
        m.d.sync += heart.eq(heart + 1)
        lights = [heart[-1]]
        for name in ("memory_busy", "host_busy", "ended"):
            m.submodules[f"stretch_{name}"] = stretch = _Stretch(20)
            m.d.comb += stretch.i.eq(getattr(system, name))
            lights.append(stretch.o)
        for i, light in enumerate(lights[:self._board.leds]):
            m.submodules[f"led{i}"] = led = io.Buffer("o", platform.request("led", i, dir="-"))
            m.d.sync += led.o.eq(light)
        return m
