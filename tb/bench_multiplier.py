"""Every variant of the array's multiplier: exact for all operands, every cycle, with its stated latency."""

import cocotb
import numpy as np
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge

import harness
from harness import Bench, bounded, cycles, port
from kiwicha import ChipConfig
from kiwicha.array.multiplier import multiplier, multiplier_class, simulation_models
from kiwicha.config import MULTIPLIERS

LANES = 64
EVERY = np.arange(1 << 16)
#: All pairs of operands, in an order in which both change in almost every cycle of a lane.
A_EVERY = (EVERY & 0xFF).astype(np.uint8).view(np.int8)
B_EVERY = ((EVERY >> 8) + 3 * EVERY).astype(np.uint8).view(np.int8)


class Lanes(wiring.Component):
    """Many multipliers side by side, so that each Python cycle checks many products."""

    def __init__(self, config):
        self._config = config
        columns = multiplier_class(config).columns
        super().__init__({
            "a": In(data.ArrayLayout(signed(8), LANES)),
            "b": In(data.ArrayLayout(data.ArrayLayout(signed(8), columns), LANES)),
            "p": Out(data.ArrayLayout(data.ArrayLayout(signed(16), columns), LANES)),
        })

    def elaborate(self, platform):
        m = Module()
        for lane in range(LANES):
            m.submodules[f"lane{lane}"] = unit = multiplier(self._config)
            m.d.comb += [unit.a.eq(self.a[lane]), unit.b.eq(self.b[lane]), self.p[lane].eq(unit.p)]
        return m


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


async def apply(dut, a, b):
    """Stream operands through, `LANES` per cycle; the products, taken exactly `latency` cycles later."""
    latency = harness.current().params["latency"]
    count = len(a)
    await harness.start(dut)
    columns = b.shape[1]
    products = []
    for start in range(0, count + latency * LANES, LANES):
        if start < count:
            port(dut, "a").value = int.from_bytes(a[start:start + LANES].tobytes(), "little")
            port(dut, "b").value = int.from_bytes(b[start:start + LANES].tobytes(), "little")
        await RisingEdge(port(dut, "clk"))
        # Just after an edge the outputs are still those from before it.
        if start >= latency * LANES:
            products.append(int(port(dut, "p").value).to_bytes(2 * LANES * columns, "little"))
    return np.frombuffer(b"".join(products), np.int16).reshape(-1, columns)


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
async def latency_is_exact(dut):
    """One pair of operands between zeros comes out once, `latency` cycles later."""
    params = harness.current().params
    await harness.start(dut)
    await cycles(dut, 2 * params["latency"])
    seen = []
    for cycle in range(3 * params["latency"] + 2):
        port(dut, "a").value = 7 if cycle == 0 else 0
        port(dut, "b").value = 5 if cycle == 0 else 0
        await RisingEdge(port(dut, "clk"))
        seen.append(int(port(dut, "p").value))
    assert seen == [35 if cycle == params["latency"] else 0 for cycle in range(len(seen))], seen


async def _sweep(dut, flaw):
    await harness.start(dut)
    port(dut, "flaw").value = flaw
    port(dut, "go").value = 1
    await bounded(RisingEdge(port(dut, "done")), (1 << 18) + 100)
    await cycles(dut, 1)
    assert int(port(dut, "compared").value) == 1 << 18
    return int(port(dut, "wrong").value)


@cocotb.test()
async def all_triples(dut):
    assert await _sweep(dut, flaw=0) == 0


@cocotb.test()
async def sweep_sees_a_flaw(dut):
    assert await _sweep(dut, flaw=1) == 1 << 5


def _config(name):
    return ChipConfig(rows=2, columns=2, multiplier=name)


def _bench(name, top, tests, **extra):
    config = _config(name)
    variant = multiplier_class(config)
    return Bench(name=f"multiplier_{name}{extra.pop('suffix', '')}", build=lambda: top(config), testcase=tests,
                 extra_sources=simulation_models(config),
                 params={"columns": variant.columns, "latency": variant.latency})


BENCHES = [
    *(_bench(name, Lanes, ("all_operands", "random_operands", "latency_is_exact")) for name in MULTIPLIERS),
    _bench("ecp5_packed", Sweep, ("all_triples", "sweep_sees_a_flaw"), suffix="_sweep"),
]
