"""From stored elements, integers or E4M3, E3M2, E2M3 and E2M1, to the array's operands."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..formats import FORMATS, ElementFormat
from ..lib.delay import delay

__all__ = ["EdgeDecoder"]


class EdgeDecoder(wiring.Component):
    """Decodes `count` elements per cycle to operands, exactly: the significands of :mod:`kiwicha.formats`.

    An element of 6 or 8 bits is in the byte of its number, in its low bits; one of 4 bits is in the nibble of
    its number, so two are in a byte, and the upper half of the bytes is not looked at. Nothing stalls,
    nothing is reset. Only the formats that the chip has get logic; with INT8 alone it is wires and registers.

    How it works: a floating-point element is a significand of up to four bits, shifted left by its exponent
    field less one; an integer is taken as one that is not shifted. In order, if there are such formats:
    significand and distance; shift and sign.

    Parameters
    ----------
    config : ChipConfig
        For its `formats`, `operand_width` and `sign_magnitude`.
    count : int
        Elements per cycle, at least 1.

    Attributes
    ----------
    latency : int
        Cycles from `i` to `o`: 1 if all formats are integers, else 2.

    Members
    -------
    i : In(8 * count)
    format : In(ElementFormat)
        Of what is on `i` in the same cycle. Formats that the chip does not have give operands without meaning.
    o : Out(ArrayLayout(operand_width, count))
        Two's complement; or, if `config.sign_magnitude`, a magnitude with the sign above it, whose zero may be
        negative.
    nan : Out(count)
        The element is NaN. Its operand is a zero.

    Raises
    ------
    TypeError, ValueError
        `config` is not a ChipConfig; `count` is not an integer, or too small.
    """

    def __init__(self, config: ChipConfig, count: int):
        if not isinstance(config, ChipConfig):
            raise TypeError(f"config must be a ChipConfig, not {config!r}")
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"EdgeDecoder count must be an integer, not {count!r}")
        if count < 1:
            raise ValueError(f"EdgeDecoder count must be at least 1, not {count!r}")
        self._config = config
        self._count = count
        self._formats = [FORMATS[name] for name in config.formats]
        super().__init__({
            "i": In(8 * count),
            "format": In(ElementFormat),
            "o": Out(data.ArrayLayout(config.operand_width, count)),
            "nan": Out(count),
        })

    @property
    def count(self) -> int:
        return self._count

    @property
    def latency(self) -> int:
        return 2 if any(item.is_float for item in self._formats) else 1

    def elaborate(self, platform):
        m = Module()
        for index in range(self._count):
            byte, nibble = self.i.word_select(index, 8), self.i.word_select(index, 4)
            codes = [(item, nibble if item.bits == 4 else byte[:item.bits]) for item in self._formats]
            integer = self._choose([(item, code.as_signed()) for item, code in codes if not item.is_float])
            floats = [(item, code) for item, code in codes if item.is_float]
            if floats:
                self._decode(m, index, integer, floats)
            else:
                m.d.comb += self.o[index].eq(delay(m, integer, f"operand_{index}"))
        return m

    def _choose(self, values):
        """The value of the format that there is; 0 if there is none to choose from."""
        # The last one need not be told from formats that the chip does not have.
        chosen = values[-1][1] if values else Const(0, signed(1))
        for item, value in values[:-1]:
            chosen = Mux(self.format == item.code, value, chosen)
        return chosen

    def _decode(self, m, index, integer, floats):
        """An element that may be floating-point, in two cycles."""
        # 1: an integer, or a floating-point significand and where it goes; the other is zero.
        is_float = Cat(self.format == item.code for item, _ in floats).any()
        negative = self._choose([(item, code[-1]) for item, code in floats])
        # A subnormal, of field 0, has the exponent of field 1.
        fields = [(item, code[item.mantissa_bits:-1]) for item, code in floats]
        places = delay(m, self._choose([(item, (field - field.any())[:len(field)]) for item, field in fields]),
                       f"places_{index}")
        significand = self._choose([(item, Cat(code[:item.mantissa_bits], code[item.mantissa_bits:-1].any()))
                                    for item, code in floats])
        nan = is_float & self._choose([(item, code[:-1].all() if item.has_nan else Const(0))
                                       for item, code in floats])
        significand = Mux(is_float & ~nan, significand, 0)
        integer_sign = integer[-1]
        if self._config.sign_magnitude:
            integer = ((integer ^ integer_sign.replicate(len(integer))) + integer_sign)[:len(integer)]
        else:
            significand = Mux(negative, -significand, significand)
        integer = delay(m, Mux(is_float, 0, integer), f"integer_{index}")
        significand = delay(m, significand, f"significand_{index}")

        # 2: the shift. Only one of the two terms is not zero.
        operand = Signal(self._config.operand_width - self._config.sign_magnitude, name=f"operand_{index}",
                         reset_less=True)
        m.d.sync += operand.eq((significand << places) | integer)
        sign = delay(m, Mux(is_float, negative, integer_sign), f"sign_{index}", 2)
        m.d.comb += [
            self.o[index].eq(Cat(operand, sign) if self._config.sign_magnitude else operand),
            self.nan[index].eq(delay(m, nan, f"nan_{index}", 2)),
        ]
