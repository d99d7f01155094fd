"""The whole chip: units, memories and buses, wired; no logic of its own."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .bus.arbiter import ReadArbiter
from .bus.axi import AxiLite, AxiRead, AxiWrite
from .config import ChipConfig
from .control.controller import Controller
from .control.probe import Probe
from .dma.index import IndexReader
from .dma.load import LoadUnit
from .dma.store import StoreUnit
from .isa import INSTRUCTIONS, REGISTER_ADDRESS_WIDTH
from .matmul.unit import MatmulUnit
from .memory.accumulator import Accumulator
from .memory.scratchpad import Scratchpad
from .vector.unit import VectorUnit

__all__ = ["Chip"]


class Chip(wiring.Component):
    """The chip, with its buses as streams (:class:`kiwicha.top.Top` has them as AXI pins).

    Parameters
    ----------
    config : ChipConfig
    probe : bool
        Have the member `probe`.

    Members
    -------
    host : In(AxiLite)
        Registers (:data:`kiwicha.isa.REGISTERS`).
    memory_read : Out(AxiRead)
        Programs and operands.
    memory_write : Out(AxiWrite)
        Results.
    irq : Out(1)
        High while an enabled end is pending.
    probe : Out(Probe)
        For a simulator's traces.
    """

    def __init__(self, config: ChipConfig, probe: bool = False):
        if not isinstance(config, ChipConfig):
            raise TypeError(f"config must be a ChipConfig, not {config!r}")
        self.config = config
        self._probe = probe
        super().__init__({
            "host": In(AxiLite(REGISTER_ADDRESS_WIDTH)),
            "memory_read": Out(AxiRead(config)),
            "memory_write": Out(AxiWrite(config)),
            "irq": Out(1),
            **({"probe": Out(Probe())} if probe else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.control = control = Controller(self.config, self._probe)
        m.submodules.load = load = LoadUnit(self.config)
        m.submodules.matmul = matmul = MatmulUnit(self.config)
        m.submodules.vector = vector = VectorUnit(self.config)
        m.submodules.store = store = StoreUnit(self.config)
        m.submodules.scratchpad = scratchpad = Scratchpad(self.config)
        m.submodules.accumulator = accumulator = Accumulator(self.config)
        m.submodules.read_arbiter = arbiter = ReadArbiter(self.config)

        connect(m, flipped(self.host), control.host)
        m.d.comb += self.irq.eq(control.irq)
        if self._probe:
            connect(m, control.probe, flipped(self.probe))
        for unit in INSTRUCTIONS:
            name = unit.name.lower()
            connect(m, getattr(control, name), getattr(m.submodules, name).control)
        m.d.comb += [load.window.eq(control.window), store.window.eq(control.window)]

        connect(m, control.bus, arbiter.fetch)
        connect(m, load.bus, arbiter.load)
        connect(m, arbiter.bus, flipped(self.memory_read))
        connect(m, store.bus, flipped(self.memory_write))

        connect(m, matmul.a, scratchpad.a)
        connect(m, matmul.w, scratchpad.w)
        if self.config.block_scaled:
            connect(m, matmul.s, scratchpad.s)
        connect(m, vector.params, scratchpad.params)
        connect(m, vector.operand, scratchpad.operand)
        if self.config.indices:
            m.submodules.index_reader = indices = IndexReader(self.config)
            connect(m, load.index, indices.load)
            connect(m, store.index, indices.store)
            connect(m, store.read, indices.lines)
            connect(m, indices.read, scratchpad.store)
        else:
            connect(m, store.read, scratchpad.store)
        connect(m, vector.write, scratchpad.vector)
        connect(m, load.write, scratchpad.load)

        m.d.comb += accumulator.i.eq(matmul.acc)
        connect(m, vector.acc, accumulator.read)
        return m
