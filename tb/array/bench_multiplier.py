"""Every variant of the array's multiplier: exact for all operands, every cycle, with its stated latency."""

import cocotb
import numpy as np
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge

from kiwicha.array.multiplier import multiplier, multiplier_class, simulation_models
from kiwicha.config import MULTIPLIERS
from tb import harness
from tb.array.formats import chip, significands
from tb.harness import Bench, bounded, clock, cycles, port

#: Multipliers side by side, so that each Python cycle checks many products.
LANES = 64
EVERY = np.arange(1 << 16)
#: All pairs of operands, in an order in which both change in almost every cycle of a lane.
A_EVERY = (EVERY & 0xFF).astype(np.uint8).view(np.int8)
B_EVERY = ((EVERY >> 8) + 3 * EVERY).astype(np.uint8).view(np.int8)


class Sweep(wiring.Component):
    """Runs all 2^24 triples of operands past the packed multiplier, against the simulator's own ``*``."""

    go: In(1)
    flaw: In(1)         # spoils one bit of what is expected
    done: Out(1)
    wrong: Out(LANES)   # lanes in which a product was wrong
    compared: Out(32)   # cycles that were compared

    def __init__(self, config):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        latency = multiplier_class(self._config).latency
        count = Signal(8 + 8 + 2 + 1)
        running = Signal()
        m.d.comb += running.eq(self.go & ~count[-1])
        m.d.sync += count.eq(count + running)
        valid = Signal(latency + 1)
        m.d.sync += valid.eq(Cat(running, valid))
        m.d.comb += self.done.eq(count[-1] & ~valid.any())
        m.d.sync += self.compared.eq(self.compared + valid[latency - 1])
        for lane in range(LANES):
            m.submodules[f"lane{lane}"] = unit = multiplier(self._config)
            a = count[:8]
            # All three operands change in every cycle, and no triple comes twice.
            low = (count[8:16] + 3 * a)[:8]
            high = Cat(count[16:18] ^ a[:2], (a[2:8] + lane)[:6])
            m.d.comb += [unit.a.eq(a), unit.b[0].eq(low), unit.b[1].eq(high)]
            expected = Cat(((self.flaw & (lane == 5)) ^ (a.as_signed() * low.as_signed()))[:16],
                           (a.as_signed() * high.as_signed())[:16])
            for stage in range(latency):
                late = Signal(32, name=f"expected_{lane}_{stage}")
                m.d.sync += late.eq(expected)
                expected = late
            with m.If(valid[latency - 1] & (Cat(unit.p[0], unit.p[1]) != expected)):
                m.d.sync += self.wrong[lane].eq(1)
        return m


