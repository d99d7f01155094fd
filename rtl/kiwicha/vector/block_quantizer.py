"""Blocks of results to narrow elements and the scale that they share."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..arith.narrow import BlockScale, FloatToElement
from ..config import ChipConfig
from ..formats import MAX_BLOCK, SCALE_NAN, ElementFormat
from ..isa import ScaleRule
from ..lib.delay import delay
from ..lib.stream import Queue
from ..timing import block_quantizer
from .shapes import Geometry

__all__ = ["BlockQuantizer"]


def _lanes(geometry: Geometry) -> int:
    """Results of a step."""
    return min(geometry.lanes, geometry.columns)


class BlockQuantizer(wiring.Component):
    """FP32 results to E4M3, E2M1 or MXINT8, as `config` has them, with a dynamic E8M0 scale per block.

    Steps wait in a ring of LUT RAM for the scale of their block, whose largest magnitude is found as they come;
    the next block comes in while one goes out. From the last step of a block to its first step's elements
    :attr:`latency` cycles pass, if no other block is on its way out. One step per cycle, no stall.

    Scales are collected into lines, the first in byte 0, the rest zero.

    Members
    -------
    valid : In(1)
        A step's results are here.
    i : In(step)
        What it is: `word`, its results as FP32, of which those beyond the last column do not count; its `step`
        number, which it keeps; whether it is to be `e2m1` or `mxint8`, and by which `rule`; whether it is the
        `end` of a block, and whether the line of scales ends with the block's, `flush`.
    o_valid : Out(1)
    step, e2m1 : Out
        Of the elements that are there; `e2m1` only in a chip with floating-point formats.
    element : Out(array of 8)
    scales : Out(line)
    scales_done : Out(1)
        `scales` is complete; only in this cycle, which comes no later than the block's last elements.
    idle : Out(1)
        No whole block is here.
    clear : In(1)
        Forget everything.
    """

    def __init__(self, config: ChipConfig):
        self._config, self._geometry = config, Geometry.of(config)
        geometry = self._geometry
        self._lanes = _lanes(geometry)
        self.latency = block_quantizer(config)
        super().__init__({
            "valid": In(1), "i": In(step_layout(config)),
            "o_valid": Out(1), "step": Out(geometry.step_width),
            **({"e2m1": Out(1)} if config.has_float_results else {}),
            "element": Out(data.ArrayLayout(8, geometry.lanes)),
            "scales": Out(8 * geometry.line_bytes), "scales_done": Out(1),
            "idle": Out(1), "clear": In(1),
        })

    @property
    def _depth(self) -> int:
        """Steps in the ring: the block that goes out, and what comes in until the next one's scale is there."""
        return 2 * MAX_BLOCK // self._lanes

    def elaborate(self, platform):
        m = Module()
        m.submodules.codes = codes = Queue(8, self._depth)
        m.d.comb += codes.clear.eq(self.clear)
        came = delay(m, self.i, "came")
        came_valid = self._valid(m, self.valid, "came_valid")
        self._find_scale(m, came, came_valid, codes.i)
        now, now_valid, code = self._read(m, came, came_valid, codes.o)

        for lane in range(self._lanes):
            m.submodules[f"to_element{lane}"] = convert = FloatToElement(self._formats)
            m.d.comb += [
                convert.i.eq(now.word[lane]),
                convert.scale.eq(code),
                convert.format.eq(_format(self._which(now))),
                convert.bad.eq(code == SCALE_NAN),
                self.element[lane].eq(convert.o),
            ]
        beside = delay(m, Cat(now.step, self._which(now)[:1], now.end), "beside", FloatToElement.LATENCY)
        ends = beside[-1]
        m.d.comb += [
            Cat(self.step, self.e2m1 if self._config.has_float_results else []).eq(beside),
            self.o_valid.eq(self._valid(m, now_valid, "o_valid", FloatToElement.LATENCY)),
        ]
        self._collect(m, now_valid & now.end, now.flush, code)

        blocks = Signal(range(self._depth + 1))
        ended = self._valid(m, self.o_valid & ends, "ended")
        m.d.sync += blocks.eq(Mux(self.clear, 0, blocks + (self.valid & self.i.end) - ended))
        m.d.comb += self.idle.eq(blocks == 0)
        return m

    @property
    def _formats(self) -> list[ElementFormat]:
        config = self._config
        return ([ElementFormat.E4M3, ElementFormat.E2M1] if config.has_float_results else []) + (
            [ElementFormat.INT8] if config.has_mxint8_results else [])

    def _which(self, step):
        return Cat(step[name] for name in _flags(self._config))

    def _valid(self, m, valid, name, cycles=1):
        """*valid*, *cycles* later, unless it is cleared."""
        for cycle in range(cycles):
            register = Signal(name=f"{name}_{cycle}")
            m.d.sync += register.eq(valid & ~self.clear)
            valid = register
        return valid

    def _find_scale(self, m, came, valid, codes):
        """The largest magnitude of each block, and the scale that follows from it, to `codes`."""
        largest = [came.word[lane][:31] for lane in range(self._lanes)]
        level = 0
        while len(largest) > 1:
            largest = [delay(m, Mux(a > b, a, b), f"largest{level}_{number}") for number, (a, b) in
                       enumerate(zip(largest[::2], largest[1::2], strict=True))]
            level += 1
        valid = self._valid(m, valid, "found", level)
        about = delay(m, Cat(came.end, self._which(came), came.rule), "about", level)
        ends = valid & about[0]
        begins = Signal(init=1)
        amax = Signal(31, reset_less=True)
        with m.If(valid):
            m.d.sync += begins.eq(about[0])
            with m.If(begins | (largest[0] > amax)):
                m.d.sync += amax.eq(largest[0])
        with m.If(self.clear):
            m.d.sync += begins.eq(1)

        m.submodules.block_scale = block_scale = BlockScale(self._formats)
        about = delay(m, about, "about_block")
        m.d.comb += [
            block_scale.i.eq(amax),
            block_scale.format.eq(_format(about[1:-1])),
            block_scale.ceil.eq(about[-1] == ScaleRule.RCEIL.value),
            # There is always room.
            codes.valid.eq(self._valid(m, ends, "scale_valid", 1 + BlockScale.LATENCY)),
            codes.payload.eq(block_scale.o),
        ]

    def _read(self, m, came, came_valid, codes):
        """Steps through the ring: one whose block's scale is there, whether there is one, and the scale."""
        m.submodules.ring = ring = Memory(shape=came.shape(), depth=self._depth, init=[])
        write = ring.write_port()
        read = ring.read_port(domain="comb")
        head = Signal(range(self._depth))
        tail = Signal(range(self._depth))
        m.d.comb += [
            write.addr.eq(tail), write.data.eq(came), write.en.eq(came_valid),
            read.addr.eq(head), codes.ready.eq(read.data.end),
        ]
        m.d.sync += [
            tail.eq(Mux(self.clear, 0, tail + came_valid)),
            head.eq(Mux(self.clear, 0, head + codes.valid)),
        ]
        return (delay(m, read.data, "now"), self._valid(m, codes.valid, "now_valid"),
                delay(m, codes.payload, "code"))

    def _collect(self, m, valid, flush, code):
        """Scales into lines."""
        size = self._geometry.line_bytes
        at = Signal(range(size))
        m.d.sync += self.scales_done.eq(valid & flush)
        with m.If(self.clear):
            m.d.sync += at.eq(0)
        with m.Elif(valid):
            m.d.sync += at.eq(Mux(flush, 0, at + 1))
        with m.If(valid):
            for number in range(size):
                byte = self.scales[8 * number:8 * number + 8]
                with m.If(at == number):
                    m.d.sync += byte.eq(code)
                with m.Elif(at == 0):
                    m.d.sync += byte.eq(0)


def _format(which):
    """The element format that the flags of a step say."""
    if not len(which):
        return Const(ElementFormat.INT8.value, len(Value.cast(ElementFormat.INT8)))
    floats = Mux(which[0], ElementFormat.E2M1, ElementFormat.E4M3)
    return Mux(which[1], ElementFormat.INT8, floats) if len(which) > 1 else floats


def _flags(config: ChipConfig) -> list[str]:
    """What a step says about its format, where there is a choice."""
    return (["e2m1"] if config.has_float_results else []) + (
        ["mxint8"] if config.has_float_results and config.has_mxint8_results else [])


def step_layout(config: ChipConfig) -> data.StructLayout:
    """A step of a block on its way through :class:`BlockQuantizer`."""
    geometry = Geometry.of(config)
    return data.StructLayout({
        "word": data.ArrayLayout(32, min(geometry.lanes, geometry.columns)),
        "step": geometry.step_width,
        **dict.fromkeys(_flags(config), 1),
        "rule": ScaleRule,
        "end": 1,
        "flush": 1,
    })
