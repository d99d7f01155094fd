"""Runs of bytes in memory, cut into AXI bursts that stay inside 4 KiB, 256 beats and the window."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..control.unit import Window
from ..isa import INDEX_WIDTH
from ..lib.loop_nest import LoopNest, Pointer
from .transfer import RUN_WIDTH, run_job

__all__ = ["BurstGenerator", "burst_layout"]


def burst_layout(config: ChipConfig) -> data.StructLayout:
    """A burst of `length` + 1 beats from the beat of byte `address` on.

    `end` is the offset of the last byte in the last beat. `last`: the instruction's last burst.
    `fail`: no burst, but the end of all bursts: the byte at BurstGenerator.fail_address is outside the window.
    """
    return data.StructLayout({
        "address": config.address_width, "end": range(config.bus_bytes), "length": 8, "last": 1, "fail": 1,
        "index": INDEX_WIDTH})


class BurstGenerator(wiring.Component):
    """Walks a transfer's runs and emits their bursts in order, one every 2 cycles.

    A run is cut at each multiple of 256 beats (2 or 4 KiB), so a burst lies in one page of 4 KiB and its first
    and last byte are inside the window if its page is. So the byte that a WINDOW error names does not depend
    on the bus: it is the first byte, in the order of the transfer, that is outside.

    Latency 4 cycles from `i` to `o`. Addresses are signed sums two bits wider than the bus's (and than a run):
    each is checked before the next burst leaves, and the walk is at most three strides ahead of the check,
    so nothing wraps.

    Members
    -------
    i : In(stream of run_job())
    window : In(Window)
    o : Out(stream of burst_layout())
    fail_address : Out(64)
        After a burst with `fail`: where that was, sign-extended. Nothing more happens until reset.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(run_job())),
            "window": In(Window(config)),
            "o": Out(stream.Signature(burst_layout(config))),
            "fail_address": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        width = max(self.config.address_width, RUN_WIDTH) + 2
        m.submodules.nest = nest = LoopNest(2)
        m.submodules.pointer = pointer = Pointer(2, stride_width=32, base_width=width - 2)
        active = Signal()       # `job` has runs that the pointer still has to visit
        job = Signal(run_job(), reset_less=True)
        # The loops follow a cycle later, for steps are two cycles apart; or they load.
        step, moves = Signal(), Signal(init=1)
        m.d.sync += moves.eq(step | ~(active | self.i.valid))
        m.d.comb += [
            self.i.ready.eq(~active),
            # Without a job, what is loaded does not matter.
            nest.load.eq(~active),
            nest.counts[0].eq(self.i.payload.runs),
            nest.counts[1].eq(self.i.payload.planes),
            nest.step.eq(moves),
            pointer.load.eq(~active),
            pointer.base.eq(self.i.payload.address[:self.config.address_width]),
            pointer.strides[0].eq(job.row_stride),
            pointer.strides[1].eq(job.plane_stride),
            pointer.step.eq(moves),
            pointer.carry.eq(nest.carry & active.replicate(2)),
        ]
        with m.If(~active):
            m.d.sync += [job.eq(self.i.payload), active.eq(self.i.valid)]
        with m.Elif(step & nest.done):
            m.d.sync += active.eq(0)
        self._cut(m, job, active, step, pointer.value, nest.done)
        return m

    def _cut(self, m, job, active, step, start, final):
        """One run at a time: a cycle to check where it stands, a cycle to emit."""
        low = (self.config.bus_bytes - 1).bit_length()
        block = low + 8
        width = len(start)
        bits = self.config.address_width
        current = Signal(signed(width), reset_less=True)
        end = Signal(signed(width), reset_less=True)
        busy = Signal()         # current and end are a run
        checked = Signal()      # same and inside are about current
        offer = Signal()        # checked, and not failed
        same = Signal()         # the run ends in this block
        inside = Signal()
        ends = Signal()         # same and inside
        failed = Signal()
        fail_address = Signal(64, reset_less=True)
        run = Signal(data.StructLayout({"index": INDEX_WIDTH, "bad": 1, "beyond": 1, "upper": 64 - bits,
                                        "final": 1}), reset_less=True)
        page = current[12:bits]
        in_block = current[block:] == end[block:]
        in_window = ((current[bits:] == 0) & (page >= self.window.first) & (page <= self.window.last)
                     & ~run.bad & ~run.beyond)
        emit = Signal()
        finish = Signal()
        out = Signal(burst_layout(self.config), reset_less=True)
        m.d.comb += [
            # Into a register, so that what steers so much does not hang on `ready`.
            emit.eq(offer & ~self.o.valid),
            finish.eq(emit & ends),
            step.eq(active & (~busy | finish)),
            self.o.payload.eq(out),
            self.fail_address.eq(fail_address),
        ]
        with m.If(~self.o.valid):
            m.d.sync += [
                self.o.valid.eq(offer),
                out.address.eq(current[:bits]),
                out.end.eq(Mux(same, end[:low], -1)),
                out.length.eq(Mux(same, end[low:block], 255) - current[low:block]),
                out.last.eq(same & run.final),
                out.fail.eq(~inside),
                out.index.eq(run.index),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(step):
            m.d.sync += [
                current.eq(start), end.eq(start + job.length), busy.eq(1), checked.eq(0), offer.eq(0),
                run.index.eq(job.index), run.bad.eq(job.bad), run.beyond.eq(job.beyond),
                run.upper.eq(job.address[bits:]), run.final.eq(final),
            ]
        with m.Elif(finish):
            m.d.sync += [busy.eq(0), offer.eq(0)]
        with m.Elif(emit & inside):
            m.d.sync += [current.eq(Cat(Const(0, block), current[block:] + 1)), checked.eq(0),
                         offer.eq(0)]
        with m.Elif(emit):
            m.d.sync += [failed.eq(1), offer.eq(0)]
            with m.If(run.beyond):
                m.d.sync += fail_address.eq(Cat(current[:bits], run.upper))
            with m.Else():
                m.d.sync += fail_address.eq(current)
        with m.Elif(busy & ~checked):
            m.d.sync += [checked.eq(1), offer.eq(~failed), same.eq(in_block), inside.eq(in_window),
                         ends.eq(in_block & in_window)]