def join(values, width):
    """Integers of `width` bits, in rows, to one int a row; negative ones in two's complement."""
    bits = (values.reshape(len(values), -1, 1) >> np.arange(width) & 1).astype(np.uint8)
    packed = np.packbits(bits.reshape(len(values), -1), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def split(rows, width, count):
    """The reverse of `join`, unsigned: `count` integers a row."""
    raw = b"".join(row.to_bytes(-(-width * count // 8), "little") for row in rows)
    bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(len(rows), -1), axis=1, bitorder="little")
    return bits[:, :width * count].reshape(len(rows), count, width).astype(np.int64) @ (1 << np.arange(width))


async def apply(dut, a, b):
    """Stream operands through, `LANES` per cycle; the products, taken exactly `latency` cycles later.

    Operands are integers, or their bits. Their number is a multiple of `LANES`.
    """
    params = harness.current().params
    latency, width, product_width = params["latency"], params["width"], params["product_width"]
    await harness.start(dut)
    columns = b.shape[1]
    a_rows = join(a.reshape(-1, LANES).astype(np.int64), width)
    b_rows = join(b.reshape(-1, LANES * columns).astype(np.int64), width)
    products, carries = [], []
    for index in range(len(a_rows) + latency):
        if index < len(a_rows):
            port(dut, "a").value = a_rows[index]
            port(dut, "b").value = b_rows[index]
        await RisingEdge(clock(dut))
        # Just after an edge the outputs are still those from before it.
        if index >= latency:
            products.append(int(port(dut, "p").value))
            carries.append(int(port(dut, "carry").value))
    products = split(products, product_width, LANES * columns).reshape(-1, columns)
    products -= products >> product_width - 1 << product_width
    carries = split(carries, 1, LANES * columns).reshape(-1, columns)
    assert params["sign_magnitude"] or not carries.any()
    return products + carries


def check(a, b, got):
    want = a.astype(np.int64)[:, None] * b
    wrong = np.argwhere(got != want)
    shown = "; ".join(f"{a[i]} * {b[i, j]} (weights {b[i].tolist()}) gives {got[i, j]}" for i, j in wrong[:4])
    assert not len(wrong), f"{len(wrong)} of {want.size} wrong: {shown}"


@cocotb.test()
async def all_operands(dut):
    """All 2^16 pairs for each column, back to back, the other column's weight extreme or random."""
    columns = harness.current().params["columns"]
    random = np.random.default_rng(harness.rng("others").getrandbits(64))
    others = [np.full(1 << 16, value, np.int8) for value in (-128, -1, 0, 127)] if columns > 1 else []
    others.append(random.integers(-128, 128, 1 << 16, dtype=np.int8))
    a, b = [], []
    for column in range(columns):
        for other in others:
            weights = np.tile(other[:, None], columns)
            weights[:, column] = B_EVERY
            a.append(A_EVERY)
            b.append(weights)
    a, b = np.concatenate(a), np.concatenate(b)
    assert len({(x, y) for x, y in zip(A_EVERY.tolist(), B_EVERY.tolist(), strict=True)}) == 1 << 16
    check(a, b, await apply(dut, a, b))


@cocotb.test()
async def random_operands(dut):
    random = np.random.default_rng(harness.rng("operands").getrandbits(64))
    count = 1000 * LANES
    a = random.integers(-128, 128, count, dtype=np.int8)
    b = random.integers(-128, 128, (count, harness.current().params["columns"]), dtype=np.int8)
    check(a, b, await apply(dut, a, b))


@cocotb.test()
async def wide_operands(dut):
    """Two's complement of any width: all pairs of edges, those of one bit, and random ones."""
    width = harness.current().params["width"]
    random = np.random.default_rng(harness.rng("wide").getrandbits(64))
    # A lowest operand on both sides is the one product that `product_width` has no room for.
    top = (1 << width - 1) - 1
    edges = np.unique([0, 1, -1, top, -top, top >> 1, *(1 << bit for bit in range(width - 1)),
                       *(-1 << bit for bit in range(width - 1)), *random.integers(-top, top + 1, 40)])
    a, b = (x.ravel() for x in np.meshgrid(edges, edges))
    a, b = (np.concatenate([x, random.integers(-top, top + 1, 100 * LANES - len(x) % LANES)]) for x in (a, b))
    check(a, b[:, None], await apply(dut, a, b[:, None]))


@cocotb.test()
async def signs_and_magnitudes(dut):
    """All magnitudes of E4M3 in pairs with all signs, zeros of both signs among them, edges and random ones."""
    width = harness.current().params["width"]
    random = np.random.default_rng(harness.rng("magnitudes").getrandbits(64))
    top = 1 << width - 1
    e4m3 = np.unique(np.abs(significands("e4m3")[:127])).astype(np.int64)
    edges = np.concatenate([e4m3, np.arange(129), [top - 1, top >> 1, (top >> 1) - 1]])
    a, b = (np.tile(x.ravel(), 2) for x in np.meshgrid(edges, edges))
    padding = 400 * LANES - len(a) % LANES
    a, b = (np.concatenate([x, random.integers(0, top, padding)]) for x in (a, b))
    signs = random.integers(0, 2, (2, len(a)))
    got = await apply(dut, a + signs[0] * top, (b + signs[1] * top)[:, None])
    check(np.where(signs[0], -a, a), np.where(signs[1], -b, b)[:, None], got)


@cocotb.test()
async def latency_is_exact(dut):
    """One pair of operands between zeros comes out once, `latency` cycles later."""
    params = harness.current().params
    await harness.start(dut)
    await cycles(dut, 2 * params["latency"])
    seen = []
    for cycle in range(3 * params["latency"] + 2):
        port(dut, "a").value = 7 if cycle == 0 else 0
        port(dut, "b").value = 5 if cycle == 0 else 0
        await RisingEdge(clock(dut))
        seen.append(int(port(dut, "p").value))
    assert seen == [35 if cycle == params["latency"] else 0 for cycle in range(len(seen))], seen


async def _sweep(dut, flaw):
    await harness.start(dut)
    port(dut, "flaw").value = flaw
    port(dut, "go").value = 1
    await bounded(RisingEdge(port(dut, "done").handle), (1 << 18) + 100)
    await cycles(dut, 1)
    assert int(port(dut, "compared").value) == 1 << 18
    return int(port(dut, "wrong").value)


@cocotb.test()
async def all_triples(dut):
    assert await _sweep(dut, flaw=0) == 0


@cocotb.test()
async def sweep_sees_a_flaw(dut):
    assert await _sweep(dut, flaw=1) == 1 << 5


#: Formats whose operands are of 10 bits in two's complement, and of 19 as a sign and a magnitude.
WIDE = {"wide": ("int8", "e3m2"), "magnitudes": ("int8", "e4m3")}


def _bench(name, tests, formats=("int8",), suffix="", *, design=multiplier, copies=LANES):
    config = chip(formats, rows=2, columns=2, multiplier=name)
    variant = multiplier_class(config)
    return Bench(module=__name__, name=f"multiplier_{name}{suffix}", build=lambda: design(config), copies=copies,
                 testcase=tests, extra_sources=simulation_models(config),
                 params={"columns": variant.columns, "latency": variant.latency, "width": config.operand_width,
                         "product_width": config.product_width, "sign_magnitude": config.sign_magnitude})


BENCHES = [
    *(_bench(name, ("all_operands", "random_operands", "latency_is_exact")) for name in MULTIPLIERS),
    *(_bench(name, ("wide_operands", "latency_is_exact"), WIDE["wide"], "_wide")
      for name in ("portable", "ecp5")),
    *(_bench(name, ("signs_and_magnitudes", "latency_is_exact"), WIDE["magnitudes"], "_magnitudes")
      for name in ("portable", "ecp5")),
    _bench("ecp5_packed", ("all_triples", "sweep_sees_a_flaw"), suffix="_sweep", design=Sweep, copies=1),
]
