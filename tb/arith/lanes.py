"""Copies of an arithmetic unit side by side, values to feed them, and the comparison with a model."""

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tb import harness
from tb.harness import Bench, cycles, port

__all__ = ["EDGES", "LANES", "NAN", "Lane", "any_floats", "apply", "check", "generator", "lanes_bench"]

#: Copies side by side, so that each Python cycle checks many values.
LANES = 32
NAN = np.uint32(0x7FC00000)
EDGES = np.array([0x00000000, 0x00000001, 0x00000002, 0x007FFFFF, 0x00400000, 0x00800000, 0x00800001,
                  0x00FFFFFF, 0x33800000, 0x3F000000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FC00000,
                  0x3FFFFFFF, 0x40000000, 0x42FE0000, 0x42FF0000, 0x43000000, 0x43008000, 0x437F8000,
                  0x43800000, 0x43800001, 0x4B7FFFFF, 0x4B800000, 0x4F000000, 0x7F7FFFFF, 0x7F7FFFFE,
                  0x7F000000, 0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF], np.uint32)
EDGES = np.concatenate([EDGES, EDGES | np.uint32(1 << 31)])


class Lane(wiring.Component):
    """A unit with all its ports widened to a word."""

    def __init__(self, unit, inputs):
        self._unit = unit
        self._inputs = inputs
        super().__init__({**{name: In(32) for name in inputs}, "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit()
        m.d.comb += [getattr(unit, name).eq(getattr(self, name)) for name in self._inputs]
        m.d.comb += self.o.eq(unit.o)
        return m


async def apply(dut, **operands):
    """Stream the operands through, one vector per cycle; the results, `latency` cycles later."""
    latency = harness.current().params["latency"]
    await harness.start(dut)
    count = max(map(len, operands.values()))
    vectors = -(-count // LANES)
    rows = {name: np.resize(np.ascontiguousarray(values).view(np.uint32), (vectors, LANES))
            for name, values in operands.items()}
    results = []
    for index in range(vectors + latency):
        if index < vectors:
            for name, values in rows.items():
                port(dut, name).value = int.from_bytes(values[index].tobytes(), "little")
        await cycles(dut, 1)
        # Just after an edge the outputs are still those from before it: of input index - latency.
        if index >= latency:
            results.append(int(port(dut, "o").value).to_bytes(4 * LANES, "little"))
    return np.frombuffer(b"".join(results), np.uint32)[:count]


def generator(label):
    return np.random.default_rng(harness.rng(label).getrandbits(64))


def check(got, want, **operands):
    wrong = np.flatnonzero(got != want)
    if len(wrong):
        shown = "; ".join(", ".join(f"{name}={int(v[i]):#010x}" for name, v in operands.items())
                          + f" gives {int(got[i]):#010x}, not {int(want[i]):#010x}" for i in wrong[:4])
        raise AssertionError(f"{len(wrong)} of {len(want)} wrong: {shown}")


def any_floats(random, count):
    """Bits of any kind, the edges included, with short and long runs of zeros and ones below."""
    bits = random.integers(0, 1 << 32, count, dtype=np.uint32)
    bits[::3] &= np.uint32(0xFFFFFFFF) << random.integers(0, 24, len(bits[::3]), dtype=np.uint32)
    bits[1::3] |= ~(np.uint32(0xFFFFFFFF) << random.integers(0, 24, len(bits[1::3]), dtype=np.uint32))
    bits[::17] = random.choice(EDGES, len(bits[::17]))
    return bits


def lanes_bench(module, name, unit, inputs, latency, testcase, models=()):
    """A bench of `unit`, with the named 32-bit inputs, for the tests `testcase` of the Python module `module`."""
    return Bench(name=f"arith_{name}", build=lambda: Lane(unit, inputs), copies=LANES,
                 params={"latency": latency}, module=module, testcase=testcase, extra_sources=models)
