"""What the MATMUL unit asks the scratchpad for, and when: vectors of A and, ahead of them, rows of weights."""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import Unit
from ..layouts import unit_layout
from ..lib.delay import delay
from ..memory.ports import LINE_ADDRESS
from ..timing import accumulator_hazard
from .items import Vector, WeightRow

__all__ = ["InstructionFork", "VectorIssue", "WeightIssue"]


class InstructionFork(wiring.Component):
    """Hands each instruction to both address generators, to each when it is ready.

    Latency: none from `i` to `vectors` and `weights`; `i` takes the instruction in the cycle after the second of
    them did. Throughput: an instruction every 2 cycles.

    Members
    -------
    i : In(stream)
        Instructions. `ready` is a register or `abort`: a generator's `ready` comes late, and so does what the
        issue queue makes of this one.
    vectors, weights : Out(stream)
    abort : In(1)
        Drop what comes.
    busy : Out(1)
        One of the two has an instruction that `i` still holds.
    """

    def __init__(self):
        instruction = stream.Signature(unit_layout(Unit.MATMUL))
        super().__init__({"i": In(instruction), "vectors": Out(instruction), "weights": Out(instruction),
                          "abort": In(1), "busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        taken = Signal(2)
        m.d.comb += [self.i.ready.eq(taken.all() | self.abort), self.busy.eq(taken.any())]
        for done, o in zip(taken, (self.vectors, self.weights), strict=True):
            m.d.comb += [o.valid.eq(self.i.valid & ~done & ~self.abort), o.payload.eq(self.i.payload)]
            m.d.sync += done.eq(self.i.valid & ~self.i.ready & (done | o.ready))
        return m


class VectorIssue(wiring.Component):
    """Requests the line of each vector when its weight tile is loaded and its accumulator line has rested.

    What a vector waits for is found while it is loaded, so that a single LUT is left before `request.valid`, which
    every bank of the scratchpad arbitrates by.

    Latency: a vector that waits for nothing is requested in the cycle after `i` took it. Throughput: a vector per
    cycle, but two to the same accumulator line are :func:`~kiwicha.timing.accumulator_hazard` cycles apart.

    Members
    -------
    i : In(stream)
        Vectors. `ready` depends on `request.ready`.
    request : Out(stream)
        Lines of A. `valid` stays low for a vector with an error, and for all after it.
    scale_request : Out(stream)
        The line of A's scales, before or with the first vector that uses it; only with block scaling.
    loaded : In(1)
        The array has a whole weight tile that no vector has used.
    abort : In(1)
        Drop everything.
    valid : Out(1), vector : Out(Vector)
        The vector to be issued next.
    needs_weights : Out(1)
        It is the first of a weight tile that is not loaded.
    issued : Out(1)
        It is requested in this cycle.
    swap : Out(1)
        And it is the first of its weight tile: the array has room for the next.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        self._hazard = accumulator_hazard(config)
        request = stream.Signature(LINE_ADDRESS)
        super().__init__({
            "i": In(stream.Signature(Vector(config))),
            "request": Out(request),
            **({"scale_request": Out(request)} if config.block_scaled else {}),
            "loaded": In(1),
            "abort": In(1),
            "valid": Out(1),
            "vector": Out(Vector(config)),
            "needs_weights": Out(1),
            "issued": Out(1),
            "swap": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        coming, vector = self.i.p, Signal(Vector(self.config), reset_less=True)
        # No error; and its line has rested; and the first of a weight tile.
        good, ready, swap_ready = Signal(), Signal(), Signal()
        #: A one for each cycle that it must still wait.
        hold = Signal(self._hazard - 1)
        load = Signal()
        to_wait = self._cycles_to_wait(m, coming.acc)
        can_go = ready & (~vector.swap | self.loaded)
        swap = swap_ready & self.loaded & self.request.ready
        if self.config.block_scaled:
            has_scales = self._fetch_scales(m, can_go, load)
            can_go &= has_scales
            swap &= has_scales
        m.d.comb += [
            self.vector.eq(vector),
            self.needs_weights.eq(vector.swap & ~self.loaded),
            self.request.payload.eq(vector.line[:LINE_ADDRESS]),
            self.request.valid.eq(can_go),
            self.issued.eq(self.request.valid & self.request.ready),
            load.eq(~self.valid | self.issued),
            self.i.ready.eq(load),
            self.swap.eq(swap),
        ]
        with m.If(load):
            m.d.sync += [vector.eq(coming), self.valid.eq(self.i.valid), hold.eq(to_wait),
                         good.eq(self.i.valid & ~coming.bad),
                         ready.eq(self.i.valid & ~coming.bad & ~to_wait[0]),
                         swap_ready.eq(self.i.valid & ~coming.bad & ~to_wait[0] & coming.swap)]
        with m.Else():
            m.d.sync += [hold.eq(hold >> 1), ready.eq(good & ~hold[1]),
                         swap_ready.eq(good & ~hold[1] & vector.swap)]
        with m.If(self.abort):
            m.d.sync += [self.valid.eq(0), good.eq(0), ready.eq(0), swap_ready.eq(0)]
        return m

    def _fetch_scales(self, m, can_go, load):
        """Ask for the vector's scale line once; whether the vector may be issued."""
        vector, request = self.vector, self.scale_request
        fetched = Signal()
        m.d.comb += [
            request.payload.eq(vector.scale_line[:LINE_ADDRESS]),
            request.valid.eq(can_go & vector.fetch & ~fetched),
        ]
        with m.If(load | self.abort):
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
        past = [(self.vector.acc[:bits], self.valid)]
        issued = self.issued
        for age in range(1, self._hazard - 1):
            line = delay(m, past[-1][0], f"line{age}")
            valid = Signal(name=f"line{age}_valid")
            m.d.sync += valid.eq(issued)
            past.append((line, valid))
            issued = valid
        return Cat(Cat(valid & (line == acc[:bits]) for line, valid in past[:self._hazard - 1 - cycle]).any()
                   for cycle in range(self._hazard - 1))


class WeightIssue(wiring.Component):
    """Requests the rows of a weight tile as soon as the array has room for the first: ahead of the vectors.

    Latency: none; the first row may be requested in the very cycle of the `swap` that makes room for it.
    Throughput: a row per cycle.

    Members
    -------
    i : In(stream)
        Rows, and the lines of scales between them.
    request : Out(stream)
        Their lines; stays low for a row whose line does not exist.
    swap : In(1)
        The first vector of a weight tile is issued: it is in use, and there is room for the next.
    abort : In(1)
        The array's weight tiles count for nothing.
    loaded : Out(1)
        All rows of a weight tile that no vector has used have been requested.
    issued : Out(1)
        A row is requested in this cycle.
    """

    def __init__(self, config: ChipConfig):
        super().__init__({
            "i": In(stream.Signature(WeightRow(config))),
            "request": Out(stream.Signature(LINE_ADDRESS)),
            "swap": In(1), "abort": In(1), "loaded": Out(1), "issued": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        row, free = self.i.p, Signal(init=1)
        m.d.comb += [
            self.request.payload.eq(row.line[:LINE_ADDRESS]),
            self.request.valid.eq(self.i.valid & ~row.no_line & (~row.first | free | self.swap)),
            self.issued.eq(self.request.valid & self.request.ready),
            self.i.ready.eq(self.issued),
        ]
        with m.If(self.swap):
            m.d.sync += [self.loaded.eq(0), free.eq(1)]
        with m.If(self.issued & row.first):
            m.d.sync += free.eq(0)
        with m.If(self.issued & row.last):
            m.d.sync += self.loaded.eq(1)
        with m.If(self.abort):
            m.d.sync += [self.loaded.eq(0), free.eq(1)]
        return m
