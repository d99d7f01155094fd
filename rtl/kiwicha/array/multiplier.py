"""The array's multiplier: one contract, several ways to make it."""

from pathlib import Path

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.mult18x18d import MODEL, mult18x18d
from ..config import ChipConfig
from ..lib.delay import delay
from ..timing import CELLS

__all__ = ["Ecp5MagnitudeMultiplier", "Ecp5Multiplier", "Ecp5PackedMultiplier", "Multiplier",
           "PortableMultiplier", "multiplier", "multiplier_class", "operand_shape", "simulation_models"]


class Multiplier(wiring.Component):
    """Multiplies one activation with the weights of one or two array columns, exactly.

    Every cycle takes new operands; nothing stalls, nothing is reset, and what comes out in the first
    `latency` cycles has no meaning.

    Operands are in two's complement, or a magnitude with its sign above it. A product is ``p + carry``: of
    signs and magnitudes `p` is the one's complement of a negative product, and `carry` is what is missing,
    for the adder that follows to take in; in two's complement `carry` is 0.

    Parameters
    ----------
    width : int
        Bits of an operand, its sign included.
    product_width : int
        Bits of `p`: enough for the products of all operands that there will be.
    sign_magnitude : bool
        Whether operands are a magnitude with the sign above it.

    Attributes
    ----------
    columns : int
        Weights per multiplier, 1 or 2.
    latency : int
        Cycles from `a` and `b` to `p` and `carry`.
    min_width, max_width : int
        What `width` may be, the sign of a magnitude not counted.
    forms : tuple
        What `sign_magnitude` may be.

    Members
    -------
    a : In(signed(width)), or In(width) with a sign and a magnitude
    b : In(ArrayLayout(the same, columns))
    p : Out(ArrayLayout(signed(product_width), columns))
        ``p[i] + carry[i] = a * b[i]``
    carry : Out(columns)

    Raises
    ------
    ValueError
        This variant does not multiply such operands.
    """

    columns: int
    latency: int
    min_width: int = 2
    max_width: int = 64
    forms: tuple[bool, ...] = (False,)

    def __init__(self, *, width: int = 8, product_width: int = 16, sign_magnitude: bool = False):
        if sign_magnitude not in self.forms:
            raise ValueError(f"{type(self).__name__} must have sign_magnitude {self.forms[0]}, "
                             f"not {sign_magnitude!r}")
        if not self.min_width <= width - sign_magnitude <= self.max_width:
            raise ValueError(f"{type(self).__name__} operands must have {self.min_width} to {self.max_width} "
                             f"bits, not {width - sign_magnitude}")
        self._width = width
        self._sign_magnitude = sign_magnitude
        operand = width if sign_magnitude else signed(width)
        super().__init__({
            "a": In(operand),
            "b": In(data.ArrayLayout(operand, self.columns)),
            "p": Out(data.ArrayLayout(signed(product_width), self.columns)),
            "carry": Out(self.columns),
        })

    @property
    def width(self) -> int:
        return self._width

    @property
    def sign_magnitude(self) -> bool:
        return self._sign_magnitude


class PortableMultiplier(Multiplier):
    """A ``*`` and a register, for any technology."""

    columns, latency = CELLS["portable"]
    forms = (False, True)

    def elaborate(self, platform):
        m = Module()
        if self.sign_magnitude:
            magnitude = delay(m, self.a[:-1] * self.b[0][:-1], "magnitude")
            _connect_signed(m, self, magnitude, delay(m, self.a[-1] ^ self.b[0][-1], "negative"))
        else:
            m.d.comb += self.p[0].eq(delay(m, self.a * self.b[0], "product"))
        return m


class Ecp5Multiplier(Multiplier):
    """One MULT18X18D with the registers at its inputs and its output, for two's complement."""

    columns, latency = CELLS["ecp5"]
    max_width = 18

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.p[0].eq(mult18x18d(m, self.a, self.b[0]))
        return m


class Ecp5MagnitudeMultiplier(Multiplier):
    """One MULT18X18D for the magnitudes, with its registers."""

    columns, latency = CELLS["ecp5"]
    max_width = 18
    forms = (True,)

    def elaborate(self, platform):
        m = Module()
        a, b = self.a, self.b[0]
        magnitude = mult18x18d(m, a[:-1], b[:-1], is_signed=False)
        _connect_signed(m, self, magnitude, delay(m, a[-1] ^ b[-1], "negative", 2))
        return m


