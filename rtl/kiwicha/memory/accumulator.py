"""The accumulators: int32 sums per column, and the adders in front of them."""

from itertools import pairwise

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from ..config import READ_LATENCY, ChipConfig
from .ports import LINE_ADDRESS, ReadPort
from .ram import Ram

__all__ = ["SUM_WIDTH", "Accumulator", "accumulation"]

#: Bits of an accumulator.
SUM_WIDTH = 32


def accumulation(config: ChipConfig) -> data.StructLayout:
    """One line's worth of column sums: to replace what `address` holds or, with `add`, to be added to it."""
    return data.StructLayout({
        "valid": 1,
        "address": LINE_ADDRESS,
        "add": 1,
        "data": data.ArrayLayout(signed(config.sum_width), config.columns),
    })


class Accumulator(wiring.Component):
    """`accumulator_lines` lines of `columns` accumulators, in two banks by the address's top bit.

    `line[address] = (line[address] if add else 0) + data`, modulo 2^32 in each column, once per cycle and
    never stalling. There is no forwarding: see :attr:`HAZARD`. A `read` of a line that is still on its way,
    up to :attr:`LATENCY`, is a race in the program. Addresses beyond the last line wrap.

    Members
    -------
    i : In(accumulation(config))
    read : In(ReadPort)
        For the epilogue. It waits while `i` uses the same bank, at most as long as that goes on.
    """

    #: Cycles from an `i` to the first `read` request (or `i`) whose acceptance in that cycle sees its sum:
    #: a register, block RAM, its register, the adder's register, a register, the write.
    LATENCY = READ_LATENCY + 2
    #: Cycles from an `i` to the next to the same line, at least; nearer, the second loses the first's sum.
    HAZARD = LATENCY

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "i": In(accumulation(config)),
            "read": In(ReadPort(SUM_WIDTH * config.columns)),
        })

    def elaborate(self, platform):
        m = Module()
        depth = self.config.accumulator_lines // 2
        bits = (depth - 1).bit_length()
        lines = [Ram(SUM_WIDTH * self.config.columns, depth) for _ in range(2)]
        bank, line = self.i.address[bits], self.i.address[:bits]
        asked_bank, asked_line = self.read.request.payload[bits], self.read.request.payload[:bits]
        m.d.comb += self.read.request.ready.eq(~(self.i.valid & (bank == asked_bank)))

        # Where the sums are in the pipeline: at the block RAM, with its data, with its register, with the result.
        then = [self._stage(name) for name in ("asked", "fetched", "held", "summed")]
        asked, _, held, summed = then
        m.d.sync += [asked.valid.eq(self.i.valid), asked.address.eq(self.i.address),
                     *(late.eq(early) for early, late in pairwise(then))]
        fresh = Signal(reset_less=True)
        m.d.sync += fresh.eq(~self.i.add)

        for number, ram in enumerate(lines):
            m.submodules[f"bank{number}"] = ram
            mine = self.i.valid & (bank == number)
            m.d.comb += [
                ram.read.eq(Mux(mine, line, asked_line)),
                # The epilogue may read this bank while `i` is fresh in the other one.
                ram.zero.eq(fresh & asked.valid & (asked.address[bits] == number)),
                ram.write.enable.eq(summed.valid & (summed.address[bits] == number)),
                ram.write.address.eq(summed.address[:bits]),
            ]
        self._add(m, lines, held.address[bits])
        self._answer(m, lines, asked_bank)
        return m

    def _stage(self, name):
        return Signal(data.StructLayout({"valid": 1, "address": LINE_ADDRESS}), name=name)

    def _add(self, m, lines, bank):
        """The adders, one per column, shared by both banks."""
        addend = self.i.data
        for cycle in range(READ_LATENCY):
            later = Signal.like(addend, name=f"addend{cycle}", reset_less=True)
            m.d.sync += later.eq(addend)
            addend = later
        for column in range(self.config.columns):
            part = slice(SUM_WIDTH * column, SUM_WIDTH * (column + 1))
            total = Signal(SUM_WIDTH, name=f"total{column}", reset_less=True)
            m.d.sync += total.eq(Mux(bank, lines[1].o[part], lines[0].o[part]) + addend[column])
            m.d.comb += [ram.write.data[part].eq(total) for ram in lines]

    def _answer(self, m, lines, bank):
        """The epilogue's answer, a multiplexer behind registers."""
        valid = self.read.request.valid & self.read.request.ready
        for cycle in range(READ_LATENCY):
            bank_then = Signal(name=f"read_bank{cycle}", reset_less=True)
            valid_then = Signal(name=f"read_valid{cycle}")
            m.d.sync += [bank_then.eq(bank), valid_then.eq(valid)]
            bank, valid = bank_then, valid_then
        m.d.comb += [self.read.valid.eq(valid), self.read.data.eq(Mux(bank, lines[1].o, lines[0].o))]
