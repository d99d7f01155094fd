"""The scratchpad: banks of block RAM behind five or six readers and two writers."""

from amaranth import Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from ..config import ChipConfig
from ..lib.delay import copies, delay, delay_valid
from ..timing import READ_LATENCY
from .ports import ReadPort, WritePort
from .ram import Ram

__all__ = ["READERS", "WRITERS", "Scratchpad"]

#: Who reads and who writes, highest priority first.
READERS = ("s", "a", "w", "params", "operand", "store")
WRITERS = ("vector", "load")


class Scratchpad(wiring.Component):
    """`scratchpad_banks` banks; the bank is the upper part of a line's address.

    In each cycle every bank serves one read and one write. Requests for different banks do not hinder each
    other; for the same bank the order of :data:`READERS` and :data:`WRITERS` decides, and who comes first
    may keep the others waiting for as long as it likes. A `ready` depends on the bank and `valid` of those
    ahead only. Addresses beyond the last line wrap: units check before they ask.

    A read of a line that is accepted in the cycle of a write of it, or fewer than
    :data:`kiwicha.timing.WRITE_LATENCY` cycles later, is a race in the program: its data are undefined.

    Members
    -------
    s : In(ReadPort)
        MATMUL's scales of A, if the chip has block scaling: a line for many vectors, so it goes first.
    a, w : In(ReadPort)
        MATMUL's vectors and its weights.
    params : In(ReadPort)
        VECTOR's parameters and tables.
    operand : In(ReadPort)
        VECTOR's operands.
    store : In(ReadPort)
        STORE's lines, and indices.
    vector, load : In(WritePort)
        VECTOR's and LOAD's lines.

    All are of `8 * line_bytes` bits; a read is answered :data:`kiwicha.timing.READ_LATENCY` cycles after
    its acceptance, and the answer is a multiplexer behind registers.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        self._readers = [name for name in READERS if name != "s" or config.block_scaled]
        width = 8 * config.line_bytes
        super().__init__({
            **{name: In(ReadPort(width)) for name in self._readers},
            **{name: In(WritePort(width)) for name in WRITERS},
        })

    def elaborate(self, platform):
        assert READ_LATENCY == 3, "Ram takes three cycles"
        m = Module()
        banks = []
        for bank in range(self.config.scratchpad_banks):
            m.submodules[f"bank{bank}"] = ram = Ram(8 * self.config.line_bytes, self.config.bank_lines)
            banks.append(ram)
        self._read(m, banks)
        self._write(m, banks)
        return m

    def _split(self, address):
        """(bank, line in the bank) of a line's address."""
        low = (self.config.bank_lines - 1).bit_length()
        high = (self.config.scratchpad_lines - 1).bit_length()
        return address[low:high], address[:low]

    def _arbitrate(self, m, requests):
        """Fixed priority per bank, `requests` being (stream, address) with the highest priority first."""
        for index, (stream, address) in enumerate(requests):
            bank, _ = self._split(address)
            taken = [ahead.valid & (self._split(other)[0] == bank) for ahead, other in requests[:index]]
            m.d.comb += stream.ready.eq(~Cat(*taken).any())

    def _wins(self, requests, bank):
        """One-hot: which of `requests` the bank serves in this cycle."""
        wants = [stream.valid & (self._split(address)[0] == bank) for stream, address in requests]
        return [want & ~Cat(*wants[:index]).any() for index, want in enumerate(wants)]

    def _read(self, m, banks):
        ports = [getattr(self, name) for name in self._readers]
        requests = [(port.request, port.request.payload) for port in ports]
        self._arbitrate(m, requests)
        for number, ram in enumerate(banks):
            wins = self._wins(requests, number)
            m.d.comb += ram.reads.eq(Cat(*wins).any())
            for win, (_, address) in zip(wins, requests, strict=True):
                with m.If(win):
                    m.d.comb += ram.read.eq(self._split(address)[1])
        for name, port in zip(self._readers, ports, strict=True):
            bank = self._split(port.request.payload)[0]
            valid = port.request.valid & port.request.ready
            m.d.comb += port.valid.eq(delay_valid(m, valid, f"{name}_valid", READ_LATENCY))
            bank = delay(m, bank, f"{name}_bank", READ_LATENCY - 1)
            size = len(port.data) // 4
            for quarter, own in enumerate(copies(m, bank, f"{name}_bank_of_quarter", 4)):
                with m.Switch(own):
                    for number, ram in enumerate(banks):
                        with m.Case(number):
                            m.d.comb += port.data.word_select(quarter, size).eq(ram.o.word_select(quarter, size))

    def _write(self, m, banks):
        """A register per writer, lest the way from its queue to all banks be one path."""
        requests = [(getattr(self, name).request, getattr(self, name).request.p.address) for name in WRITERS]
        self._arbitrate(m, requests)
        lines = [delay(m, stream.payload, f"{name}_line")
                 for name, (stream, _) in zip(WRITERS, requests, strict=True)]
        for number, ram in enumerate(banks):
            wins = copies(m, Cat(*self._wins(requests, number)), f"wins{number}", 4)
            address = self._chosen(wins[0], [self._split(line.address)[1] for line in lines])
            m.d.comb += [ram.write.enable.eq(wins[0].any()), ram.write.address.eq(address)]
            size = len(ram.write.data) // 4
            for quarter, own in enumerate(wins):
                m.d.comb += ram.write.data.word_select(quarter, size).eq(
                    self._chosen(own, [line.data.word_select(quarter, size) for line in lines]))

    def _chosen(self, wins, values):
        """The winner's; if there is none it does not matter which."""
        first, second = values
        return Mux(wins[0], first, second)