def _connect_signed(m, unit, magnitude, negative):
    """The product with its sign: inverted if it is negative, and then a carry is due.

    No register follows: the adder takes a LUT's delay more, and a cell has a flip-flop less for each bit.
    """
    m.d.comb += [unit.p[0].eq(Cat(magnitude, Const(0, 1)) ^ negative.replicate(len(unit.p[0]))),
                 unit.carry.eq(negative)]


class Ecp5PackedMultiplier(Multiplier):
    """Two products from one MULT18X18D, which yields P = a * (b[1] * 2^10 + u) with u = b[0] + 128.

    u is never negative, so the sum fits 18 bits (with b[0] itself it would not for b[1] = -128). P is
    a * b[1] * 2^10 + a * u, where a * u has 16 bits: its lower ten are P's, and its upper six are the
    difference modulo 64 between P's next six and those of a * b[1], which a few LUTs find. With them:

        a * b[0] = (a * u) - 128 * a              a * b[1] = (P - a * u) / 2^10

    The multiplier's own registers, and beside them a * b[1] modulo 64 in two steps; then adders, in the cycle
    that has the column sum's behind them. A register between would cost half of a cell's flip-flops again.
    """

    columns, latency = CELLS["ecp5_packed"]
    min_width = max_width = 8

    def elaborate(self, platform):
        m = Module()
        low, high = self.b[0], self.b[1]
        packed = Cat(low[:7], ~low[7], Const(0, 2), high).as_signed()
        product = mult18x18d(m, self.a, packed)
        known = self._modulo_64(m, high)
        # Activations of the last two cycles. They pass the next multipliers in the very same cycles: with
        # another initial value they cannot be merged with what those hold, in nets over half the array.
        kept_1, kept_2 = (Signal(signed(8), name=f"kept_{age}", init=-1, reset_less=True) for age in (1, 2))
        m.d.sync += [kept_1.eq(self.a), kept_2.eq(kept_1)]

        # The upper six bits of a * u, and the borrow. Bits 0 to 6 of a * u are those of a * b[0]. P - a * u is
        # `known` below bit 16; above, a negative a * u adds 1 and a borrow, which comes in as a carry, takes 1.
        upper = Signal(7)
        m.d.comb += upper.eq(product[10:16] - known)
        borrow, negative = upper[6], upper[5]
        narrow = (Cat(product[7:10], upper[:6]) - kept_2)[:9]
        # Signed, not a bit repeated ten times: a simulator would put those together one by one.
        wide = (Cat(Const(0, 1), product[16:26]).as_signed() - Cat(borrow, negative).as_signed())[1:11]
        m.d.comb += self.p.eq(Cat(product[:7], narrow, known, wide))
        return m

    def _modulo_64(self, m, weight):
        """a * weight modulo 64, two cycles later; as shifted sums, since a ``*`` would take a multiplier."""
        def partial(bit, width):
            return (Mux(self.a[bit], weight[:width], 0)
                    + Mux(self.a[bit + 1], Cat(Const(0, 1), weight[:width - 1]), 0))[:width]
        partials = delay(m, Cat(partial(0, 6), partial(2, 4), partial(4, 2)), "partials")
        low, middle, high = partials[:6], partials[6:10], partials[10:]
        total = low[2:] + middle + Cat(Const(0, 2), high)
        return delay(m, Cat(low[:2], total[:4]), "known")


_VARIANTS = {"portable": PortableMultiplier, "ecp5": Ecp5Multiplier, "ecp5_packed": Ecp5PackedMultiplier}


def operand_shape(config: ChipConfig) -> Shape:
    """The shape of a decoded operand: signed, or plain bits if it is a magnitude with a sign."""
    return Shape(config.operand_width, signed=not config.sign_magnitude)


def multiplier_class(config: ChipConfig) -> type[Multiplier]:
    """The variant that `config` names, for its `columns` and `latency`."""
    if config.multiplier == "ecp5" and config.sign_magnitude:
        return Ecp5MagnitudeMultiplier
    return _VARIANTS[config.multiplier]


def multiplier(config: ChipConfig) -> Multiplier:
    """A multiplier of the variant that `config` names.

    It has at least the variant's `min_width`: narrower operands, in two's complement, are to be extended.
    """
    variant = multiplier_class(config)
    return variant(width=max(config.operand_width, variant.min_width), sign_magnitude=config.sign_magnitude,
                   product_width=max(config.product_width, 2 * variant.min_width))


def simulation_models(config: ChipConfig) -> list[Path]:
    """The Verilog files that a simulation of `config`'s chip needs beside the chip's own."""
    if config.multiplier == "portable":
        return []
    return [MODEL]
