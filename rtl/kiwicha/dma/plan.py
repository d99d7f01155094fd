"""What both directions begin with: instructions to bursts on the bus and segments in the scratchpad."""

from amaranth import Module, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import ChipConfig
from ..control.unit import Window
from ..isa import INDEX_WIDTH, Unit
from ..layouts import unit_layout
from ..lib.stream import Queue
from ..timing import TRANSFERS_AHEAD
from .bursts import BurstGenerator, burst_layout
from .index import IndexPort
from .segments import SegmentGenerator, segment_layout
from .transfer import Transfer, segment_descriptor

__all__ = ["TransferPlan"]


class TransferPlan(wiring.Component):
    """Cuts LOAD or STORE instructions into bursts and into segments, each side as far ahead as it likes.

    Up to :data:`~kiwicha.timing.TRANSFERS_AHEAD` transfers wait for the scratchpad side while the memory side goes
    on. Latency and throughput: those of :class:`.Transfer`, then :class:`.BurstGenerator` (a burst every 2 cycles)
    and a queue and :class:`.SegmentGenerator` (a segment per cycle).

    Members
    -------
    i : In(stream)
        Instructions.
    window : In(Window)
    clear : In(1)
        Forget everything, and take nothing.
    bursts : Out(stream of burst_layout()), fail_address : Out(64)
        As :class:`.BurstGenerator` has them.
    segments : Out(stream of segment_layout()), stop_index : Out(24)
        As :class:`.SegmentGenerator` has them.
    index : Out(IndexPort), indexing : Out(1), wrong_index : Out(32)
        As :class:`.Transfer` has them, in a chip with `indices`.
    index_comes : Out(1)
        The same: an index has been asked for, and has not come. `clear` does not end that.
    """

    def __init__(self, config: ChipConfig, unit: Unit):
        self.config = config
        self.unit = unit
        super().__init__({
            "i": In(stream.Signature(unit_layout(unit))), "window": In(Window(config)), "clear": In(1),
            "bursts": Out(stream.Signature(burst_layout(config))), "fail_address": Out(64),
            "segments": Out(stream.Signature(segment_layout(config))), "stop_index": Out(INDEX_WIDTH),
            **({"index": Out(IndexPort(config)), "indexing": Out(1), "wrong_index": Out(32), "index_comes": Out(1)}
               if config.indices else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config, clears = self.config, ResetInserter(self.clear)
        m.submodules.transfer = transfer = clears(Transfer(config, self.unit))
        m.submodules.burst_generator = bursts = clears(BurstGenerator(config))
        m.submodules.descriptors = descriptors = clears(Queue(segment_descriptor(config), TRANSFERS_AHEAD))
        m.submodules.segment_generator = segments = clears(SegmentGenerator(config))
        connect(m, transfer.runs, bursts.i)
        connect(m, transfer.segments, descriptors.i)
        connect(m, descriptors.o, segments.i)
        connect(m, bursts.o, flipped(self.bursts))
        connect(m, segments.o, flipped(self.segments))
        m.d.comb += [
            transfer.i.payload.eq(self.i.payload),
            transfer.i.valid.eq(self.i.valid & ~self.clear),
            self.i.ready.eq(transfer.i.ready & ~self.clear),
            bursts.window.eq(self.window),
            self.fail_address.eq(bursts.fail_address),
            self.stop_index.eq(segments.stop_index),
        ]
        if config.indices:
            self._index(m, transfer)
        return m

    def _index(self, m, transfer):
        connect(m, transfer.index, flipped(self.index))
        request = self.index.request
        m.d.comb += [self.indexing.eq(transfer.indexing), self.wrong_index.eq(transfer.wrong_index)]
        with m.If(request.valid & request.ready):
            m.d.sync += self.index_comes.eq(1)
        with m.Elif(self.index.valid):
            m.d.sync += self.index_comes.eq(0)
