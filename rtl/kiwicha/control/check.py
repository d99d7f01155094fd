"""Checks instructions while they arrive: is there such an opcode, is a reserved bit set?"""

from amaranth.hdl import Const, Module, Mux, Shape, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INSTRUCTION_BYTES, INSTRUCTIONS, Unit

__all__ = ["Check", "Verdict"]

#: The opcode's bits that tell units apart.
UNIT_BITS = Shape.cast(Unit).width


class Verdict(data.Struct):
    """What the check found; `number` is the opcode, or the number of the lowest reserved bit set."""
    class Kind(enum.Enum, shape=2):
        OKAY = 0
        OPCODE = 1
        RESERVED = 2

    kind: Kind
    unit: Unit
    number: 9


class Check(wiring.Component):
    """Takes an instruction as bus beats, in order, at any pace, and gives its verdict.

    Latency: `valid` is high for one cycle, 5 cycles after the last beat. Throughput: a beat each cycle.

    Members
    -------
    beat_valid : In(1), beat : In(bus_width), place : In
        A beat, and which one of its instruction, from 0.
    clear : In(1)
        Forget all beats on their way, one in this cycle included.
    valid : Out(1)
        The verdict of an instruction is there, for one cycle.
    verdict : Out(Verdict)
    """

    def __init__(self, config: ChipConfig):
        self._width = config.bus_width
        self._beats = INSTRUCTION_BYTES // config.bus_bytes
        super().__init__({
            "beat_valid": In(1),
            "beat": In(config.bus_width),
            "place": In(range(self._beats)),
            "clear": In(1),
            "valid": Out(1),
            "verdict": Out(Verdict),
        })

    def elaborate(self, platform):
        m = Module()
        opcode, place, valid = self._elaborate_opcode(m)
        bits = self._elaborate_mask(m, opcode, place)
        # Stages 2 and 3: the lowest set bit of each byte, then of the beat.
        bytes_set, bytes_low = [], []
        for index in range(self._width // 8):
            is_set, low = lowest(bits[8 * index:8 * index + 8])
            bytes_set.append(delay(m, is_set))
            bytes_low.append(delay(m, low))
        is_set, low = lowest(bytes_set, bytes_low)
        beat_set, beat_low = delay(m, is_set), delay(m, low)
        for _ in range(3):
            opcode, place, valid = delay(m, opcode), delay(m, place), delay(m, valid & ~self.clear)
        # Stage 4: the first beat with a reserved bit decides.
        found, number = Signal(), Signal(9)
        here = place << low.shape().width | beat_low
        with m.If(valid):
            m.d.sync += found.eq(Mux(place == 0, beat_set, found | beat_set))
            with m.If((place == 0) | ~found):
                m.d.sync += number.eq(here)
        opcode = delay(m, opcode)
        is_unit = Signal()
        m.d.sync += self.valid.eq(valid & (place == self._beats - 1) & ~self.clear)
        m.d.comb += [
            is_unit.eq(opcode.matches(*(unit.value for unit in INSTRUCTIONS))),
            self.verdict.unit.eq(Mux(is_unit, opcode[:UNIT_BITS], Unit.FETCH)),
        ]
        with m.If(~is_unit):
            m.d.comb += [self.verdict.kind.eq(Verdict.Kind.OPCODE), self.verdict.number.eq(opcode)]
        with m.Elif(found):
            m.d.comb += [self.verdict.kind.eq(Verdict.Kind.RESERVED), self.verdict.number.eq(number)]
        return m

    def _elaborate_opcode(self, m):
        """Stage 0: the opcode, which came with the first beat, held through all beats."""
        held = Signal(8)
        opcode = Mux(self.place == 0, self.beat[:8], held)
        m.d.sync += held.eq(Mux(self.beat_valid, opcode, held))
        return held, delay(m, self.place), delay(m, self.beat_valid & ~self.clear)

    def _elaborate_mask(self, m, opcode, place):
        """Stage 1: the reserved bits that are set in the beat."""
        beat = delay(m, self.beat)
        mask = Signal(self._width)
        with m.Switch(opcode[:UNIT_BITS]):
            for unit, instruction in INSTRUCTIONS.items():
                with m.Case(unit.value):
                    reserved = Const(~instruction.used_mask & ((1 << 8 * INSTRUCTION_BYTES) - 1),
                                     8 * INSTRUCTION_BYTES)
                    m.d.comb += mask.eq(reserved.word_select(place, self._width))
        return delay(m, beat & mask)


def lowest(flags, lows=None):
    """Whether one of `flags` is set, and the number of the lowest, with its own `lows` behind it."""
    nodes = [(flag, lows[index] if lows else Const(0, 0)) for index, flag in enumerate(flags)]
    level = 0
    while len(nodes) > 1:
        below = nodes[0][1].shape().width
        nodes = [(left | right, Mux(left, left_low, right_low | (1 << below)))
                 for (left, left_low), (right, right_low) in zip(nodes[::2], nodes[1::2], strict=True)]
        level += 1
    return nodes[0]


def delay(m, value):
    """`value`, one cycle later."""
    delay = Signal.like(value, name="delayed")
    m.d.sync += delay.eq(value)
    return delay
