"""Functions of results, and results of rows: how they become lines."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.function_pipe import FunctionPipe
from ..config import ChipConfig
from ..functions import Function
from ..isa import ResultFunction
from ..lib.delay import Delay, delay_valid
from ..timing import RESULT_FUNCTIONS
from .shapes import Geometry

__all__ = ["ResultFunctions", "RowWriter"]


if any(ResultFunction[item.name].value != item.value + 1 for item in Function):
    raise NotImplementedError("an instruction's function must be the pipe's, plus one")


class ResultFunctions(wiring.Component):
    """Takes a function of each word of a step, one word after the other, or of the first one only.

    Latency :data:`LATENCY` + lanes cycles, or + 1 of a first one only; a step every `lanes` cycles, or every
    cycle of the others.

    Members
    -------
    valid : In(1)
        A step's words are here.
    word : In(array of 32)
        FP32.
    single : In(1)
        Only the first word matters: it takes the place of all.
    step : In
        Its number.
    function : In(ResultFunction)
        Not NONE.
    o_valid : Out(1), o : Out(array of 32), o_single : Out(1), o_step : Out
        The results; only in this cycle.
    """

    LATENCY = RESULT_FUNCTIONS

    def __init__(self, config: ChipConfig):
        self._config, geometry = config, Geometry.of(config)
        self._lanes, self._step_width = geometry.lanes, geometry.step_width
        words = data.ArrayLayout(32, self._lanes)
        super().__init__({
            "valid": In(1), "word": In(words), "single": In(1), "step": In(self._step_width),
            "function": In(ResultFunction),
            "o_valid": Out(1), "o": Out(words), "o_single": Out(1), "o_step": Out(self._step_width),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.pipe = pipe = FunctionPipe(ecp5=self._config.multiplier != "portable")
        width = 32 * self._lanes
        words = Signal(width, reset_less=True)
        left = Signal(range(self._lanes + 1))
        step, single = Signal(self._step_width, reset_less=True), Signal(reset_less=True)
        function = Signal(ResultFunction, reset_less=True)
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), words.eq(words >> 32)]
        with m.If(self.valid):
            m.d.sync += [left.eq(Mux(self.single, 1, self._lanes)), words.eq(self.word),
                         step.eq(self.step), single.eq(self.single), function.eq(self.function)]
        m.d.comb += [pipe.i.eq(words), pipe.select.eq(function - 1)]
        m.submodules.beside = beside = Delay(self._step_width + 1, FunctionPipe.LATENCY)
        m.d.comb += beside.i.eq(Cat(single, step))
        came = delay_valid(m, left == 1, "came", FunctionPipe.LATENCY)
        m.d.sync += [
            self.o.eq(Mux(beside.o[0], pipe.o.replicate(self._lanes), Cat(self.o.as_value(), pipe.o)[32:])),
            self.o_valid.eq(came), Cat(self.o_single, self.o_step).eq(beside.o),
        ]
        return m


class RowWriter(wiring.Component):
    """A row's result for each step of a line, or a step's results as they are.

    Latency 1 cycle, and a row takes `steps` cycles; the next one may come with the last of these.

    Members
    -------
    valid : In(1), word : In(array of 32), row : In(1), step : In
        Results, and the step that they are of, unless they are a row's.
    o_valid : Out(1), o : Out(array of 32), o_step : Out
    ends : Out(1)
        This is the last step of what came.
    """

    def __init__(self, config: ChipConfig):
        geometry = Geometry.of(config)
        self._steps = geometry.steps
        words = data.ArrayLayout(32, geometry.lanes)
        super().__init__({
            "valid": In(1), "word": In(words), "row": In(1), "step": In(geometry.step_width),
            "o_valid": Out(1), "o": Out(words), "o_step": Out(geometry.step_width), "ends": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(self._steps + 1))       # steps that are still to be written, with this one
        m.d.comb += [self.o_valid.eq(left != 0), self.ends.eq(left == 1)]
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), self.o_step.eq(self.o_step + 1)]
        with m.If(self.valid):
            m.d.sync += [left.eq(Mux(self.row, self._steps, 1)), self.o.eq(self.word),
                         self.o_step.eq(Mux(self.row, Const(0), self.step))]
        return m
