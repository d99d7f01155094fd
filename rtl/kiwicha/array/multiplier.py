"""The array's multiplier: one contract, several ways to make it."""

from pathlib import Path

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.delay import later
from ..config import ChipConfig

__all__ = ["Ecp5Multiplier", "Ecp5PackedMultiplier", "Multiplier", "PortableMultiplier", "multiplier",
           "multiplier_class", "simulation_models"]


class Multiplier(wiring.Component):
    """Multiplies one activation with the weights of one or two array columns, exactly.

    Every cycle takes new operands; nothing stalls, nothing is reset, and what comes out in the first
    `latency` cycles has no meaning.

    Parameters
    ----------
    bel : str, optional
        The site that the FPGA's multiplier is locked to, in nextpnr's spelling.

    Attributes
    ----------
    columns : int
        Weights per multiplier, 1 or 2.
    latency : int
        Cycles from `a` and `b` to `p`.

    Members
    -------
    a : In(signed(8))
    b : In(ArrayLayout(signed(8), columns))
    p : Out(ArrayLayout(signed(16), columns))
        ``p[i] = a * b[i]``
    """

    columns: int
    latency: int

    def __init__(self, bel: str | None = None):
        if bel is not None and not isinstance(bel, str):
            raise TypeError(f"bel must be the name of a site, not {bel!r}")
        self._bel = bel
        super().__init__({
            "a": In(signed(8)),
            "b": In(data.ArrayLayout(signed(8), self.columns)),
            "p": Out(data.ArrayLayout(signed(16), self.columns)),
        })

    @property
    def bel(self) -> str | None:
        return self._bel


class PortableMultiplier(Multiplier):
    """A ``*`` and a register, for any technology; there is no site to lock it to."""

    columns = 1
    latency = 1

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.p[0].eq(later(m, self.a * self.b[0], "product"))
        return m


class Ecp5Multiplier(Multiplier):
    """One MULT18X18D with the registers at its inputs and its output."""

    columns = 1
    latency = 2

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.p[0].eq(_mult18x18d(m, self.a, self.b[0], self.bel))
        return m


class Ecp5PackedMultiplier(Multiplier):
    """Two products from one MULT18X18D, which yields P = a * (b[1] * 2^10 + u) with u = b[0] + 128.

    u is never negative, so the sum fits 18 bits (with b[0] itself it would not for b[1] = -128). P is
    a * b[1] * 2^10 + a * u, where a * u has 16 bits: its lower ten are P's, and its upper six are the
    difference modulo 64 between P's next six and those of a * b[1], which a few LUTs find. With them:

        a * b[0] = (a * u) - 128 * a              a * b[1] = (P - a * u) / 2^10

    The multiplier's own registers, and beside them a * b[1] modulo 64 in two steps; then adders, in the cycle
    that has the column sum's behind them. A register between would cost half of a cell's flip-flops again.
    """

    columns = 2
    latency = 2

    def elaborate(self, platform):
        m = Module()
        low, high = self.b[0], self.b[1]
        packed = Cat(low[:7], ~low[7], Const(0, 2), high).as_signed()
        product = _mult18x18d(m, self.a, packed, self.bel)
        known = self._modulo_64(m, high)
        # Activations of the last two cycles. They pass the next multipliers in the very same cycles: with
        # another initial value they cannot be merged with what those hold, in nets over half the array.
        kept = Signal(16, init=(1 << 16) - 1, reset_less=True)
        m.d.sync += kept.eq(Cat(self.a, kept[:8]))
        a = kept[8:].as_signed()

        # The upper six bits of a * u, and the borrow. Bits 0 to 6 of a * u are those of a * b[0]. P - a * u is
        # `known` below bit 16; above, a negative a * u adds 1 and a borrow, which comes in as a carry, takes 1.
        upper = Signal(7)
        m.d.comb += upper.eq(product[10:16] - known)
        borrow, negative = upper[6], upper[5]
        narrow = (Cat(product[7:10], upper[:6]) - a)[:9]
        wide = (Cat(Const(0, 1), product[16:26]) - Cat(borrow, negative.replicate(10)))[1:11]
        m.d.comb += self.p.eq(Cat(product[:7], narrow, known, wide))
        return m

    def _modulo_64(self, m, weight):
        """a * weight modulo 64, two cycles later; as shifted sums, since a ``*`` would take a multiplier."""
        def partial(bit, width):
            return ((weight[:width] & self.a[bit].replicate(width))
                    + (Cat(Const(0, 1), weight[:width - 1]) & self.a[bit + 1].replicate(width)))[:width]
        partials = later(m, Cat(partial(0, 6), partial(2, 4), partial(4, 2)), "partials")
        low, middle, high = partials[:6], partials[6:10], partials[10:]
        total = low[2:] + middle + Cat(Const(0, 2), high)
        return later(m, Cat(low[:2], total[:4]), "known")


def _mult18x18d(m, a, b, bel):
    """The signed product of two values of up to 18 bits, two cycles later."""
    # Operands sit at the upper pins: shifting is free in the FPGA, and extending the sign costs a simulator more
    # than the multiplication does.
    shifts = [18 - len(operand) for operand in (a, b)]
    a_pins, b_pins, product = Signal(18), Signal(18), Signal(36, name="product")
    m.d.comb += [pins.eq(Cat(Const(0, shift), operand))
                 for pins, shift, operand in zip((a_pins, b_pins), shifts, (a, b), strict=True)]
    registers = {f"p_REG_{stage}_CLK": "CLK0" for stage in ("INPUTA", "INPUTB", "OUTPUT")}
    pins = {**{f"i_A{i}": a_pins[i] for i in range(18)}, **{f"i_B{i}": b_pins[i] for i in range(18)},
            **{f"o_P{i}": product[i] for i in range(36)}}
    if bel is not None:
        pins["a_BEL"] = bel
    m.submodules.mult18x18d = Instance(
        "MULT18X18D", **registers, p_GSR="DISABLED", **pins,
        i_CLK0=ClockSignal(), i_CE0=Const(1), i_RST0=Const(0),
        i_SIGNEDA=Const(1), i_SIGNEDB=Const(1), i_SOURCEA=Const(0), i_SOURCEB=Const(0))
    return product[sum(shifts):].as_signed()


_VARIANTS = {"portable": PortableMultiplier, "ecp5": Ecp5Multiplier, "ecp5_packed": Ecp5PackedMultiplier}


def multiplier_class(config: ChipConfig) -> type[Multiplier]:
    """The variant that `config` names, for its `columns` and `latency`."""
    return _VARIANTS[config.multiplier]


def multiplier(config: ChipConfig, bel: str | None = None) -> Multiplier:
    """A multiplier of the variant that `config` names, locked to `bel` if one is given."""
    return multiplier_class(config)(bel)


def simulation_models(config: ChipConfig) -> list[Path]:
    """The Verilog files that a simulation of `config`'s chip needs beside the chip's own."""
    if config.multiplier == "portable":
        return []
    return [Path(__file__).with_name("MULT18X18D.v")]
