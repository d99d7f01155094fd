"""The host's registers: an AXI4-Lite slave, and what it stores."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..bus.axi import AxiLite, Resp
from ..config import ChipConfig
from ..formats import FORMATS
from ..isa import (
    COUNTER_BASE,
    ID_VALUE,
    INDEX_WIDTH,
    PAGE_BITS,
    REGISTER_ADDRESS_WIDTH,
    REGISTERS,
    VERSION_VALUE,
    Access,
    Activity,
    Unit,
)
from .supervisor import ErrorRecord
from .unit import Window

__all__ = ["Registers"]

#: Registers are read in groups of so many, to keep each multiplexer small.
GROUP = 8


class Registers(wiring.Component):
    """Everything in :data:`kiwicha.isa.REGISTERS`, behind an AXI4-Lite slave.

    One write and one read at a time, independent of each other; the write address and its data may
    come in any order. Address bits 0 and 1 are ignored. Byte strobes hold: bytes without strobe keep
    their value. `b.valid` comes 3 cycles after the later of address and data, `r.valid` 5 cycles after
    the address.

    Errors: SLVERR, and no effect, for

      - a read or a write where there is no register;
      - a write to a read-only register;
      - a write to a register while a field of STATUS is set that it is `locked_by`, whatever it would change;
      - a one for a bit that a `strict` register has not: a window that silently lost its upper bits would be
        another window.
    Other bits that do not exist are ignored and read 0. CONTROL reads 0.

    Members
    -------
    host : In(AxiLite)
    irq : Out(1)
    start, abort : Out(1)
        High for one cycle when the host says so.
    program : Out(64), count : Out(24), watchdog : Out(32), window : Out(Window)
    busy, done, error, record : In
        What STATUS and ERROR show.
    succeeded, failed : In(1)
        Set the pending interrupts.
    read_unit : Out(Unit), read_activity : Out(Activity)
        The counter to read; registers.
    counter : In(32)
        Its value, 2 cycles later.
    cycles : In(32)
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        super().__init__({
            "host": In(AxiLite(REGISTER_ADDRESS_WIDTH)),
            "irq": Out(1),
            "start": Out(1),
            "abort": Out(1),
            "program": Out(64),
            "count": Out(INDEX_WIDTH),
            "watchdog": Out(32),
            "window": Out(Window(config)),
            "busy": In(1),
            "done": In(1),
            "error": In(1),
            "record": In(ErrorRecord),
            "succeeded": In(1),
            "failed": In(1),
            "read_unit": Out(Unit),
            "read_activity": Out(Activity),
            "counter": In(32),
            "cycles": In(32),
        })

    def elaborate(self, platform):
        m = Module()
        stored = self._elaborate_write(m)
        self._elaborate_read(m, self._readable(stored))
        first = Cat(stored["WINDOW_FIRST_LOW"], stored["WINDOW_FIRST_HIGH"])
        last = Cat(stored["WINDOW_LAST_LOW"], stored["WINDOW_LAST_HIGH"])
        m.d.comb += [
            self.program.eq(Cat(stored["PROGRAM_LOW"], stored["PROGRAM_HIGH"])),
            self.count.eq(stored["PROGRAM_COUNT"]),
            self.watchdog.eq(stored["WATCHDOG"]),
            self.window.first.eq(first[PAGE_BITS:]),
            self.window.last.eq(last[PAGE_BITS:]),
            self.irq.eq((stored["IRQ_ENABLE"] & stored["IRQ_PENDING"]).any()),
        ]
        return m

    def _elaborate_write(self, m):
        """The write channels: collect, examine, apply, answer. Returns the stored registers."""
        host = self.host
        address, has_address = Signal(REGISTER_ADDRESS_WIDTH), Signal()
        word, strobe, has_word = Signal(32), Signal(4), Signal()
        m.d.comb += [host.aw.ready.eq(~has_address), host.w.ready.eq(~has_word)]
        with m.If(host.aw.valid & host.aw.ready):
            m.d.sync += [address.eq(host.aw.payload), has_address.eq(1)]
        with m.If(host.w.valid & host.w.ready):
            m.d.sync += [word.eq(host.w.p.data), strobe.eq(host.w.p.strobe), has_word.eq(1)]
        bits = Cat(bit.replicate(8) for bit in strobe)
        apply = Signal()
        refused = Signal()
        stored = self._elaborate_stored(m, apply, address, word, bits)
        m.d.sync += refused.eq(self._refusal(m, address, word & bits, stored))
        with m.FSM(name="write"):
            with m.State("COLLECT"):
                with m.If(has_address & has_word):
                    m.next = "APPLY"
            with m.State("APPLY"):
                m.d.comb += apply.eq(~refused)
                m.d.sync += [host.b.valid.eq(1), host.b.payload.eq(Mux(refused, Resp.SLVERR, Resp.OKAY)),
                             has_address.eq(0), has_word.eq(0)]
                m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(host.b.ready):
                    m.d.sync += host.b.valid.eq(0)
                    m.next = "COLLECT"

        return stored

    def _elaborate_stored(self, m, apply, address, word, bits):
        """What each register with a memory holds; with `apply`, the `bits` of `word` are written to `address`."""
        width, stored = self._config.address_width, {}
        # An end that comes in the cycle in which the host clears is not lost.
        comes = {"IRQ_PENDING": packed("IRQ_PENDING", done=self.succeeded, error=self.failed)}
        for name, register in REGISTERS.items():
            mask, hit = register.writable_bits(width), apply & (address[2:] == register.offset >> 2)
            ones = Mux(hit, word & bits & mask, 0)
            if register.access is Access.RO:
                continue
            if register.access is Access.WO:
                m.d.sync += [getattr(self, field.name).eq(ones[field.bit]) for field in register.fields]
                continue
            stored[name] = value = Signal(32, name=name.lower(), init=register.reset_value(width))
            match register.access:
                case Access.RW:
                    with m.If(hit):
                        m.d.sync += value.eq((word & bits & mask) | (value & ~(bits & mask)))
                case Access.RW1S:
                    m.d.sync += value.eq(value | ones)
                case Access.RW1C:
                    m.d.sync += value.eq((value & ~ones) | comes[name])
        return stored

    def _refusal(self, m, address, word, stored):
        """Whether this write must not be done."""
        refuse = Signal()
        width = self._config.address_width
        locks = {"busy": self.busy, "locked": stored["WINDOW_LOCK"].any()}
        with m.Switch(address[2:]):
            for register in REGISTERS.values():
                if register.access is Access.RO:
                    continue
                reasons = [locks[name] for name in register.locked_by]
                if register.strict:
                    reasons.append((word & ~register.writable_bits(width)).any())
                with m.Case(register.offset >> 2):
                    m.d.comb += refuse.eq(Cat(reasons).any())
            with m.Default():
                m.d.comb += refuse.eq(1)
        return refuse

    def _readable(self, stored):
        """What each register reads, but for the counters."""
        config = self._config
        formats = sum((name in config.formats) << bit for bit, name in enumerate(FORMATS))
        address = self.record.address
        return {
            **stored,
            "ID": ID_VALUE,
            "VERSION": VERSION_VALUE,
            "ARRAY": packed("ARRAY", rows=config.rows, columns=config.columns,
                            vector_lanes=config.vector_lanes, line_bytes=config.line_bytes),
            "BUS": packed("BUS", bus_bytes=config.bus_bytes, address_width=config.address_width,
                          reads_in_flight=config.reads_in_flight, writes_in_flight=config.writes_in_flight),
            "SCRATCHPAD": packed("SCRATCHPAD", bank_lines=config.bank_lines, banks=config.scratchpad_banks,
                                 queue_depth=config.queue_depth),
            "ACCUMULATOR": config.accumulator_lines,
            "FORMATS": formats,
            "FEATURES": packed("FEATURES", functions=config.functions, block_scales=config.block_scales,
                               indices=config.indices, top_k=config.top_k),
            "CONTROL": 0,
            "STATUS": packed("STATUS", busy=self.busy, done=self.done, error=self.error,
                             locked=stored["WINDOW_LOCK"].any()),
            "ERROR": packed("ERROR", code=self.record.code, unit=self.record.unit),
            "ERROR_INSTRUCTION": self.record.index,
            "ERROR_ADDRESS_LOW": address[:32],
            "ERROR_ADDRESS_HIGH": address[32:],
            "CYCLES": self.cycles,
        }

    def _elaborate_read(self, m, readable):
        """The read channels: pick within groups, then among groups and counters, answer."""
        host = self.host
        address = Signal(REGISTER_ADDRESS_WIDTH)
        word, group = address[2:5], address[5:]
        groups = {}
        for name, value in readable.items():
            number, place = divmod(REGISTERS[name].offset // 4, GROUP)
            groups.setdefault(number, {})[place] = value
        picked = {number: (Signal(32, name=f"group_{number}"), Signal(name=f"known_{number}"))
                  for number in groups}
        for number, (value, known) in picked.items():
            m.d.sync += [known.eq(0), value.eq(0)]
            with m.Switch(word):
                for place, source in groups[number].items():
                    with m.Case(place):
                        m.d.sync += [value.eq(source), known.eq(1)]
        # A unit's counters fill one group.
        counters = COUNTER_BASE // 4 // GROUP
        # Registered: the counters lie far away, among the units, and would pull `address` along.
        m.d.sync += [self.read_unit.eq(group - counters), self.read_activity.eq(word)]

        with m.FSM(name="read"):
            with m.State("ADDRESS"):
                m.d.comb += host.ar.ready.eq(1)
                m.d.sync += address.eq(host.ar.payload)
                with m.If(host.ar.valid):
                    m.next = "PICK"
            # The counter takes three cycles.
            for state, following in (("PICK", "FETCH"), ("FETCH", "WAIT"), ("WAIT", "SELECT")):
                with m.State(state):
                    m.next = following
            with m.State("SELECT"):
                m.d.sync += [host.r.p.data.eq(0), host.r.p.resp.eq(Resp.SLVERR), host.r.valid.eq(1)]
                with m.Switch(group):
                    for number, (value, known) in picked.items():
                        with m.Case(number):
                            m.d.sync += [host.r.p.data.eq(value),
                                         host.r.p.resp.eq(Mux(known, Resp.OKAY, Resp.SLVERR))]
                    with m.Case(*(counters + unit.value for unit in Unit)):
                        m.d.sync += [host.r.p.data.eq(self.counter), host.r.p.resp.eq(Resp.OKAY)]
                m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(host.r.ready):
                    m.d.sync += host.r.valid.eq(0)
                    m.next = "ADDRESS"


def packed(name, **values):
    """What register `name` reads with these values in its fields, one for each."""
    parts = []
    for field in sorted(REGISTERS[name].fields, key=lambda field: field.bit):
        value = Value.cast(values.pop(field.name))
        if len(value) > field.width:
            raise ValueError(f"{value!r} does not fit field {field.name} of register {name}")
        parts += [Const(0, field.bit - sum(map(len, parts))), value]
    if values:
        raise ValueError(f"register {name} has no field {', '.join(values)}")
    return Cat(parts)
