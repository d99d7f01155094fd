"""The board's block RAM: AXI bursts of both directions and the host's words, against a bytearray."""

import cocotb
from cocotb.utils import get_sim_time

from fpga.ram import Ram
from kiwicha.bus.axi import ReadId, Resp
from kiwicha.config import ChipConfig
from kiwicha_host.memory_latency import BLOCK_RAM
from tb import harness
from tb.harness import Bench, StreamDriver, StreamMonitor, bounded, cycles

SIZE = 4096


class RamEnv:
    """Drivers and monitors on all ports, and the memory as it ought to be."""

    def __init__(self, dut, p_ready=1.0, p_valid=1.0):
        self.config = ChipConfig.preset(harness.current().params["config"])
        self.bytes = self.config.bus_bytes
        ram = Ram(self.config, SIZE)
        self.shapes = {name: channel.payload.shape() for name, channel in
                       (("ar", ram.read.ar), ("r", ram.read.r), ("aw", ram.write.aw), ("w", ram.write.w),
                        ("b", ram.write.b), ("request", ram.word.request), ("answer", ram.word.answer))}
        self.ar = StreamDriver(dut, "read__ar", rng=harness.rng("ar"), p_valid=p_valid)
        self.r = StreamMonitor(dut, "read__r", rng=harness.rng("r"), p_ready=p_ready)
        self.aw = StreamDriver(dut, "write__aw", rng=harness.rng("aw"), p_valid=p_valid)
        self.w = StreamDriver(dut, "write__w", rng=harness.rng("w"), p_valid=p_valid)
        self.b = StreamMonitor(dut, "write__b", rng=harness.rng("b"), p_ready=p_ready)
        self.request = StreamDriver(dut, "word__request", rng=harness.rng("word"))
        self.answer = StreamMonitor(dut, "word__answer")
        self.memory = bytearray(SIZE)
        self.rng = harness.rng("world")

    def ask(self, address, beats, name=ReadId.LOAD):
        """Ask for a burst; the beats that must come."""
        self.ar.send([harness.pack(self.shapes["ar"], address=address, length=beats - 1, id=name)])
        return [{"data": self._beat(address + i * self.bytes), "last": int(i == beats - 1), "id": name,
                 "resp": Resp.OKAY if address < SIZE else Resp.DECERR} for i in range(beats)]

    def _beat(self, address):
        return int.from_bytes(self.memory[address:address + self.bytes], "little") if address < SIZE else None

    def write(self, address, beats):
        """Write random data with random strobes; the answer that must come."""
        self.aw.send([harness.pack(self.shapes["aw"], address=address, length=beats - 1)])
        for i in range(beats):
            data, strobe = self.rng.randbytes(self.bytes), self.rng.getrandbits(self.bytes)
            self.w.send([harness.pack(self.shapes["w"], data=int.from_bytes(data, "little"), strobe=strobe,
                                      last=int(i == beats - 1))])
            for j in range(self.bytes):
                if strobe >> j & 1 and address < SIZE:
                    self.memory[address + i * self.bytes + j] = data[j]
        return Resp.OKAY if address < SIZE else Resp.DECERR

    def burst(self):
        """Address and length of a random burst, one in eight of them outside."""
        beats = self.rng.choice([1, 2, self.rng.randrange(1, 20)])
        start = self.rng.randrange(SIZE // self.bytes - beats) * self.bytes
        return start + (SIZE * self.rng.choice([1, 2, 0x8000]) if self.rng.random() < 0.125 else 0), beats

    async def word(self, address, data=None):
        """One access of the host; its answer."""
        count = len(self.answer.received)
        self.request.send([harness.pack(self.shapes["request"], address=address // 4, data=data or 0,
                                        write=int(data is not None))])
        await bounded(self.answer.wait(count + 1), 8)
        if data is not None and address < SIZE:
            self.memory[address:address + 4] = data.to_bytes(4, "little")
        return harness.unpack(self.shapes["answer"], self.answer.received[-1])

    def take(self, name):
        """All that has come on a channel, and forget it."""
        monitor = getattr(self, name)
        items, monitor.received = monitor.received, []
        return [harness.unpack(self.shapes[name], item) for item in items]


def check(beats, expected):
    for got, wanted in zip(beats, expected, strict=True):
        if wanted["data"] is None:
            wanted["data"] = got["data"]
        assert got == wanted


async def attach(dut, **options):
    await harness.start(dut)
    world = RamEnv(dut, **options)
    # Block RAM keeps what it holds over a reset.
    for address in range(0, SIZE, 4):
        await world.word(address, world.rng.getrandbits(32))
    return world


@cocotb.test()
@cocotb.parametrize(p_ready=[0.4, 1.0], p_valid=[0.4, 1.0])
async def holds_what_is_written(dut, p_ready, p_valid):
    world = await attach(dut, p_ready=p_ready, p_valid=p_valid)
    for _ in range(25):
        written = [world.write(*world.burst()) for _ in range(4)]
        await bounded(world.b.wait(4), 2000)
        assert [item["resp"] for item in world.take("b")] == written
        expected = [beat for _ in range(4) for beat in world.ask(*world.burst(), world.rng.choice(list(ReadId)))]
        await bounded(world.r.wait(len(expected)), 4000)
        check(world.take("r"), expected)


@cocotb.test()
async def a_read_after_the_answer_sees_the_write(dut):
    world = await attach(dut)
    for _ in range(50):
        address, _ = world.burst()
        world.write(address, 1)
        await bounded(world.b.wait(1), 20)
        world.take("b")
        expected = world.ask(address, 1)
        await bounded(world.r.wait(1), 20)
        check(world.take("r"), expected)


@cocotb.test()
async def both_directions_at_full_rate(dut):
    world = await attach(dut)
    half = SIZE // 2
    expected = [beat for i in range(8) for beat in world.ask(i * 4 * world.bytes, 4)]
    for i in range(8):
        world.write(half + i * 4 * world.bytes, 4)
    while not world.ar.accepted:
        await cycles(dut, 1)
    began = get_sim_time("ns")
    await bounded(world.r.wait(1), 20)
    assert (get_sim_time("ns") - began) / 10 == BLOCK_RAM
    # One beat per cycle in both directions and without gaps between bursts, after the first one's latency.
    await bounded(world.r.wait(32), 32)
    check(world.take("r"), expected)
    assert world.w.accepted == 32
    await bounded(world.b.wait(8), 10)


@cocotb.test()
async def the_host_reads_and_writes_at_any_time(dut):
    world = await attach(dut, p_ready=0.8)
    half, rng = SIZE // 2, world.rng
    expected, words = [], []
    for _ in range(40):
        # The chip reads the lower half and writes the third quarter, the host has the fourth.
        expected += world.ask(rng.randrange(half // world.bytes - 16) * world.bytes, 16)
        world.write(half + rng.randrange(SIZE // 4 // world.bytes - 16) * world.bytes, 16)
        for _ in range(4):
            address = half + SIZE // 4 + 4 * rng.randrange(SIZE // 16)
            word = rng.getrandbits(32)
            words.append((await world.word(address, word), None))
            words.append((await world.word(address), word))
    await bounded(world.r.wait(len(expected)), 4000)
    await bounded(world.b.wait(40), 4000)
    check(world.take("r"), expected)
    assert all(not answer["error"] and data in (None, answer["data"]) for answer, data in words)
    for address in range(0, SIZE, 4):
        assert (await world.word(address))["data"] == int.from_bytes(world.memory[address:address + 4], "little")


@cocotb.test()
async def words_outside(dut):
    world = await attach(dut)
    before = bytes(world.memory)
    for address in (SIZE, 2 * SIZE, 0x8000_0000, 0xFFFF_FFFC):
        assert await world.word(address, 1) == {"data": 0xFFFF_FFFF, "error": 1}
        assert await world.word(address) == {"data": 0xFFFF_FFFF, "error": 1}
    await cycles(dut, 5)
    for address in range(0, SIZE, 4):
        assert (await world.word(address))["data"] == int.from_bytes(before[address:address + 4], "little")


BENCHES = [Bench(module=__name__, name=f"memory_{name}",
                 build=lambda name=name: Ram(ChipConfig.preset(name), SIZE),
                 params={"config": name}) for name in ("tiny", "ulx3s_85f")]
