"""The edge decoder: every code of every format, among any others, against ml_dtypes."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from kiwicha.array.decode import EdgeDecoder
from kiwicha.formats import FORMATS
from tb import harness
from tb.array.formats import chip, significands
from tb.harness import Bench, clock, port

COUNT = 6


def stored(item, codes, junk):
    """A vector of codes as the decoder takes it, with `junk` in the bits that have no meaning."""
    mask = (1 << item.bits) - 1
    pitch = 4 if item.bits == 4 else 8
    if pitch == 8:
        return sum((int(code) & mask | int(byte) & 255 & ~mask) << 8 * index
                   for index, (code, byte) in enumerate(zip(codes, junk, strict=True)))
    half = sum((int(code) & mask) << 4 * index for index, code in enumerate(codes))
    return half | sum(int(nibble & 15) << 4 * index for index, nibble in enumerate(junk)) << 4 * COUNT


def operands(config, values):
    """What comes out for significands: (operands, NaN flags). A NaN is a zero of either sign."""
    nan = np.isnan(values)
    values = np.where(nan, 0.0, values)
    integers = values.astype(np.int64)
    assert (integers == values).all()
    width = config.operand_width
    if config.sign_magnitude:
        integers = np.abs(integers) | np.signbit(values).astype(np.int64) << width - 1
    return integers & (1 << width) - 1, nan


async def play(dut, vectors):
    """One vector per cycle: (format name, codes); each cycle's output is that of `latency` cycles before."""
    config, latency = harness.current().params["config"], harness.current().params["latency"]
    random = np.random.default_rng(harness.rng("junk").getrandbits(64))
    tables = {name: significands(name) for name in config.formats}
    width = config.operand_width
    await harness.start(dut)
    for cycle in range(len(vectors) + latency):
        if cycle < len(vectors):
            name, codes = vectors[cycle]
            item = FORMATS[name]
            port(dut, "format").value = item.code.value
            port(dut, "i").value = stored(item, codes, random.integers(0, 256, COUNT))
        await RisingEdge(clock(dut))
        if cycle < latency:
            continue
        # Just after an edge the outputs are still those from before it.
        name, codes = vectors[cycle - latency]
        want, nan = operands(config, tables[name][codes])
        got, got_nan = int(port(dut, "o").value), int(port(dut, "nan").value)
        for index in range(COUNT):
            one = got >> width * index & (1 << width) - 1
            if nan[index]:
                one &= (1 << width - config.sign_magnitude) - 1
            assert one == want[index], (f"{name} code {codes[index]:#04x}, element {index}: "
                                        f"{one:#x}, not {int(want[index]):#x}")
            flag = got_nan >> index & 1
            assert flag == nan[index], f"{name} code {codes[index]:#04x}, element {index}: NaN is {flag}"


@cocotb.test()
async def every_code_in_every_place(dut):
    """Each format by itself, then formats that change from cycle to cycle."""
    config = harness.current().params["config"]
    random = np.random.default_rng(harness.rng("codes").getrandbits(64))
    vectors = []
    for name in config.formats:
        codes = 1 << FORMATS[name].bits
        vectors += [(name, (np.arange(COUNT) * 5 + start) % codes) for start in range(codes)]
    for name in random.choice(config.formats, 600):
        vectors.append((str(name), random.integers(0, 1 << FORMATS[name].bits, COUNT)))
    await play(dut, vectors)


def _bench(*formats):
    config = chip(formats)
    latency = 2 if any(FORMATS[name].is_float for name in formats) else 1

    def build():
        decoder = EdgeDecoder(config, COUNT)
        assert decoder.latency == latency
        return decoder

    return Bench(module=__name__, name=f"decode_{'_'.join(formats)}", build=build,
                 params={"config": config, "latency": latency})


BENCHES = [
    _bench("int8"), _bench("int8", "int4"), _bench("int8", "int4", "e2m1", "e2m3"),
    _bench("int8", "int4", "e2m1", "e2m3", "e3m2"), _bench("e4m3", "e2m1"),
    _bench("int8", "int4", "e4m3", "e3m2", "e2m3", "e2m1"),
]
