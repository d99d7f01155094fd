"""The read arbiter: addresses in each reader's order, beats back to whom they belong, and nobody starves."""

import cocotb

from kiwicha import ChipConfig
from kiwicha.bus.arbiter import ReadArbiter
from kiwicha.bus.axi import AxiRead, ReadId
from tb import harness
from tb.harness import Bench, StreamDriver, StreamMonitor, bounded, cycles, port

CONFIG = ChipConfig.preset("tiny")
_CHANNELS = AxiRead(CONFIG).members
AR, R = (_CHANNELS[name].signature.members["payload"].shape for name in ("ar", "r"))
READERS = {"load": ReadId.LOAD, "fetch": ReadId.FETCH}


class ArbiterEnv:
    """A driver and a monitor on every channel."""

    def __init__(self, dut, label, p_valid=1.0, p_ready=1.0):
        def rng(name):
            return harness.rng(f"{label} {name}")
        self.rng = rng("data")
        self.sources = {name: StreamDriver(dut, f"{name}__ar", rng=rng(f"{name} ar"), p_valid=p_valid)
                        for name in READERS}
        self.sinks = {name: StreamMonitor(dut, f"{name}__r", rng=rng(f"{name} r"), p_ready=p_ready)
                      for name in READERS}
        self.bus = StreamMonitor(dut, "bus__ar", rng=rng("ar"), p_ready=p_ready)
        self.memory = StreamDriver(dut, "bus__r", rng=rng("r"), p_valid=p_valid)

    @classmethod
    async def begin(cls, dut, label, **options):
        await harness.start(dut)
        return cls(dut, label, **options)

    def addresses(self, count):
        """Bursts with any id, which the arbiter must replace."""
        return [{"address": self.rng.getrandbits(32), "length": self.rng.getrandbits(8),
                 "id": self.rng.choice(list(ReadId))} for _ in range(count)]

    def beats(self, count):
        return [{"data": self.rng.getrandbits(64), "resp": self.rng.getrandbits(2),
                 "last": self.rng.getrandbits(1), "id": self.rng.choice(list(ReadId))} for _ in range(count)]

    def asked(self):
        """What the bus has been asked for, in order."""
        return [harness.unpack(AR, payload) for payload in self.bus.received]


@cocotb.test()
@cocotb.parametrize(p_valid=[0.2, 1.0], p_ready=[0.3, 1.0])
async def addresses_keep_their_order(dut, p_valid, p_ready):
    world = await ArbiterEnv.begin(dut, f"order {p_valid} {p_ready}", p_valid=p_valid, p_ready=p_ready)
    sent = {name: world.addresses(150) for name in READERS}
    for name, items in sent.items():
        world.sources[name].send([harness.pack(AR, item) for item in items])
    await bounded(world.bus.wait(300), 5000)
    for name, ident in READERS.items():
        got = [item for item in world.asked() if item["id"] == ident]
        assert got == [item | {"id": ident} for item in sent[name]], f"{name}: other addresses"


@cocotb.test()
@cocotb.parametrize(p_valid=[0.2, 1.0], p_ready=[0.3, 1.0])
async def beats_find_their_reader(dut, p_valid, p_ready):
    world = await ArbiterEnv.begin(dut, f"beats {p_valid} {p_ready}", p_valid=p_valid, p_ready=p_ready)
    sent = world.beats(300)
    world.memory.send([harness.pack(R, item) for item in sent])
    for name, ident in READERS.items():
        due = [harness.pack(R, item) for item in sent if item["id"] == ident]
        await bounded(world.sinks[name].wait(len(due)), 8000)
        assert world.sinks[name].received == due, f"{name}: other beats"


@cocotb.test()
async def the_fetch_goes_first_but_not_twice(dut):
    """With both always waiting they take turns; alone, each gets every cycle."""
    world = await ArbiterEnv.begin(dut, "turns")
    for name, source in world.sources.items():
        source.send([harness.pack(AR, item) for item in world.addresses(60 if name == "load" else 40)])
    # One address a cycle, the first one a cycle after it was offered.
    await bounded(world.bus.wait(100), 101)
    order = [item["id"] for item in world.asked()]
    assert order[:80] == [ReadId.FETCH, ReadId.LOAD] * 40
    assert order[80:] == [ReadId.LOAD] * 20
    world.sources["fetch"].send([harness.pack(AR, item) for item in world.addresses(30)])
    await bounded(world.bus.wait(130), 32)      # the driver was idle


@cocotb.test()
async def a_cycle_each_way(dut):
    world = await ArbiterEnv.begin(dut, "latency")
    for name, ident in READERS.items():
        count = len(world.bus.received)
        await world.sources[name].put(harness.pack(AR, world.addresses(1)[0]))
        assert port(dut, "bus__ar__valid").value == 0
        await cycles(dut, 1)
        assert len(world.bus.received) == count + 1
        await world.memory.put(harness.pack(R, world.beats(1)[0] | {"id": ident}))
        await cycles(dut, 1)
        assert len(world.sinks[name].received) == 1
    # A beat a cycle.
    world.memory.send([harness.pack(R, item) for item in world.beats(100)])
    await bounded(world.memory.drain(), 101)


BENCHES = [Bench(module=__name__, name="read_arbiter", build=lambda: ReadArbiter(CONFIG))]
