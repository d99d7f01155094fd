"""The stream library: order, loss, throughput, latency, under random stalls on both sides."""

import cocotb
from amaranth.hdl import signed
from amaranth.lib import data

from kiwicha.lib.stream import Queue, RegisterSlice
from tb import harness
from tb.harness import Bench, StreamDriver, StreamMonitor, bounded, cycles, port

ITEM = data.StructLayout({"value": signed(20), "tags": data.ArrayLayout(3, 4)})
COMMON = ("keeps_order", "full_throughput", "one_cycle_latency")
OF_QUEUES, OF_REGISTER_SLICES = (*COMMON, "fills_to_its_depth", "clear_drops_what_is_held"), (*COMMON, "foretells")


async def attach(dut, **options):
    """Start the design with a driver on ``i`` and a monitor on ``o``."""
    await harness.start(dut)
    source = StreamDriver(dut, "i", rng=harness.rng("i"), p_valid=options.get("p_valid", 1))
    sink = StreamMonitor(dut, "o", rng=harness.rng("o"), p_ready=options.get("p_ready", 1))
    return source, sink


def items(count):
    random = harness.rng("items")
    return [harness.pack(ITEM, value=random.randrange(-(1 << 19), 1 << 19),
                         tags=[random.randrange(8) for _ in range(4)]) for _ in range(count)]


@cocotb.test()
@cocotb.parametrize(p_valid=[0.2, 0.9], p_ready=[0.2, 0.9])
async def keeps_order(dut, p_valid, p_ready):
    source, sink = await attach(dut, p_valid=p_valid, p_ready=p_ready)
    sent = items(300)
    source.send(sent)
    await bounded(sink.wait(len(sent)), 5000)
    await cycles(dut, 20)
    assert sink.received == sent


@cocotb.test()
async def full_throughput(dut):
    source, sink = await attach(dut)
    sent = items(200)
    source.send(sent)
    # One item a cycle, and the last one is taken a cycle after it went in.
    await bounded(sink.wait(len(sent)), len(sent) + 1)
    assert sink.received == sent


@cocotb.test()
async def one_cycle_latency(dut):
    source, sink = await attach(dut)
    for item in items(3):
        await source.put(item)
        assert port(dut, "o__valid").value == 0, "valid in the very cycle of acceptance"
        count = len(sink.received)
        await cycles(dut, 1)
        assert sink.received[count:] == [item]


@cocotb.test()
async def fills_to_its_depth(dut):
    depth = harness.current().params["depth"]
    source, sink = await attach(dut, p_ready=0)
    source.send(items(depth + 3))
    await cycles(dut, depth + 5)
    assert source.accepted == depth
    assert port(dut, "level").value == depth
    sink.p_ready = 1
    await bounded(source.drain(), 100)
    await cycles(dut, depth + 2)
    assert port(dut, "level").value == 0
    assert sink.received == items(depth + 3)


@cocotb.test()
async def clear_drops_what_is_held(dut):
    depth = harness.current().params["depth"]
    source, sink = await attach(dut, p_ready=0)
    source.send(items(depth))
    await bounded(source.drain(), depth + 2)
    sink.check = False
    port(dut, "clear").value = 1
    await cycles(dut, 1)
    port(dut, "clear").value = 0
    await cycles(dut, 1)
    assert port(dut, "level").value == 0
    sink.p_ready = 1
    source.send([1, 2, 3])
    await bounded(sink.wait(3), 10)
    assert sink.received == [1, 2, 3]


@cocotb.test()
@cocotb.parametrize(p_valid=[0.3, 1], p_ready=[0.3, 1])
async def foretells(dut, p_valid, p_ready):
    """Each item is `following` once, with `renews`, in the cycle before it comes."""
    source, sink = await attach(dut, p_valid=p_valid, p_ready=p_ready)
    source.send(items(100))
    foretold, due = [], None
    while len(sink.received) < 100:
        await bounded(cycles(dut, 1), 2)
        if due is not None:
            assert port(dut, "o__valid").value == 1 and int(port(dut, "o__payload").value) == due
        due = int(port(dut, "following").value) if port(dut, "renews").value == 1 else None
        foretold += [due] if due is not None else []
        assert len(foretold) <= 100
    assert foretold == items(100)


def queue_bench(depth):
    return Bench(module=__name__, name=f"queue_{depth}", build=lambda: Queue(ITEM, depth), params={"depth": depth},
                 testcase=OF_QUEUES)


BENCHES = [
    *(queue_bench(depth) for depth in (1, 2, 3, 8)),
    Bench(module=__name__, name="register_slice", build=lambda: RegisterSlice(ITEM), testcase=OF_REGISTER_SLICES),
]
