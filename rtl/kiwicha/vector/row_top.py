"""The largest results of a row, and their places in it."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.order import total_order
from ..config import ChipConfig
from ..isa import TOP_MOST
from ..timing import MOST_ITERATIONS
from .shapes import Geometry

__all__ = ["RowTop"]


class RowTop(wiring.Component):
    """Keeps a row's :data:`~kiwicha.isa.TOP_MOST` largest keys in order, then hands out as many as are wanted.

    A step's keys are compared one after the other, a cycle for each lane, with all that are kept: a key goes in
    front of the first that is less, and all behind that move on. So of equal keys the one that came first stays in
    front. To compare takes a cycle and to move another, in which the next key is compared already: with all that
    are kept before they move, and with this one, and so with what is in each place after it.

    First the keys' FP32 numbers come out, the largest first, then their places in the same order, each for all
    steps of a line: one every `steps` cycles.

    Latency :func:`~kiwicha.timing.row_top` cycles from the step that ends a row to its first result, if the result
    before it came `steps` cycles ago. A step every `lanes` cycles; the next row's first one after `free`.

    Members
    -------
    valid : In(1)
        A step's keys are here.
    key : In(array of signed(32))
        :func:`~kiwicha.arith.order.total_order` of FP32 numbers.
    counts : In(lanes)
        Which of them count; of a row's first step, the first one does. Only those that do have places.
    begins, ends : In(1)
        It is a row's first step, or last.
    top : In
        With a row's last step: how many results, at least 1 and at most as many as count.
    room : In(1)
        A result may come out in the next cycle.
    o_valid : Out(1), o : Out(32)
        A result; only in this cycle.
    free : Out(1)
        The last result of a row goes; only in this cycle.
    busy : Out(1)
        A step's keys, or a row's results, are here.
    """

    def __init__(self, config: ChipConfig):
        self._geometry = geometry = Geometry.of(config)
        lanes = geometry.lanes
        super().__init__({
            "valid": In(1), "key": In(data.ArrayLayout(signed(32), lanes)), "counts": In(lanes),
            "begins": In(1), "ends": In(1), "top": In(range(TOP_MOST + 1)), "room": In(1),
            "o_valid": Out(1), "o": Out(32), "free": Out(1), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, steps = self._geometry.lanes, self._geometry.steps
        # The step whose keys are compared, the next one first.
        left = Signal(range(lanes + 1))
        keys, counts = Signal(32 * lanes, reset_less=True), Signal(lanes, reset_less=True)
        begins, ends = Signal(reset_less=True), Signal(reset_less=True)
        last, compared = Signal(range(TOP_MOST), reset_less=True), Signal()
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), keys.eq(keys >> 32), counts.eq(counts >> 1), begins.eq(0)]
        with m.If(self.valid):
            m.d.sync += [left.eq(lanes), keys.eq(self.key), counts.eq(self.counts), begins.eq(self.begins),
                         ends.eq(self.ends), last.eq(self.top - 1)]
        # Of no step, no key counts.
        kept = self._keep(m, counts[0], begins, keys[:32].as_signed())
        # The result that goes next, and cycles until it may.
        sending, number, is_place = Signal(), Signal(range(TOP_MOST)), Signal()
        pause, goes = Signal(range(max(2, steps))), Signal()
        m.d.comb += [
            goes.eq(sending & self.room & (pause == 0)),
            self.free.eq(goes & is_place & (number == last)),
            self.busy.eq((left != 0) | compared | sending | self.o_valid),
        ]
        m.d.sync += [
            self.o_valid.eq(goes),
            self.o.eq(Mux(is_place, Array(item.place for item in kept)[number],
                          total_order(Array(item.key for item in kept)[number]))),
        ]
        with m.If(goes):
            m.d.sync += [pause.eq(steps - 1), number.eq(Mux(number == last, 0, number + 1)),
                         is_place.eq(is_place ^ (number == last))]
        with m.Elif(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        # The row's last key is among the others then.
        m.d.sync += [compared.eq((left == 1) & ends), sending.eq(Mux(sending, ~self.free, compared))]
        return m

    def _keep(self, m, valid, begins, key):
        """The largest so far and their places, in order: a `key` goes among them, or `begins` a row."""
        place = Signal(range(MOST_ITERATIONS * self._geometry.columns), reset_less=True)
        shape = data.StructLayout({"key": signed(32), "place": place.shape()})
        kept = [Signal(shape, name=f"kept_{index}", reset_less=True) for index in range(TOP_MOST)]
        there = Signal(TOP_MOST - 1)    # the second and so on, once there have been as many keys
        own, own_valid, own_begins = Signal(shape, reset_less=True), Signal(), Signal(reset_less=True)
        # Whether it is above each of them, and above the one before it, which went among them meanwhile.
        was_above, above_own = Signal(TOP_MOST, reset_less=True), Signal(reset_less=True)
        above, moved, here = Signal(TOP_MOST), Signal(TOP_MOST), Signal(place.shape())
        m.d.comb += here.eq(Mux(begins, 0, place))
        m.d.sync += [
            own_valid.eq(valid), own_begins.eq(begins), own.key.eq(key), own.place.eq(here),
            was_above.eq(Cat(key > item.key for item in kept)), above_own.eq(key > own.key),
            moved.eq(above & own_valid.replicate(TOP_MOST)),
        ]
        with m.If(valid):
            m.d.sync += place.eq(here + 1)
        for index in range(TOP_MOST):
            # What is there now was in front a cycle ago, or is the key before this one.
            in_front = Mux(moved[index - 1], was_above[index - 1], above_own) if index else above_own
            is_first = ~there[index - 1] if index else own_begins
            m.d.comb += above[index].eq(is_first | Mux(moved[index], in_front, was_above[index]))
        with m.If(own_valid):
            m.d.sync += there.eq(Mux(own_begins, 0, Cat(1, there)))
            for index, item in enumerate(kept):
                with m.If(above[index]):
                    # The one in front of it moves on, unless this key is not above that one.
                    m.d.sync += item.eq(Mux(above[index - 1], kept[index - 1], own) if index else own)
        return kept
