"""Blocks of results: every element, in its cycle, and every line of scales; and the arithmetic of one lane."""

import itertools

import cocotb
import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import MAX_BLOCK
from kiwicha.isa import OutFormat, ScaleRule
from kiwicha.timing import block_quantizer, steps
from kiwicha.vector.block_quantizer import BlockQuantizer, step_layout
from tb import harness
from tb.harness import Bench, cycles, pack, port
from tb.mutation import Invisible, mutated_bench
from tb.vector.model import DYNAMIC_SCALE, dynamic_scale_model, formats
from tb.vector.programs import FLOATS


def config(columns, lanes, names, **more):
    return ChipConfig(name=f"q{columns}_{lanes}", rows=4, columns=columns, bus_width=64, vector_lanes=lanes,
                      scratchpad_banks=2, bank_lines=64, accumulator_lines=64, formats=names, **more)


class World:
    """Feeds blocks, and holds what comes to what should."""

    def __init__(self, dut):
        self.dut, self.config = dut, harness.current().params["config"]
        self.random = harness.rng("block quantizer")
        self.lanes = min(self.config.vector_lanes, self.config.columns)
        self.layout, self.steps = step_layout(self.config), steps(self.config)
        self.formats = [form for form in DYNAMIC_SCALE if form in formats(self.config)]
        self.forget()
        self.cycle = 0

    def forget(self):
        self.due, self.open, self.free = {}, [], 0      # due: what comes, by cycle; open: from and to
        self.scales, self.lines = b"", []               # lines: scales, and the cycle by which they are there

    async def step(self, fields=None, clear=0, after_clear=False):
        """One cycle, with or without a step; what nobody looks at is random."""
        bits = self.random.getrandbits(self.layout.size) if fields is None else pack(self.layout, fields)
        port(self.dut, "i").value = bits
        # Steps may still come while all is forgotten.
        port(self.dut, "valid").value = int(fields is not None or (clear and self.random.getrandbits(1)))
        port(self.dut, "clear").value = clear
        await cycles(self.dut, 1)
        if not clear:
            self._look(after_clear)
        self.cycle += 1

    def _look(self, after_clear):
        now = f"cycle {self.cycle}"
        due = self.due.pop(self.cycle, None)
        assert port(self.dut, "o_valid").value == (due is not None), f"{now}: elements, or none"
        if due is not None:
            got = int(port(self.dut, "element").value).to_bytes(self.config.vector_lanes, "little")[:self.lanes]
            elements, number, is_e2m1 = due
            assert got == elements, f"{now}: {got.hex()}, not {elements.hex()}"
            assert port(self.dut, "step").value == number
            if self.config.has_float_results:
                assert port(self.dut, "e2m1").value == is_e2m1
        # A line of scales that is complete as all is forgotten comes to nobody.
        if port(self.dut, "scales_done").value == 1 and not after_clear:
            line, last = self.lines.pop(0)
            got = int(port(self.dut, "scales").value).to_bytes(len(line), "little")
            assert got == line, f"{now}: scales {got.hex()}, not {line.hex()}"
            assert self.cycle <= last, f"{now}: scales after their elements"
        assert not self.lines or self.cycle < self.lines[0][1], f"{now}: no scales with the last elements"
        idle = not any(first < self.cycle <= last + 1 for first, last in self.open)
        assert port(self.dut, "idle").value == idle, f"{now}: idle, or not"
        self.open = [(first, last) for first, last in self.open if self.cycle <= last]

    async def settle(self):
        while self.due or self.open:
            await self.step()
        assert not self.lines

    def words(self, parts):
        """Results of a block as bits: of one size, with edges of rounding, and now and then special ones."""
        shape, random = (parts, self.config.columns), np.random.default_rng(self.random.getrandbits(64))
        middle, spread = random.choice([0, 1, 2, 20, 127, 254]), random.choice([0, 1, 4, 9])
        exponents = np.clip(middle - random.integers(0, spread + 1, shape), 0, 254)
        bits = random.integers(0, 1 << 32, shape) & 0x807FFFFF | exponents << 23
        kept = random.choice([15, 16, 17, 18, 19, 20, 22], shape)
        bits = np.where(random.random(shape) < 0.5, (bits & -(1 << kept)) | random.integers(0, 2, shape), bits)
        near = random.choice([0x600000, 0x400000, 0x7E0000, 0x7F0000]) + random.integers(-2, 3)
        bits = np.where(random.random(shape) < random.choice([0, 0.2, 0.8]), bits & ~0x7FFFFF | near, bits)
        if random.random() < 0.1:
            bits = np.where(random.random(shape) < 0.3, random.choice(FLOATS, shape), bits)
        return bits.astype(np.uint32)

    async def block(self, form, parts, gap, flush, rule=None, words=None):
        words = self.words(parts) if words is None else words
        rule = rule or self.random.choice(list(ScaleRule))
        elements, code = self._expected(form, rule, words)
        self.scales += bytes([code])
        which = {"e2m1": form == OutFormat.E2M1, "mxint8": form == OutFormat.MXINT8}
        which = {name: value for name, value in which.items() if name in dict(self.layout)}
        flush = flush or len(self.scales) == self.config.line_bytes
        names = [0] * (parts * self.steps)
        for number, (part, at) in enumerate(np.ndindex(parts, self.steps)):
            while self.random.random() < gap:
                await self.step()
            last = number == parts * self.steps - 1
            # It is kept, and no more.
            names[number] = step = self.random.randrange(1 << self.layout["step"].width)
            if last:
                self._due(form, elements, names)
                if flush:
                    self.lines.append((self.scales.ljust(self.config.line_bytes, b"\0"), self.free))
                    self.scales = b""
            some = words[part, at * self.lanes:(at + 1) * self.lanes].tolist()
            await self.step({"word": some, "step": step, **which, "rule": rule, "end": last,
                             "flush": flush if last else self.random.getrandbits(1)})

    def _expected(self, form, rule, words):
        """Elements [steps of all parts][lanes], as bytes; the scale."""
        lines, code = dynamic_scale_model(self.config, {"out_format": form, "scale_rule": rule}, list(words))
        columns = self.config.columns
        if form == OutFormat.E2M1:
            lines = [bytes(line[at // 2] >> 4 * (at % 2) & 15 for at in range(columns)) for line in lines]
        return [line[at:at + self.lanes] for line in lines for at in range(0, columns, self.lanes)], code

    def _due(self, form, elements, steps_):
        """The block's last step is now: its elements come when its scale is there and the others have gone."""
        first = max(self.cycle + block_quantizer(self.config), self.free + 1)
        self.free = first + len(elements) - 1
        self.due |= {first + number: (some, step, form == OutFormat.E2M1)
                     for number, (some, step) in enumerate(zip(elements, steps_, strict=True))}
        self.open.append((self.cycle, self.free))

    async def some(self, count, gap=0.0):
        """Random blocks, one after the other."""
        most = MAX_BLOCK // self.config.columns
        for _ in range(count):
            parts = self.random.choice([1, 1, 2, max(1, most // 4), most])
            await self.block(self.random.choice(self.formats), parts, gap, self.random.random() < 0.2)


@cocotb.test()
async def blocks(dut):
    await harness.start(dut)
    world = World(dut)
    for gap in (0, 0.3, 0):
        await world.some(50, gap)
        await world.settle()


@cocotb.test()
async def every_block_alone(dut):
    """Idle between blocks: each takes its time and no more."""
    await harness.start(dut)
    world = World(dut)
    for _ in range(20):
        await world.some(1)
        await world.settle()


@cocotb.test()
async def scales_at_their_edges(dut):
    """Largest magnitudes about those of the formats, by either rule, from subnormal numbers to the largest."""
    await harness.start(dut)
    world = World(dut)
    columns = world.config.columns
    fractions = [top + more for top in (0x400000, 0x600000, 0x7E0000, 0x7F0000) for more in (-1, 0, 1, 2)]
    for form, rule in itertools.product(world.formats, ScaleRule):
        for exponent in (0, 1, 9, 254):
            for fraction in (*fractions, 0x680000, 0x690000, 0x7F1000, 0x7FFFFF):
                sign = world.random.getrandbits(1) << 31
                words = [world.random.getrandbits(30 if exponent == 254 else 16) for _ in range(columns)]
                words[world.random.randrange(columns)] = sign | exponent << 23 | fraction
                await world.block(form, 1, 0, False, rule, np.array([words], np.uint32))
    await world.settle()
    # Nobody has asked for the last line yet.
    await world.block(form, 1, 0, True)
    await world.settle()


@cocotb.test()
async def lines_of_scales(dut):
    """Lines with any number of scales, behind full ones."""
    await harness.start(dut)
    world = World(dut)
    for count in range(1, world.config.line_bytes + 1):
        for size in (world.config.line_bytes, count):
            for number in range(size):
                await world.block(world.random.choice(world.formats), 1, 0, number == size - 1)
    await world.settle()


@cocotb.test()
async def forgets(dut):
    """Cleared in the middle of anything, a part of a block too; the next blocks come as if first."""
    await harness.start(dut)
    world = World(dut)
    for delay in (*range(12), *range(12), *range(45)):
        await world.some(world.random.choice([1, 2, 5]))
        for _ in range(delay):
            await world.step()
        form = world.random.choice(world.formats)
        for number in range(world.random.randrange(3)):
            which = {name: 0 for name in ("e2m1", "mxint8") if name in dict(world.layout)}
            await world.step({"word": [0x7F7FFFFF] * world.lanes, "step": number % world.steps, **which,
                              "rule": ScaleRule.RCEIL, "end": 0, "flush": 0})
        await world.step(clear=1)
        world.forget()
        await world.step(after_clear=True)
        await world.block(form, 1, 0, False)
        await world.some(1)
        await world.settle()


FLOATS_ONLY, ALL = ("e4m3", "e2m1"), ("int8", "e4m3")


def _shape(columns, lanes, names, **more):
    chip = config(columns, lanes, names, **more)
    name = f"block_quantizer_{columns}_{lanes}_{'_'.join(names)}"
    return Bench(module=__name__, name=name, build=lambda: BlockQuantizer(chip), params={"config": chip})


_MUTATED = config(2, 2, ALL)
_ONE_LANE = config(4, 1, ALL)

BENCHES = [
    _shape(32, 2, ("int8",), block_scales=True), _shape(4, 1, FLOATS_ONLY), _shape(16, 2, ALL),
    mutated_bench("block_quantizer", lambda: BlockQuantizer(_MUTATED), "block_quantizer.py", module=__name__,
                  params={"config": _MUTATED}, invisible=[
                      Invisible("Mux(a > b, a, b)", "> -> >=", "of two equal magnitudes, either"),
                      Invisible("(largest[0] > amax)", "> -> >=", "likewise"),
                      Invisible("write.en.eq(came_valid)", "stuck at ones", "what waits is written over", (1,)),
                      Invisible("with m.If(valid):", "condition 0 always", "a scale is last where it stays", (1,)),
                      Invisible("m.If(at == number)", "condition 1 never", "byte 0 is never left", (0,)),
                      *(Invisible("byte.eq(0)", change, "likewise", (0,))
                        for change in ("stuck at ones", "assignment left out")),
                      Invisible("m.Elif(at == 0)", "==: lowest bit alone", "later bytes come later", (6, 7)),
                      Invisible("m.If(at == number)", "condition 1 always", "likewise", (7,)),
                  ]),
    mutated_bench("narrow", lambda: BlockQuantizer(_ONE_LANE), "narrow.py", module=__name__,
                  params={"config": _ONE_LANE}, invisible=[
                      Invisible("is_e2m1 =", "==: lowest bit alone", "only E2M1's code is odd"),
                      *(Invisible("code < 0", change, "0 becomes 0") for change in ("< -> <=", "< 0 -> 1")),
                      *(Invisible("less_one < 0", change, "0 becomes 0") for change in ("< -> <=", "< 0 -> 1")),
                      Invisible("less_one < -5", "< -> <=", "5 becomes 5"),
                      *(Invisible("less_one > 15", change, "blocks have no such elements")
                        for change in ("> -> >=", "> 15 -> 14")),
                      Invisible("less_one > 15", "Mux: first alone", "likewise", (0,)),
                      *(Invisible("distance > 9", change, "9 becomes 9") for change in ("> -> >=", "> 9 -> 8")),
                      Invisible("total >= 0x7F", ">= 127 -> 126", "0x7E becomes 0x7E"),
                  ]),
]
