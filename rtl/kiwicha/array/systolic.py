"""The systolic array: a matrix product by weights that stay, one vector per cycle."""

from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..lib.delay import delay
from ..timing import array_latency
from .multiplier import multiplier, multiplier_class, operand_shape

__all__ = ["SystolicArray", "activations", "column_sums", "weight_row"]


def activations(config: ChipConfig) -> data.StructLayout:
    """A vector: `rows` operands of :class:`kiwicha.array.decode.EdgeDecoder`. `swap` counts only with `valid`."""
    return data.StructLayout({"valid": 1, "swap": 1, "data": data.ArrayLayout(operand_shape(config), config.rows)})


def weight_row(config: ChipConfig) -> data.StructLayout:
    """A row of a weight tile and its number: `columns` operands, likewise."""
    return data.StructLayout({"valid": 1, "row": range(config.rows),
                              "data": data.ArrayLayout(operand_shape(config), config.columns)})


def column_sums(config: ChipConfig) -> data.StructLayout:
    """The sum of each column, of `sum_width` bits."""
    return data.StructLayout({"valid": 1, "data": data.ArrayLayout(signed(config.sum_width), config.columns)})


class SystolicArray(wiring.Component):
    """`rows` x `columns` multiply-accumulates per cycle: ``o[c] = sum over r of a[r] * w[r][c]``, exactly.

    A vector goes in, all rows at once, in any cycle; its sums come out, all columns at once, exactly
    :attr:`latency` cycles later. Nothing stalls and bubbles stay bubbles.

    Weights are double-buffered. The rows of a weight tile come in ascending order, with any gaps, and wait as the
    next one; the vector that has `swap` set is the first one to be multiplied with them, and so is every
    later one. For its rows and vectors in time:

    - its `swap` vector may come in the cycle after its last row, or later;
    - its row 0 may come in the very cycle of the previous one's `swap` vector, or later.

    So weight tiles of M vectors follow one another every max(M, `rows`) cycles.

    How it works: a *cell* is one multiplier with the one or two columns it serves. Row r of cells works r
    cycles after row 0, and cell q of a row q cycles after cell 0. Weight rows run down the array, one row of
    cells per cycle, each with its number; where it meets its row, a `latch` token starts along that row,
    and in each cell it meets the row's weights, which have been held back by q cycles. Swap tokens run along
    the rows likewise, one cycle ahead of their activations.

    Parameters
    ----------
    config : ChipConfig

    Attributes
    ----------
    latency : int
        Cycles from `a` to `o`.

    Members
    -------
    a : In(activations(config))
    w : In(weight_row(config))
    o : Out(column_sums(config))

    Raises
    ------
    TypeError
        `config` is not a ChipConfig.
    """

    def __init__(self, config: ChipConfig):
        if not isinstance(config, ChipConfig):
            raise TypeError(f"config must be a ChipConfig, not {config!r}")
        self.config = config
        self._variant = multiplier_class(config)
        self._cells = config.columns // self._variant.columns
        super().__init__({
            "a": In(activations(config)), "w": In(weight_row(config)), "o": Out(column_sums(config)),
        })

    @property
    def latency(self) -> int:
        # The first cell's input; to the last row; through it; to the last cell.
        return array_latency(self.config)

    def elaborate(self, platform):
        m = Module()
        cells = self._elaborate_cells(m)
        self._elaborate_rows(m, cells)
        self._elaborate_weights(m, cells)
        self._elaborate_sums(m, cells)
        # Kept apart from the swap tokens, so that only this needs a reset.
        valid = Signal(self.latency)
        m.d.sync += valid.eq((valid << 1) | self.a.valid)
        m.d.comb += self.o.valid.eq(valid[-1])
        return m

    def _elaborate_cells(self, m):
        cells = [[_Cell(self.config, row) for _ in range(self._cells)] for row in range(self.config.rows)]
        for r, row in enumerate(cells):
            for q, cell in enumerate(row):
                m.submodules[f"cell_{r}_{q}"] = cell
                if q + 1 < self._cells:
                    right = row[q + 1]
                    m.d.comb += [right.a.eq(cell.a_out), right.swap.eq(cell.swap_out),
                                 right.latch.eq(cell.latch_out)]
                if r + 1 < self.config.rows:
                    below = cells[r + 1][q]
                    m.d.comb += [below.w.eq(cell.w_out), below.sum.eq(cell.sum_out)]
        return cells

    def _elaborate_rows(self, m, cells):
        """Skews activations and tokens: into row r, r cycles late, and the activations one more."""
        swap = self.a.valid & self.a.swap
        latch, number = self.w.valid, self.w.row
        for r, row in enumerate(cells):
            m.d.comb += [
                row[0].a.eq(delay(m, self.a.data[r], f"a_{r}", r + 1)),
                row[0].swap.eq(swap),
                row[0].latch.eq(latch & (number == r)),
            ]
            if r + 1 < len(cells):
                swap = delay(m, swap, f"swap_{r}")
                latch = delay(m, latch, f"latch_{r}")
                number = delay(m, number, f"number_{r}")

    def _elaborate_weights(self, m, cells):
        """Skews weights: into cell q of the first row, q cycles late."""
        size = self._variant.columns * self.config.operand_width
        for q, cell in enumerate(cells[0]):
            weights = self.w.data.as_value().word_select(q, size)
            m.d.comb += cell.w.eq(delay(m, weights, f"w_{q}", q))

    def _elaborate_sums(self, m, cells):
        """Deskews sums: out of cell q of the last row, and as many cycles later as there are cells behind it."""
        lanes = self._variant.columns
        for q, cell in enumerate(cells[-1]):
            sums = delay(m, cell.sum_out.as_value(), f"sum_{q}", self._cells - 1 - q)
            m.d.comb += self.o.data.as_value().word_select(q, lanes * self.config.sum_width).eq(sums)


