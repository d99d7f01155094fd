"""The MATMUL unit: issues weight rows and vectors to the array, and sees to it that sums do not collide."""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from ..array.decode import EdgeDecoder
from ..array.systolic import SystolicArray
from ..config import READ_LATENCY, ChipConfig
from ..control.unit import UnitPort
from ..isa import Activity, ErrorCode, Unit
from ..lib.delay import Delay, delay
from ..memory.accumulator import Accumulator, accumulation
from ..memory.ports import LINE_ADDRESS, ReadPort
from .address_generators import ActivationAddressGenerator, WeightAddressGenerator
from .items import Vector
from .scales import TileScales, VectorScales

__all__ = ["MatmulUnit"]


class MatmulUnit(wiring.Component):
    """Runs MATMUL instructions (:data:`kiwicha.isa.MATMUL`), several at a time.

    Weight rows and vectors are read through ports of one and the same latency, so what is accepted first is
    first at the array. Weights run one tile ahead of the vectors, across instructions too: with free ports a
    tile of M vectors takes max(M, rows) cycles, and nothing comes in between; the last tile of a scale block
    loads a line more, that of its scales, and the next instruction's first tile may come a cycle later. A vector
    waits until its accumulator line has rested for :attr:`Accumulator.hazard` cycles, and until the line of A's
    scales that it is the first to use has been read.

    Errors come in the program's order, after everything before them has been issued: FIELD for a zero count, a
    format or block scaling that the chip has not; SCRATCHPAD_RANGE and ACCUMULATOR_RANGE at the first line that
    does not exist, a tile's weights (their scales first) before its vectors, and of a vector the line of A first,
    then that of its scale.

    Parameters
    ----------
    config : ChipConfig

    Members
    -------
    control : Out(UnitPort)
        `retire` comes with the first cycle in which a read of the accumulators sees the last sum. BUSY counts
        vectors issued; PORT, what the scratchpad denied; OPERAND, waiting for a tile or an accumulator line.
    a, w : Out(ReadPort)
        Scratchpad lines. `w.request.valid` depends on `a.request.ready`: the next tile may come with the
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
        self._array = SystolicArray(config)
        self._decode_a, self._decode_w = EdgeDecoder(config, config.rows), EdgeDecoder(config, config.columns)
        self._hazard, self._accumulate = Accumulator.hazard_of(config), Accumulator.latency_of(config)
        line = 8 * config.line_bytes
        super().__init__({
            "control": Out(UnitPort(Unit.MATMUL)),
            "a": Out(ReadPort(line)),
            "w": Out(ReadPort(line)),
            **({"s": Out(ReadPort(line))} if config.block_scaled else {}),
            "acc": Out(accumulation(config)),
        })

    @property
    def _edge(self) -> int:
        """Cycles from a request to its elements at the array's edge."""
        return READ_LATENCY + self._decode_a.latency

    @property
    def latency(self) -> int:
        return self._edge + self._array.latency

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = self._array
        m.submodules.decode_a, m.submodules.decode_w = self._decode_a, self._decode_w
        m.submodules.vectors = vectors = ActivationAddressGenerator(self.config)
        m.submodules.weights = weights = WeightAddressGenerator(self.config)
        #: The vector to be issued next, whether it is there (and can be), and a one for each cycle it must still
        #: wait. The request for its line goes all over the chip and so has but one LUT before it.
        self._vector = Signal(Vector(self.config), reset_less=True)
        self._vector_valid, self._vector_good, self._vector_ready = Signal(), Signal(), Signal()
        #: Ready, and the first of a tile; and it is issued: the next tile's rows may come.
        self._swap_ready, self._swap = Signal(), Signal()
        self._hold = Signal(self._hazard - 1)
        #: The array has a whole tile that no vector has used; it has room for the first row of another.
        self._loaded = Signal()
        self._free = Signal(init=1)
        self._issue, self._issue_row = Signal(), Signal()
        #: A register of its own: control is far away.
        self._abort = Signal()
        m.d.sync += self._abort.eq(self.control.abort)

        forked = self._fork(m, vectors, weights)
        self._issue_vectors(m, vectors)
        self._issue_weights(m, weights)
        self._feed(m, weights)
        self._collect(m)
        if self.config.block_scaled:
            self._scale(m, weights)
        self._report(m, vectors, weights, forked)
        self._find_errors(m, weights)
        return m

    def _fork(self, m, vectors, weights):
        """Hand each instruction to both address generators, each when it likes; whether one has it already."""
        control = self.control
        taken = Signal(2)
        # A cycle after the second has it: from a register, for a generator is ready late and control is far away.
        # What comes during an abort is dropped.
        m.d.comb += control.i.ready.eq(taken.all() | self._abort)
        for done, address_generator in zip(taken, (vectors, weights), strict=True):
            m.d.comb += [
                address_generator.abort.eq(self._abort),
                address_generator.i.valid.eq(control.i.valid & ~done & ~self._abort),
                address_generator.i.payload.eq(control.i.payload),
            ]
            m.d.sync += done.eq(control.i.valid & ~control.i.ready & (done | address_generator.i.ready))
        return taken.any()

    def _issue_vectors(self, m, vectors):
        vector, coming = self._vector, vectors.o.p
        load = Signal()
        to_wait = self._cycles_to_wait(m, coming.acc)
        can_go = self._vector_ready & (~vector.swap | self._loaded)
        swap = self._swap_ready & self._loaded & self.a.request.ready
        if self.config.block_scaled:
            has_scales = self._fetch_scales(m, can_go, load)
            can_go &= has_scales
            swap &= has_scales
        m.d.comb += [
            self.a.request.payload.eq(vector.line[:LINE_ADDRESS]),
            self.a.request.valid.eq(can_go),
            self._issue.eq(self.a.request.valid & self.a.request.ready),
            load.eq(~self._vector_valid | self._issue),
            vectors.o.ready.eq(load),
            self._swap.eq(swap),
        ]
        with m.If(load):
            m.d.sync += [vector.eq(coming), self._vector_valid.eq(vectors.o.valid), self._hold.eq(to_wait),
                         self._vector_good.eq(vectors.o.valid & ~coming.bad),
                         self._vector_ready.eq(vectors.o.valid & ~coming.bad & ~to_wait[0]),
                         self._swap_ready.eq(vectors.o.valid & ~coming.bad & ~to_wait[0] & coming.swap)]
        with m.Else():
            m.d.sync += [self._hold.eq(self._hold >> 1),
                         self._vector_ready.eq(self._vector_good & ~self._hold[1]),
                         self._swap_ready.eq(self._vector_good & ~self._hold[1] & vector.swap)]
        with m.If(self._abort):
            m.d.sync += [self._vector_valid.eq(0), self._vector_good.eq(0), self._vector_ready.eq(0),
                         self._swap_ready.eq(0)]

    def _fetch_scales(self, m, can_go, load):
        """Ask for the vector's scale line once; whether the vector may be issued."""
        vector, request = self._vector, self.s.request
        fetched = Signal()
        m.d.comb += [
            request.payload.eq(vector.scale_line[:LINE_ADDRESS]),
            request.valid.eq(can_go & vector.fetch & ~fetched),
        ]
        with m.If(load | self._abort):
            m.d.sync += fetched.eq(0)
        with m.Elif(request.valid & request.ready):
            m.d.sync += fetched.eq(1)
        return ~vector.fetch | fetched | request.ready

    def _cycles_to_wait(self, m, acc):
        """The hold bits of a vector to accumulator line `acc` that comes after the one now being issued.

        They are found a cycle ahead, which takes the comparators out of the request's way.
        """
        bits = (self.config.accumulator_lines - 1).bit_length()
        # Lines issued in this cycle (if any is, for only then does another come), the last, and so on.
        past = [(self._vector.acc[:bits], self._vector_valid)]
        issued = self._issue
        for age in range(1, self._hazard - 1):
            line = delay(m, past[-1][0], f"line{age}")
            valid = Signal(name=f"line{age}_valid")
            m.d.sync += valid.eq(issued)
            past.append((line, valid))
            issued = valid
        return Cat(Cat(valid & (line == acc[:bits]) for line, valid in past[:self._hazard - 1 - cycle]).any()
                   for cycle in range(self._hazard - 1))

    def _issue_weights(self, m, weights):
        row, swap = weights.o.p, self._swap
        m.d.comb += [
            self.w.request.payload.eq(row.line[:LINE_ADDRESS]),
            self.w.request.valid.eq(weights.o.valid & ~row.no_line & (~row.first | self._free | swap)),
            self._issue_row.eq(self.w.request.valid & self.w.request.ready),
            weights.o.ready.eq(self._issue_row),
        ]
        with m.If(swap):
            m.d.sync += [self._loaded.eq(0), self._free.eq(1)]
        with m.If(self._issue_row & row.first):
            m.d.sync += self._free.eq(0)
        with m.If(self._issue_row & row.last):
            m.d.sync += self._loaded.eq(1)
        with m.If(self._abort):
            m.d.sync += [self._loaded.eq(0), self._free.eq(1)]

    def _feed(self, m, weights):
        """From the ports through the decoders to the array's edge."""
        array, a, w = self._array, self._decode_a, self._decode_w
        row = weights.o.p
        valid_w = self.w.valid & ~delay(m, row.scale, "is_scale", READ_LATENCY) if self.config.block_scaled else \
            self.w.valid
        m.d.comb += [
            a.i.eq(self.a.data), a.format.eq(delay(m, self._vector.format, "a_format", READ_LATENCY)),
            w.i.eq(self.w.data), w.format.eq(delay(m, row.format, "w_format", READ_LATENCY)),
            array.a.data.eq(a.o), array.w.data.eq(w.o),
            array.a.swap.eq(delay(m, self._vector.swap, "swap", self._edge)),
            array.w.row.eq(delay(m, row.row, "row", self._edge)),
        ]
        for port, valid, name in ((array.a, self.a.valid, "a"), (array.w, valid_w, "w")):
            for cycle in range(self._decode_a.latency):
                then = Signal(name=f"{name}_edge{cycle}")
                m.d.sync += then.eq(valid)
                valid = then
            m.d.comb += port.valid.eq(valid)

    def _collect(self, m):
        """From the array to the accumulators; each vector's address waits in a delay line of equal length."""
        passed = {"scaled": 1, "begin": 1, "end": 1} if self.config.block_scaled else {}
        tag = data.StructLayout({"address": LINE_ADDRESS, "add": 1, "last": 1, "swap": 1, **passed})
        m.submodules.tags = tags = Delay(tag, self.latency - 1)
        #: The tag of the vector whose sums come in the next cycle, and in this.
        self._coming = tags.o
        sent, back = self._vector, Signal(tag, reset_less=True)
        m.d.sync += back.eq(tags.o)
        m.d.comb += [
            tags.i.address.eq(sent.acc[:LINE_ADDRESS]),
            *(tags.i[name].eq(sent[name]) for name in ("add", "last", "swap", *passed)),
            self.acc.valid.eq(self._array.o.valid),
            self.acc.data.eq(self._array.o.data),
            self.acc.address.eq(back.address),
            *(self.acc[name].eq(back[name]) for name in ("add", *passed)),
        ]
        retire = self.acc.valid & back.last
        for cycle in range(self._accumulate):
            then = Signal(name=f"retire{cycle}")
            m.d.sync += then.eq(retire)
            retire = then
        m.d.comb += self.control.retire.eq(retire & ~self._abort)

    def _scale(self, m, weights):
        """Scales and NaNs, past the array."""
        config, acc, vector, row = self.config, self.acc, self._vector, weights.o.p
        m.submodules.vector_scales = vectors = VectorScales(config, self.latency, self._edge)
        m.submodules.tile_scales = tiles = TileScales(config, self.latency)
        # There is no telling of a tag without a vector.
        coming = Signal(self.latency - 1)
        m.d.sync += coming.eq(Cat(self._issue, coming))
        m.d.comb += [
            vectors.byte.eq(vector.scale_byte), vectors.exponent.eq(vector.exponent), vectors.end.eq(vector.end),
            vectors.line_valid.eq(self.s.valid), vectors.line.eq(self.s.data), vectors.nan.eq(self._decode_a.nan),
            tiles.scale_valid.eq(self.w.valid & delay(m, row.scale, "scale_row", READ_LATENCY)),
            tiles.scale.eq(self.w.data),
            tiles.row_valid.eq(self._array.w.valid),
            tiles.row_first.eq(self._array.w.row == 0), tiles.row_last.eq(self._array.w.row == config.rows - 1),
            tiles.nan.eq(self._decode_w.nan),
            tiles.next.eq(coming[-1] & self._coming.swap),
            tiles.next_scaled.eq(tiles.next & self._coming.scaled & self._coming.end),
            tiles.clear.eq(self._abort),
            acc.exponent.eq(vectors.o_exponent), acc.nan.eq(vectors.o_nan),
            acc.scale.eq(tiles.o_scale), acc.column_nan.eq(tiles.o_nan),
        ]

    def _report(self, m, vectors, weights, forked):
        """Whether and why this cycle is busy or not."""
        control = self.control
        whole = self.latency + self._accumulate
        under_way = Signal(range(whole + 1))        # cycles until the pipeline is empty
        with m.If(self._issue | self._issue_row):
            m.d.sync += under_way.eq(whole)
        with m.Elif(under_way != 0):
            m.d.sync += under_way.eq(under_way - 1)
        waiting = vectors.busy | self._vector_valid | weights.busy | forked
        ports = (self.a, self.w, self.s) if self.config.block_scaled else (self.a, self.w)
        denied = Cat(port.request.valid & ~port.request.ready for port in ports).any()
        needs_tile = self._vector.swap & ~self._loaded
        m.d.comb += [
            control.progress.eq(self._issue | self._issue_row),
            control.quiet.eq(~waiting & (under_way == 0)),
        ]
        with m.If(control.quiet):
            m.d.comb += control.activity.eq(Activity.IDLE)
        with m.Elif(self._issue):
            m.d.comb += control.activity.eq(Activity.BUSY)
        # With no tile there is no request for A; then it is the weights' port that matters.
        with m.Elif(denied & (~self._vector_valid | needs_tile | self.a.request.valid)):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Elif(waiting):
            m.d.comb += control.activity.eq(Activity.OPERAND)
        with m.Else():
            m.d.comb += control.activity.eq(Activity.DRAIN)

    def _find_errors(self, m, weights):
        """Raise the error of the vector whose turn it is; it stays where it is and so stops everything."""
        error, vector, row = self.control.error, self._vector, weights.o.p
        needs_tile = vector.swap & ~self._loaded
        report = Signal.like(error, name="report")
        m.d.comb += error.eq(report)
        found = [
            (vector.no_field, ErrorCode.FIELD, vector.value),
            (needs_tile & weights.o.valid & row.no_line, ErrorCode.SCRATCHPAD_RANGE, row.line),
            (~needs_tile & vector.no_line, ErrorCode.SCRATCHPAD_RANGE, vector.line),
            *([(~needs_tile & vector.fetch & vector.no_scale, ErrorCode.SCRATCHPAD_RANGE, vector.scale_line)]
              if self.config.block_scaled else []),
            (~needs_tile & vector.no_acc, ErrorCode.ACCUMULATOR_RANGE, vector.acc),
        ]
        with m.If(self._abort):
            m.d.sync += report.valid.eq(0)
        with m.Elif(self._vector_valid & ~report.valid):
            for condition, code, address in reversed(found):
                with m.If(condition):
                    m.d.sync += [report.valid.eq(1), report.code.eq(code), report.index.eq(vector.index),
                                 report.address.eq(address)]
