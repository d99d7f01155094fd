"""Block sums: the array's partial sums of a block, added exactly, scaled, and rounded to FP32 once."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.scaled import ScaledToFloat
from ..config import ChipConfig
from ..formats import SCALE_NAN
from ..lib.delay import Delay, delay, delay_valid
from ..timing import BLOCK_SUM, READ_LATENCY
from .ports import LINE_ADDRESS
from .ram import Ram

__all__ = ["EXPONENT", "BlockSum", "accumulation", "addition"]

#: The power of two of a product: both formats' exponents, and both scales'.
EXPONENT = signed(10)


def accumulation(config: ChipConfig) -> data.StructLayout:
    """One line's worth of column sums: to replace what `address` holds or, with `add`, to be added to it.

    A chip with block scaling has more. With `scaled`, they are a block's partial sums, and `begin` or `end` it;
    then `exponent` and each column's `scale` (E8M0) scale it. `nan` is about the vector, `column_nan` the weights.
    """
    scaled = {
        "scaled": 1, "begin": 1, "end": 1, "exponent": EXPONENT, "nan": 1,
        "scale": data.ArrayLayout(8, config.columns), "column_nan": config.columns,
    }
    return data.StructLayout({
        "valid": 1,
        "address": LINE_ADDRESS,
        "add": 1,
        "data": data.ArrayLayout(signed(config.sum_width), config.columns),
        **(scaled if config.block_scaled else {}),
    })


def addition(config: ChipConfig) -> data.StructLayout:
    """What reaches the accumulators: as :func:`accumulation`, but integers or, with `float`, FP32."""
    if not config.block_scaled:
        return accumulation(config)
    return data.StructLayout({
        "valid": 1, "address": LINE_ADDRESS, "add": 1, "float": 1,
        "data": data.ArrayLayout(signed(32), config.columns),
    })


class BlockSum(wiring.Component):
    """Column sums to additions; those of a block become one, when it ends.

    For each accumulator line there is a partial sum per column, exact, of `block_sum_width` bits, and whether a
    NaN took part in it. Integer sums pass by, in as many cycles.

    Latency :attr:`LATENCY` cycles, one line per cycle, no stall. Partial sums of one block and line must be
    :attr:`HAZARD` cycles apart.

    Members
    -------
    i : In(accumulation(config))
    o : Out(addition(config))
    """

    #: Block RAM, its register, the adder's, the write's: as for the accumulators.
    HAZARD = READ_LATENCY + 2
    LATENCY = BLOCK_SUM

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({"i": In(accumulation(config)), "o": Out(addition(config))})

    def elaborate(self, platform):
        m = Module()
        # What is about the line rather than a column, from the memory's answer on.
        about = data.StructLayout({"address": LINE_ADDRESS, "add": 1, "scaled": 1})
        now = Signal(about)
        m.d.comb += [now.address.eq(self.i.address), now.add.eq(self.i.add), now.scaled.eq(self.i.scaled)]
        m.submodules.about = way = Delay(about, self.LATENCY)
        m.d.comb += [way.i.eq(now), self.o.address.eq(way.o.address), self.o.add.eq(way.o.add),
                     self.o.float.eq(way.o.scaled)]
        valid = self.i.valid & (~self.i.scaled | self.i.end)
        m.d.comb += self.o.valid.eq(delay_valid(m, valid, "valid", self.LATENCY))
        exponents, nans = self._factors(m)
        totals = self._partial_sums(m, nans)
        self._to_float(m, totals, exponents, way.o.scaled)
        return m

    def _factors(self, m):
        """Per column, when the partial sums are there: the exponent of the product, and whether it has a NaN."""
        columns = self.config.columns
        exponents, nans = [], []
        for column in range(columns):
            exponent = Signal(EXPONENT, name=f"exponent{column}", reset_less=True)
            nan = Signal(name=f"nan{column}", reset_less=True)
            scale = self.i.scale[column]
            m.d.sync += [exponent.eq(self.i.exponent + scale),
                         nan.eq(self.i.nan | self.i.column_nan[column] | (self.i.end & (scale == SCALE_NAN)))]
            exponents.append(exponent)
            nans.append(nan)
        m.submodules.factors = way = Delay(EXPONENT.width * columns, READ_LATENCY)
        m.d.comb += way.i.eq(Cat(exponents))
        return ([way.o.word_select(column, EXPONENT.width).as_signed() for column in range(columns)],
                [delay(m, nan, f"nan_late{column}", READ_LATENCY - 1) for column, nan in enumerate(nans)])

    def _partial_sums(self, m, nans):
        """The memory of partial sums and its adders; a (sum, NaN) per column."""
        config = self.config
        width, columns = config.block_sum_width, config.columns
        m.submodules.partial = ram = Ram((width + 1) * columns, config.accumulator_lines)
        line = delay(m, self.i.address, "line", READ_LATENCY + 1)
        m.d.comb += [
            ram.read.eq(self.i.address), ram.reads.eq(self.i.valid & self.i.scaled & ~self.i.begin),
            ram.zero.eq(delay(m, self.i.begin | ~self.i.scaled, "fresh")),
            ram.write.enable.eq(delay_valid(m, self.i.valid & self.i.scaled, "write", READ_LATENCY + 1)),
            ram.write.address.eq(line),
        ]
        addend = delay(m, self.i.data, "addend", READ_LATENCY)
        totals = []
        for column in range(columns):
            word = ram.o[(width + 1) * column:(width + 1) * (column + 1)]
            total = Signal(signed(width), name=f"total{column}", reset_less=True)
            nan = Signal(name=f"total_nan{column}", reset_less=True)
            m.d.sync += [total.eq(word[:width].as_signed() + addend[column]), nan.eq(word[width] | nans[column])]
            m.d.comb += ram.write.data[(width + 1) * column:(width + 1) * (column + 1)].eq(Cat(total, nan))
            totals.append((total, nan))
        return totals

    def _to_float(self, m, totals, exponents, scaled):
        """Each column's total as FP32, and beside it as the integer that it is without scaling."""
        for column, ((total, nan), exponent) in enumerate(zip(totals, exponents, strict=True)):
            m.submodules[f"convert{column}"] = convert = ScaledToFloat(self.config.block_sum_width)
            m.submodules[f"around{column}"] = around = Delay(signed(self.config.sum_width), ScaledToFloat.LATENCY)
            m.d.comb += [
                convert.i.eq(total), convert.exponent.eq(exponent), convert.nan.eq(nan),
                around.i.eq(total[:self.config.sum_width]),
            ]
            with m.If(scaled):
                m.d.comb += self.o.data[column].eq(convert.o)
            with m.Else():
                m.d.comb += self.o.data[column].eq(around.o)
