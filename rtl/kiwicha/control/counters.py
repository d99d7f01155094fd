"""Cycle counters: for each unit one counter per activity, and the cycles of the run."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..isa import Activity, Unit

__all__ = ["Counters"]

WIDTH = 32


class Counters(wiring.Component):
    """Counts what each unit does, one activity for each unit in every counted cycle.

    So the counters of a unit always sum up to `cycles`. They wrap modulo 2^32. A unit does one thing
    at a time, hence one adder and a small LUT memory for all its counters; a valid bit for each stands for
    the zero that clearing would have to write.

    Latency: a cycle is counted one cycle later; `value` comes two cycles after its address.

    Members
    -------
    clear : In(1)
        All counters to zero; wins over `enable`.
    enable : In(1)
        Count this cycle.
    activity : In(Activity), one per Unit
    read_unit : In(Unit), read_activity : In(Activity)
        Which counter to read.
    value : Out(32)
    cycles : Out(32)
        Cycles counted.
    """

    def __init__(self):
        super().__init__({
            "clear": In(1),
            "enable": In(1),
            "activity": In(Activity).array(len(Unit)),
            "read_unit": In(Unit),
            "read_activity": In(Activity),
            "value": Out(WIDTH),
            "cycles": Out(WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        counting = Signal()
        m.d.sync += counting.eq(self.enable & ~self.clear)
        values = []
        for unit in Unit:
            value = Signal(WIDTH, name=f"value_{unit.name.lower()}")
            m.d.sync += value.eq(self._elaborate_unit(m, unit, counting))
            values.append(value)
        selected = Signal(Unit)
        m.d.sync += selected.eq(self.read_unit)
        m.d.sync += self.value.eq(Array(values)[selected])
        with m.If(self.clear):
            m.d.sync += self.cycles.eq(0)
        with m.Elif(counting):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        return m

    def _elaborate_unit(self, m, unit, counting):
        """The counters of one unit; return the one that is being read."""
        storage = Memory(shape=WIDTH, depth=len(Activity), init=[])
        m.submodules[f"counts_{unit.name.lower()}"] = storage
        write = storage.write_port()
        current = storage.read_port(domain="comb")
        shown = storage.read_port(domain="comb")
        activity = Signal(Activity, name=f"activity_{unit.name.lower()}")
        valid = Signal(len(Activity), name=f"valid_{unit.name.lower()}")
        m.d.sync += activity.eq(self.activity[unit.value])
        m.d.comb += [
            current.addr.eq(activity),
            shown.addr.eq(self.read_activity),
            write.addr.eq(activity),
            write.data.eq(Mux(valid.bit_select(activity, 1), current.data, 0) + 1),
            write.en.eq(counting),
        ]
        with m.If(self.clear):
            m.d.sync += valid.eq(0)
        with m.Elif(counting):
            m.d.sync += valid.bit_select(activity, 1).eq(1)
        return Mux(valid.bit_select(self.read_activity, 1), shown.data, 0)
