"""From a read of operands to a line of results: all that never stalls."""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import ResultFunction
from ..lib.delay import Delay, delay, delay_valid
from ..timing import PARAMETER_SETS, READ_LATENCY
from .block_quantizer import BlockQuantizer
from .columns import ColumnParameters, ColumnSelect
from .lane import Lane
from .late_results import LateResults
from .line_packer import LinePacker
from .operand_words import OperandWords
from .shapes import Geometry, Size, settings_layout, tag_layout
from .tables import table_write

__all__ = ["MAX_TOP", "Datapath"]

#: Lines of the largest of rows that may be under way when `room` is looked at, with those of the result that goes.
MAX_TOP = 12
#: At most so many reads are in the datapath: more than its latency with the widest column selection.
MAX_FLIGHT = 64


class _Stage(NamedTuple):
    """Some cycles after a read: whether there was one, and its tag."""
    valid: Value
    tag: data.View


class Datapath(wiring.Component):
    """Column selection, tables, lanes and assembly, with the parameters of all sets.

    Latency READ_LATENCY + ColumnSelect.latency + Lane.OUT + Assemble.LATENCY cycles from an accepted read to
    its line, one read per cycle. Results that take dynamic scales go through :class:`.BlockQuantizer` instead of
    to the lanes' end, those of rows or with a function
    through :class:`.LateResults`; those that are multiplied twice take Lane.RESCALE cycles more. Results of two
    such ways must not be here at once.

    Members
    -------
    read : In(1)
        An accumulator line is read in this cycle, for what `tag` says.
    tag : In(tag)
    line : In(columns * 32)
        It comes here READ_LATENCY cycles after, unless operand A comes from its table.
    a_line, b_line : In(line)
        Operands' bytes, with the read.
    result : Out(line)
    done : Out(1)
        A line of results is complete; only in this cycle.
    scales : Out(line)
    scales_done : Out(1)
        A line of dynamic scales is complete; only in this cycle. These two come with dynamic scales only.
    idle : Out(1)
        Nothing is in the datapath, or nothing but results of a block that is not complete.
    clear : In(1)
        Forget dynamic scales and what waits for them; what else is in the datapath still comes.
    room : In(1)
        There is room for :data:`MAX_TOP` more lines of the largest of a row, as of a cycle ago.
    free : Out(1)
        The next row may be read of which the largest are taken; only in this cycle. These two with `top_k` only.
    set, settings, settings_enable, bias, bias_line, bias_enable, scale, scale_line, scale_enable : In
        Write ports, as :class:`.parameter_fetch.ParameterFetch` has them. A set in use must not be written.
    table : In(table_write())
        The same of the tables: they must not be written while anything is in the datapath.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        width, number = 8 * config.line_bytes, Geometry.of(config).line_width
        scaled = {"scales": Out(width), "scales_done": Out(1), "clear": In(1)}
        super().__init__({
            "read": In(1), "tag": In(tag_layout(config)), "line": In(32 * config.columns),
            "a_line": In(width), "b_line": In(width), "table": In(table_write()),
            "result": Out(width), "done": Out(1), "idle": Out(1),
            "set": In(range(PARAMETER_SETS)), "settings": In(settings_layout(config)), "settings_enable": In(1),
            "bias": In(width), "bias_line": In(number), "bias_enable": In(1),
            "scale": In(width), "scale_line": In(number), "scale_enable": In(1),
            **(scaled if config.dynamic_scales else {}),
            **({"room": In(1), "free": Out(1)} if config.top_k else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.select = select = ColumnSelect(self._config)
        m.submodules.bias_words = bias = self._parameters(m, "bias")
        m.submodules.scale_words = scale = self._parameters(m, "scale")
        m.submodules.line_packer = line_packer = LinePacker(self._config)
        # Cycles from the read on; `start` is when the lanes have their accumulators.
        start = READ_LATENCY + select.latency
        stages, scale_tag = self._stages(m, start)
        m.d.comb += [select.line.eq(self.line), select.step.eq(stages[READ_LATENCY].tag.step)]
        for words, tag in ((bias, stages[start - ColumnParameters.LATENCY].tag), (scale, scale_tag)):
            m.d.comb += [words.set.eq(tag.set), words.step.eq(tag.step)]
        lanes = [Lane(self._config) for _ in range(self._config.vector_lanes)]
        at_result, at_out = self._control(m, lanes, stages, start)
        a_words, b_words, b_late = self._operand_words(m, select)
        for index, lane in enumerate(lanes):
            m.submodules[f"lane{index}"] = lane
            word = slice(32 * index, 32 * index + 32)
            m.d.comb += [
                lane.a.eq(Mux(self._at_start.fetched, a_words[word], select.o[word])),
                lane.bias.eq(Mux(self._at_start.add, b_words[word], bias.o[word])),
                lane.scale.eq(Mux(self._at_scale.multiply, b_late[word], scale.o[word])),
                line_packer.word[index].eq(lane.word), line_packer.byte[index].eq(lane.byte),
            ]
            if self._config.functions:
                m.d.comb += lane.second.eq(scale.o[word])
            if self._config.block_scaled:
                m.d.comb += line_packer.half[index].eq(lane.half)
        late = [at_out.dynamic_scale] if self._config.dynamic_scales else []
        if self._config.functions:
            late += [at_out.row, at_out.function != ResultFunction.NONE]
        m.d.comb += [
            line_packer.valid.eq(stages[-1].valid & stages[-1].tag.last & ~Cat(late).any()),
            line_packer.step.eq(stages[-1].tag.step),
            line_packer.size.eq(at_out.size),
            self.result.eq(line_packer.line),
            self.done.eq(line_packer.done),
        ]
        flight = Signal(range(MAX_FLIGHT))
        landed = Signal()
        m.d.sync += [landed.eq(stages[-1].valid), flight.eq(flight + self.read - landed)]
        m.d.comb += self.idle.eq(flight == 0)
        at_end = stages[start + Lane.RESULT]
        if self._config.dynamic_scales:
            self._quantize(m, line_packer, lanes, at_end, at_result)
        if self._config.functions:
            self._finish(m, line_packer, lanes, at_end, at_result)
        return m

    def _operand_words(self, m, select):
        """Words of operands A and B, with those that `select` has; and B's when lanes multiply."""
        m.submodules.operands = operands = OperandWords(self._config)
        m.d.comb += [getattr(operands, name).eq(getattr(self, name)) for name in
                     ("read", "tag", "a_line", "b_line", "table")]
        a, b = (delay(m, words, name, select.latency) for words, name in
                ((operands.a, "a_words"), (operands.b, "b_words")))
        if self._config.functions:
            second, itself = Signal(len(b), name="second_words"), Mux(self._at_start.fetched, a, select.o)
            m.d.comb += second.eq(Mux(self._at_start.itself, itself, b))
            b = second
        m.submodules.b_late = late = Delay(len(b), Lane.SCALE)
        m.d.comb += late.i.eq(b)
        return a, b, late.o

    def _control(self, m, lanes, stages, start):
        """What lanes do by their instructions' settings; those at the lanes' result and at their end."""
        m.submodules.settings_memory = settings = Memory(
            shape=settings_layout(self._config), depth=PARAMETER_SETS, init=[])
        write = settings.write_port()
        m.d.comb += [write.addr.eq(self.set), write.data.eq(self.settings), write.en.eq(self.settings_enable)]
        self._at_start, self._at_scale, at_key, at_clamp, at_maximum, at_result, at_out = (
            self._settings(m, settings, stages[start + at - 1].tag.set, name) for at, name in
            ((0, "start"), (Lane.SCALE, "scale"), (Lane.KEY, "key"), (Lane.CLAMP, "clamp"),
             (Lane.MAXIMUM, "maximum"), (Lane.RESULT, "result"), (Lane.OUT, "out")))
        first, at_end = stages[start], stages[start + Lane.MAXIMUM]
        for lane in lanes:
            m.d.comb += [
                lane.adds.eq(first.valid),
                lane.again.eq(self._at_start.sum & ~first.tag.first),
                lane.integer_key.eq(at_key.integer),
                lane.low.eq(at_clamp.low),
                lane.high.eq(at_clamp.high),
                lane.valid.eq(at_end.valid),
                # Of sums, the last one counts.
                lane.starts.eq(at_maximum.sum | at_end.tag.first),
                lane.integer_result.eq(at_result.integer),
                lane.zero_point.eq(at_result.zero_point),
            ]
        if self._config.vector_floats:
            m.d.comb += [lane.float.eq(self._at_scale.float) for lane in lanes]
        if self._config.functions:
            m.d.comb += [lane.rescale.eq(at_key.rescale) for lane in lanes]
        return at_result, at_out

    def _quantize(self, m, line_packer, lanes, stage, settings):
        """Results that take dynamic scales leave the lanes at `stage`, and come back to `line_packer`."""
        m.submodules.quantize = quantize = BlockQuantizer(self._config)
        tag = stage.tag
        m.d.comb += [
            quantize.valid.eq(stage.valid & tag.last & settings.dynamic_scale),
            *(word.eq(lane.result) for word, lane in zip(quantize.i.word, lanes, strict=False)),
            quantize.i.step.eq(tag.step),
            quantize.i.rule.eq(settings.rule),
            quantize.i.end.eq(tag.end),
            quantize.i.flush.eq(tag.flush),
            quantize.clear.eq(self.clear),
            self.scales.eq(quantize.scales),
            self.scales_done.eq(quantize.scales_done),
        ]
        size = Const(Size.BYTE.value, 2)
        if self._config.has_float_results:
            size = Mux(quantize.e2m1, Size.NIBBLE.value, Size.BYTE.value)
            m.d.comb += [
                quantize.i.e2m1.eq(settings.size == Size.NIBBLE.value),
                *(nibble.eq(code) for nibble, code in zip(line_packer.nibble, quantize.element, strict=True)),
            ]
            if self._config.has_mxint8_results:
                m.d.comb += quantize.i.mxint8.eq(settings.mxint8)
        with m.If(quantize.o_valid):
            m.d.comb += [
                line_packer.valid.eq(1),
                line_packer.step.eq(quantize.step),
                line_packer.size.eq(size),
                *(byte.eq(code) for byte, code in zip(line_packer.byte, quantize.element, strict=True)),
            ]
        with m.If(~quantize.idle):
            m.d.comb += self.idle.eq(0)

    def _finish(self, m, line_packer, lanes, stage, settings):
        """Results of rows, and those that a function is taken of, leave the lanes at `stage` as well."""
        m.submodules.late_results = late = LateResults(self._config)
        tag = stage.tag
        m.d.comb += [
            late.valid.eq(stage.valid & tag.last), late.step.eq(tag.step),
            *(key.eq(lane.key) for key, lane in zip(late.key, lanes, strict=True)),
            *(word.eq(lane.result) for word, lane in zip(late.word, lanes, strict=True)),
            late.begins.eq(tag.row_begins), late.ends.eq(tag.row_ends), late.tail.eq(tag.row_tail),
            late.sum.eq(settings.sum), late.limit.eq(settings.tail), late.integer.eq(settings.integer),
            late.row.eq(settings.row), late.function.eq(settings.function),
        ]
        if self._config.float_row_sums:
            m.d.comb += late.levels.eq(settings.levels)
        if self._config.top_k:
            m.d.comb += [late.top.eq(settings.top), late.room.eq(self.room), self.free.eq(late.free)]
        with m.If(late.o_valid):
            m.d.comb += [line_packer.valid.eq(1), line_packer.step.eq(late.o_step),
                         line_packer.size.eq(Size.WORD.value),
                         *(word.eq(own) for word, own in zip(line_packer.word, late.o, strict=True))]
        with m.If(~late.idle):
            m.d.comb += self.idle.eq(0)

    def _parameters(self, m, name):
        words = ColumnParameters(self._config)
        m.d.comb += [
            words.write_set.eq(self.set),
            words.write_line.eq(getattr(self, f"{name}_line")),
            words.data.eq(getattr(self, name)),
            words.enable.eq(getattr(self, f"{name}_enable")),
        ]
        return words

    def _stages(self, m, start):
        """0 to start + Lane.OUT cycles after a read, more from Lane.SCALE on for what is multiplied twice; and
        whose scale is read now."""
        stages, before = [_Stage(self.read, self.tag)], start + Lane.SCALE
        for cycle in range(before):
            stages.append(_later(m, stages[-1], f"{cycle}"))
        scale_tag = stages[before - ColumnParameters.LATENCY].tag
        if self._config.functions:
            stages[before], scale_tag = self._again(m, stages[before], scale_tag)
        for cycle in range(before, start + Lane.OUT):
            stages.append(_later(m, stages[-1], f"{cycle}"))
        return stages, scale_tag

    def _again(self, m, stage, scale_tag):
        """Steps at Lane.SCALE, of those that are multiplied twice the ones whose first product is there; and whose
        scale is read now."""
        late = [_Stage(stage.valid & stage.tag.rescale, stage.tag)]
        for cycle in range(Lane.RESCALE):
            late.append(_later(m, late[-1], f"again_{cycle}"))
        soon, last = late[-1 - ColumnParameters.LATENCY], late[-1]
        merged = _Stage(last.valid | (stage.valid & ~stage.tag.rescale), _either(self._config, last, stage.tag))
        return merged, _either(self._config, soon, scale_tag)

    def _settings(self, m, settings, set_, name):
        """The settings of a set, a cycle later."""
        port = settings.read_port(domain="comb")
        m.d.comb += port.addr.eq(set_)
        register = Signal(settings_layout(self._config), name=f"at_{name}", reset_less=True)
        m.d.sync += register.eq(port.data)
        return register


def _later(m, stage, name):
    """A cycle later."""
    return _Stage(delay_valid(m, stage.valid, f"valid_{name}_", 1), delay(m, stage.tag, f"tag_{name}"))


def _either(config, stage, tag):
    """The tag of `stage`, if something is there, or else `tag`."""
    return data.View(tag_layout(config), Mux(stage.valid, stage.tag.as_value(), tag.as_value()))
