"""The accumulators: int32 or FP32 sums per column, and the adders in front of them."""

from itertools import pairwise

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from ..arith.float_add import FloatAdd
from ..config import ChipConfig
from ..lib.delay import Delay, copies, delay, delay_valid
from ..timing import READ_LATENCY, accumulator_adder, accumulator_hazard, accumulator_latency
from .block_sum import BlockSum, accumulation
from .ports import LINE_ADDRESS, ReadPort
from .ram import WideRam

__all__ = ["SUM_WIDTH", "Accumulator", "accumulation"]

#: Bits of an accumulator.
SUM_WIDTH = 32


class Accumulator(wiring.Component):
    """`accumulator_lines` lines of `columns` accumulators, in two banks by the address's top bit.

    `line[address] = (line[address] if add else 0) + data`, modulo 2^32 in each column, once per cycle and
    never stalling. With block scaling, what is `scaled` goes through :class:`BlockSum`, and the addition is
    FP32's. There is no forwarding: see :attr:`hazard`. A `read` of a line that is still on its way,
    up to :attr:`latency`, is a race in the program. Addresses beyond the last line wrap.

    Attributes
    ----------
    latency : int
        Cycles from an `i` to the first `read` request whose acceptance in that cycle sees its sum: block sums if
        there are, a register, block RAM, its register, the adder's, a register, the write.
    hazard : int
        Cycles from an `i` to the next to the same line, at least; nearer, the second loses the first's sum.

    Members
    -------
    i : In(accumulation(config))
    read : In(ReadPort)
        For VECTOR. It waits while `i` uses the same bank, at most as long as that goes on.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "i": In(accumulation(config)),
            "read": In(ReadPort(SUM_WIDTH * config.columns)),
        })

    @property
    def hazard(self) -> int:
        return accumulator_hazard(self.config)

    @property
    def latency(self) -> int:
        return accumulator_latency(self.config)

    def elaborate(self, platform):
        m = Module()
        depth = self.config.accumulator_lines // 2
        bits = (depth - 1).bit_length()
        lines = [WideRam(SUM_WIDTH * self.config.columns, depth, slice_width=4 * SUM_WIDTH) for _ in range(2)]
        i = self.i
        if self.config.block_scaled:
            m.submodules.block_sum = block_sum = BlockSum(self.config)
            m.d.comb += block_sum.i.eq(self.i)
            i = block_sum.o
        bank, line = i.address[bits], i.address[:bits]
        asked_bank, asked_line = self.read.request.payload[bits], self.read.request.payload[:bits]
        m.d.comb += self.read.request.ready.eq(~(i.valid & (bank == asked_bank)))

        # Where the sums are in the pipeline: at the block RAM, with its data, with its register, in the adder.
        adding = [f"adding{cycle}" for cycle in range(1, accumulator_adder(self.config))]
        then = [self._stage(name) for name in ("asked", "fetched", "held", *adding, "summed")]
        asked, fetched, summed = then[0], then[READ_LATENCY - 2], then[-1]
        m.d.sync += [asked.valid.eq(i.valid), asked.address.eq(i.address),
                     *(late.eq(early) for early, late in pairwise(then))]
        fresh = Signal(reset_less=True)
        m.d.sync += fresh.eq(~i.add)

        for number, ram in enumerate(lines):
            m.submodules[f"bank{number}"] = ram
            mine = i.valid & (bank == number)
            m.d.comb += [
                ram.read.eq(Mux(mine, line, asked_line)),
                ram.reads.eq(Mux(mine, i.add, self.read.request.valid & (asked_bank == number))),
                # VECTOR may read this bank while `i` is fresh in the other one.
                ram.zero.eq(fresh & asked.valid & (asked.address[bits] == number)),
                ram.write.enable.eq(summed.valid & (summed.address[bits] == number)),
                ram.write.address.eq(summed.address[:bits]),
            ]
        self._add(m, i, lines, fetched.address[bits])
        self._answer(m, lines, asked_bank)
        return m

    def _stage(self, name):
        return Signal(data.StructLayout({"valid": 1, "address": LINE_ADDRESS}), name=name)

    def _add(self, m, i, lines, bank):
        """The adders, one per column, shared by both banks; `bank` comes a cycle before the data."""
        banks = copies(m, bank, "adds_to", 2)
        addend = delay(m, i.data, "addend", READ_LATENCY)
        if self.config.block_scaled:
            m.submodules.kind = kind = Delay(1, READ_LATENCY + accumulator_adder(self.config))
            m.d.comb += kind.i.eq(i.float)
        for column in range(self.config.columns):
            bits = slice(SUM_WIDTH * column, SUM_WIDTH * (column + 1))
            old = Mux(banks[2 * column // self.config.columns], lines[1].o[bits], lines[0].o[bits])
            total = Signal(SUM_WIDTH, name=f"total{column}", reset_less=True)
            m.d.sync += total.eq(old + addend[column])
            if self.config.block_scaled:
                m.submodules[f"add{column}"] = add = FloatAdd()
                m.submodules[f"around{column}"] = around = Delay(SUM_WIDTH, accumulator_adder(self.config) - 1)
                m.d.comb += [add.a.eq(old), add.b.eq(addend[column]), around.i.eq(total)]
                total = Mux(kind.o, add.o, around.o)
            m.d.comb += [ram.write.data[bits].eq(total) for ram in lines]

    def _answer(self, m, lines, bank):
        """VECTOR's answer, a multiplexer behind registers."""
        valid = self.read.request.valid & self.read.request.ready
        m.d.comb += self.read.valid.eq(delay_valid(m, valid, "read_valid", READ_LATENCY))
        bank = delay(m, bank, "read_bank", READ_LATENCY - 1)
        size = len(self.read.data) // 2
        for half, own in enumerate(copies(m, bank, "read_bank_of_half", 2)):
            first, second = (ram.o.word_select(half, size) for ram in lines)
            m.d.comb += self.read.data.word_select(half, size).eq(Mux(own, second, first))
