"""The MATMUL unit: issues weight rows and vectors to the array, and sees to it that sums do not collide."""

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from ..array.systolic import SystolicArray
from ..config import ChipConfig
from ..control.unit import UnitPort
from ..isa import Unit
from ..memory.accumulator import accumulation
from ..memory.ports import ReadPort
from ..timing import array_latency
from .address_generators import ActivationAddressGenerator, WeightAddressGenerator
from .edge import ArrayEdge, SumCollector, edge_latency
from .issue import InstructionFork, VectorIssue, WeightIssue
from .scales import VectorScales, WeightScales
from .status import ErrorFinder, Status

__all__ = ["MatmulUnit"]


class MatmulUnit(wiring.Component):
    """Runs MATMUL instructions (:data:`kiwicha.isa.MATMUL`), several at a time.

    Weight rows and vectors are read through ports of one and the same latency, so what is accepted first is
    first at the array. Rows run one weight tile ahead of the vectors, across instructions too: with free ports a
    weight tile of M vectors takes max(M, rows) cycles, and nothing comes in between; the last one of a scale block
    loads a line more, that of its scales, and the next instruction's first one may come a cycle later. A vector
    waits until its accumulator line has rested for :attr:`Accumulator.hazard` cycles, and until the line of A's
    scales that it is the first to use has been read.

    Errors come in the program's order, after everything before them has been issued: FIELD for a zero count, a
    format or block scaling that the chip has not; SCRATCHPAD_RANGE and ACCUMULATOR_RANGE at the first line that
    does not exist, a weight tile's rows (their scales first) before its vectors, and of a vector the line of A
    first, then that of its scale.

    Parameters
    ----------
    config : ChipConfig

    Members
    -------
    control : Out(UnitPort)
        `retire` comes with the first cycle in which a read of the accumulators sees the last sum. BUSY counts
        vectors issued; PORT, what the scratchpad denied; OPERAND, waiting for weights or an accumulator line.
    a, w : Out(ReadPort)
        Scratchpad lines. `w.request.valid` depends on `a.request.ready`: the next weight tile may come with the
        very vector that frees its place.
    s : Out(ReadPort)
        Lines of A's scales, if the chip has block scaling. `s.request.ready` must not depend on the others.
    acc : Out(accumulation(config))
        For :class:`Accumulator`.
    latency : int
        Cycles from the acceptance of a vector to its `acc`.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        line = 8 * config.line_bytes
        super().__init__({
            "control": Out(UnitPort(Unit.MATMUL)),
            "a": Out(ReadPort(line)),
            "w": Out(ReadPort(line)),
            **({"s": Out(ReadPort(line))} if config.block_scaled else {}),
            "acc": Out(accumulation(config)),
        })

    @property
    def latency(self) -> int:
        return edge_latency(self.config) + array_latency(self.config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.fork = fork = InstructionFork()
        m.submodules.vectors = vectors = ActivationAddressGenerator(config)
        m.submodules.weights = weights = WeightAddressGenerator(config)
        m.submodules.vector_issue = vector_issue = VectorIssue(config)
        m.submodules.weight_issue = weight_issue = WeightIssue(config)
        m.submodules.edge = edge = ArrayEdge(config)
        m.submodules.array = array = SystolicArray(config)
        m.submodules.collector = collector = SumCollector(config)
        # Registered: every part of the unit hears it, and control's `abort` goes to four units.
        abort = Signal()
        m.d.sync += abort.eq(self.control.abort)
        m.d.comb += [part.abort.eq(abort) for part in
                     (fork, vectors, weights, vector_issue, weight_issue, collector)]

        connect(m, flipped(self.control.i), fork.i)
        connect(m, fork.vectors, vectors.i)
        connect(m, fork.weights, weights.i)
        connect(m, vectors.o, vector_issue.i)
        connect(m, weights.o, weight_issue.i)
        connect(m, vector_issue.request, flipped(self.a.request))
        connect(m, weight_issue.request, flipped(self.w.request))
        m.d.comb += [
            vector_issue.loaded.eq(weight_issue.loaded),
            weight_issue.swap.eq(vector_issue.swap),
            edge.vector.eq(vector_issue.vector),
            edge.row.eq(weights.o.p),
            edge.a.valid.eq(self.a.valid), edge.a.data.eq(self.a.data),
            edge.w.valid.eq(self.w.valid), edge.w.data.eq(self.w.data),
            array.a.eq(edge.o_a),
            array.w.eq(edge.o_w),
            collector.vector.eq(vector_issue.vector),
            collector.sums.eq(array.o),
            self.control.retire.eq(collector.retire),
            self.acc.valid.eq(array.o.valid), self.acc.data.eq(array.o.data),
            self.acc.address.eq(collector.tag.address), self.acc.add.eq(collector.tag.add),
        ]
        if config.block_scaled:
            connect(m, vector_issue.scale_request, flipped(self.s.request))
            self._scale(m, vector_issue, edge, collector, abort)
        self._report(m, fork, vectors, weights, vector_issue, weight_issue)
        self._find_errors(m, weights, vector_issue, abort)
        return m

    def _scale(self, m, issue, edge, collector, abort):
        """Scales and NaNs, past the array."""
        config, acc, vector = self.config, self.acc, issue.vector
        m.submodules.vector_scales = vectors = VectorScales(config, self.latency, edge_latency(config))
        m.submodules.weight_scales = weights = WeightScales(config, self.latency)
        # There is no telling of a tag without a vector.
        coming = Signal(self.latency - 1)
        m.d.sync += coming.eq(Cat(issue.issued, coming))
        m.d.comb += [
            vectors.byte.eq(vector.scale_byte), vectors.exponent.eq(vector.exponent), vectors.end.eq(vector.end),
            vectors.line_valid.eq(self.s.valid), vectors.line.eq(self.s.data), vectors.nan.eq(edge.nan_a),
            weights.scale_valid.eq(edge.w_scales),
            weights.scale.eq(self.w.data),
            weights.row_valid.eq(edge.o_w.valid),
            weights.row_first.eq(edge.o_w.row == 0), weights.row_last.eq(edge.o_w.row == config.rows - 1),
            weights.nan.eq(edge.nan_w),
            weights.next.eq(coming[-1] & collector.coming.swap),
            weights.next_scaled.eq(weights.next & collector.coming.scaled & collector.coming.end),
            weights.clear.eq(abort),
            *(acc[name].eq(collector.tag[name]) for name in ("scaled", "begin", "end")),
            acc.exponent.eq(vectors.o_exponent), acc.nan.eq(vectors.o_nan),
            acc.scale.eq(weights.o_scale), acc.column_nan.eq(weights.o_nan),
        ]

    def _report(self, m, fork, vectors, weights, vector_issue, weight_issue):
        m.submodules.status = status = Status(self.config)
        ports = (self.a, self.w, self.s) if self.config.block_scaled else (self.a, self.w)
        denied = Cat(port.request.valid & ~port.request.ready for port in ports).any()
        m.d.comb += [
            status.vector_issued.eq(vector_issue.issued),
            status.row_issued.eq(weight_issue.issued),
            status.waiting.eq(vectors.busy | vector_issue.valid | weights.busy | fork.busy),
            # With no weight tile there is no request for A; then it is the weights' port that matters.
            status.denied.eq(denied & (~vector_issue.valid | vector_issue.needs_weights | self.a.request.valid)),
            self.control.quiet.eq(status.quiet),
            self.control.activity.eq(status.activity),
            self.control.progress.eq(status.progress),
        ]

    def _find_errors(self, m, weights, vector_issue, abort):
        m.submodules.errors = errors = ErrorFinder(self.config)
        m.d.comb += [
            errors.vector_valid.eq(vector_issue.valid), errors.vector.eq(vector_issue.vector),
            errors.needs_weights.eq(vector_issue.needs_weights),
            errors.row_valid.eq(weights.o.valid), errors.row.eq(weights.o.p),
            errors.abort.eq(abort),
            self.control.error.eq(errors.error),
        ]