class _Cell(wiring.Component):
    """One multiplier, its weights, and its part of the column sums; each `x_out` is `x` a cycle later.

    The weights that pass are taken over as the next ones in the cycle in which `latch_out` is high, and the
    next ones become those in use in the cycle in which `swap_out` is high: `a_out` is multiplied with them
    from the following cycle on. `sum_out` is `sum` plus the product, 1 + the multiplier's latency after `a_out`.
    """

    def __init__(self, config, row):
        self._multiplier = multiplier(config)
        operand = operand_shape(config)
        self._operands = data.ArrayLayout(operand, self._multiplier.columns)
        width = config.product_width
        above = signed(width + max(0, row - 1).bit_length())
        here = signed(width + row.bit_length())
        lanes = self._multiplier.columns
        super().__init__({
            "a": In(operand), "a_out": Out(operand),
            "swap": In(1), "swap_out": Out(1),
            "latch": In(1), "latch_out": Out(1),
            "w": In(self._operands.size), "w_out": Out(self._operands.size),
            "sum": In(data.ArrayLayout(above, lanes)), "sum_out": Out(data.ArrayLayout(here, lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = self._multiplier
        # Swap tokens of different rows are equal in the same cycle. The initial value, which does no harm before
        # there are weights, differs from that of the registers that lead to the rows, or else yosys would merge
        # all that are equal into one with a net across the array.
        swap = Signal(init=1, reset_less=True)
        m.d.sync += swap.eq(self.swap)
        m.d.comb += [
            self.a_out.eq(delay(m, self.a, "activation")),
            self.swap_out.eq(swap),
            self.latch_out.eq(delay(m, self.latch, "token")),
            self.w_out.eq(delay(m, self.w, "passing")),
        ]
        waiting = Signal(self._operands, reset_less=True)
        active = Signal(self._operands, reset_less=True)
        with m.If(self.latch_out):
            m.d.sync += waiting.eq(self.w_out)
        with m.If(self.swap_out):
            m.d.sync += active.eq(waiting)
        m.d.comb += multiplier.a.eq(self.a_out)
        for lane, product in enumerate(multiplier.p):
            m.d.comb += multiplier.b[lane].eq(active[lane])
            total = Signal.like(self.sum_out[lane], name=f"total_{lane}", reset_less=True)
            if multiplier.sign_magnitude:
                # The product's carry comes in below the lowest bit, so that one carry chain does for all three.
                above = Cat(Const(1, 1), self.sum[lane]).as_signed()
                m.d.sync += total.eq((above + Cat(multiplier.carry[lane], product).as_signed()) >> 1)
            else:
                m.d.sync += total.eq(self.sum[lane] + product)
            m.d.comb += self.sum_out[lane].eq(total)
        return m
