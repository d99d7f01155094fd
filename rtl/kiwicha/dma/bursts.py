"""Runs of bytes in memory, cut into AXI bursts that stay inside 4 KiB, 256 beats and the window."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import ChipConfig
from ..control.unit import Window
from ..isa import INDEX_WIDTH, PAGE_BITS
from ..lib.loop_nest import LoopNest, Pointer
from .transfer import RUN_WIDTH, run_descriptor

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
    i : In(stream of run_descriptor())
    window : In(Window)
    o : Out(stream of burst_layout())
    fail_address : Out(64)
        After a burst with `fail`: where that was, sign-extended. Nothing more happens until reset.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(run_descriptor())),
            "window": In(Window(config)),
            "o": Out(stream.Signature(burst_layout(config))),
            "fail_address": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        width = max(self.config.address_width, RUN_WIDTH) + 2
        m.submodules.nest = nest = LoopNest(2)
        m.submodules.pointer = pointer = Pointer(2, stride_width=32, base_width=width - 2)
        active = Signal()       # `descriptor` has runs that the pointer still has to visit
        descriptor = Signal(run_descriptor(), reset_less=True)
        # The loops follow a cycle later, for they advance every two cycles at most; or they load.
        advance, moves = Signal(), Signal(init=1)
        m.d.sync += moves.eq(advance | ~(active | self.i.valid))
        m.d.comb += [
            self.i.ready.eq(~active),
            # Without a descriptor, what is loaded does not matter.
            nest.load.eq(~active),
            nest.counts[0].eq(self.i.payload.runs),
            nest.counts[1].eq(self.i.payload.planes),
            nest.advance.eq(moves),
            pointer.load.eq(~active),
            pointer.base.eq(self.i.payload.address[:self.config.address_width]),
            pointer.strides[0].eq(descriptor.row_stride),
            pointer.strides[1].eq(descriptor.plane_stride),
            pointer.advance.eq(moves),
            pointer.carry.eq(nest.carry & active.replicate(2)),
        ]
        with m.If(~active):
            m.d.sync += [descriptor.eq(self.i.payload), active.eq(self.i.valid)]
        with m.Elif(advance & nest.done):
            m.d.sync += active.eq(0)
        m.submodules.cutter = cutter = _RunCutter(self.config, width)
        run = cutter.i.payload
        connect(m, cutter.o, flipped(self.o))
        m.d.comb += [
            cutter.window.eq(self.window), self.fail_address.eq(cutter.fail_address),
            cutter.i.valid.eq(active), advance.eq(active & cutter.i.ready),
            run.start.eq(pointer.value), run.length.eq(descriptor.length),
            run.upper.eq(descriptor.address[self.config.address_width:]), run.final.eq(nest.done),
            *(run[name].eq(descriptor[name]) for name in ("index", "bad", "beyond")),
        ]
        return m


class _RunCutter(wiring.Component):
    """Cuts one run at a time into bursts: a cycle to check where it stands, a cycle to emit.

    Latency: 3 cycles. Throughput: a burst every 2 cycles.

    Members
    -------
    i : In(stream)
        Runs of `length` + 1 bytes from `start` on; `upper` bits of the address are beyond the bus's, and count
        only with `beyond`; `final` is the instruction's last.
    window : In(Window)
    o : Out(stream of burst_layout())
    fail_address : Out(64)
        As of :class:`BurstGenerator`.
    """

    def __init__(self, config: ChipConfig, width: int):
        self.config = config
        self._width = width
        self._about = {"index": INDEX_WIDTH, "bad": 1, "beyond": 1, "upper": 64 - config.address_width, "final": 1}
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "start": signed(width), "length": RUN_WIDTH, **self._about}))),
            "window": In(Window(config)),
            "o": Out(stream.Signature(burst_layout(config))),
            "fail_address": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        low, bits = (self.config.bus_bytes - 1).bit_length(), self.config.address_width
        chunk = low + 8         # bits of an address within 256 beats
        # From `current` to `end`; with a valid burst to emit next, unless it fails.
        run = Signal(data.StructLayout({
            "current": signed(self._width), "end": signed(self._width), **self._about}), reset_less=True)
        #: The run ends in this chunk of 256 beats; its page is inside the window; both.
        found = Signal(data.StructLayout({"same": 1, "inside": 1, "ends": 1}))
        busy, checked, failed = Signal(), Signal(), Signal()    # there is a run; `found` is about `current`
        offer = Signal()                                        # checked, and not failed
        take, emit, finish = Signal(), Signal(), Signal()
        address = Signal(64, name="wrong_address", reset_less=True)
        m.d.comb += [
            # Into a register: `emit` enables all of the run's, which must not hang on the bus's `ready`.
            emit.eq(offer & ~self.o.valid),
            finish.eq(emit & found.ends),
            self.i.ready.eq(~busy | finish),
            take.eq(self.i.valid & self.i.ready),
            self.fail_address.eq(address),
        ]
        with m.If(take):
            m.d.sync += [
                run.current.eq(self.i.payload.start), run.end.eq(self.i.payload.start + self.i.payload.length),
                *(run[name].eq(self.i.payload[name]) for name in self._about),
                busy.eq(1), checked.eq(0), offer.eq(0),
            ]
        with m.Elif(finish):
            m.d.sync += [busy.eq(0), offer.eq(0)]
        with m.Elif(emit & found.inside):
            m.d.sync += [run.current.eq(Cat(Const(0, chunk), run.current[chunk:] + 1)), checked.eq(0), offer.eq(0)]
        with m.Elif(emit):
            m.d.sync += [failed.eq(1), offer.eq(0)]
            with m.If(run.beyond):
                m.d.sync += address.eq(Cat(run.current[:bits], run.upper))
            with m.Else():
                m.d.sync += address.eq(run.current)
        with m.Elif(busy & ~checked):
            in_chunk = run.current[chunk:] == run.end[chunk:]
            page = run.current[PAGE_BITS:bits]
            in_window = ((run.current[bits:] == 0) & (page >= self.window.first) & (page <= self.window.last)
                         & ~run.bad & ~run.beyond)
            m.d.sync += [checked.eq(1), offer.eq(~failed), found.same.eq(in_chunk), found.inside.eq(in_window),
                         found.ends.eq(in_chunk & in_window)]
        self._emit(m, run, found, offer)
        return m

    def _emit(self, m, run, found, offer):
        """The burst at `current`, to a register."""
        low = (self.config.bus_bytes - 1).bit_length()
        out = Signal(burst_layout(self.config), reset_less=True)
        m.d.comb += self.o.payload.eq(out)
        with m.If(~self.o.valid):
            m.d.sync += [
                self.o.valid.eq(offer),
                out.address.eq(run.current[:self.config.address_width]),
                out.end.eq(Mux(found.same, run.end[:low], -1)),
                out.length.eq(Mux(found.same, run.end[low:low + 8], 255) - run.current[low:low + 8]),
                out.last.eq(found.same & run.final),
                out.fail.eq(~found.inside),
                out.index.eq(run.index),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
