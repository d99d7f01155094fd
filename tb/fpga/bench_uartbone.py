"""The serial bridge, pin to bus: the protocol, its bounds in time, and damaged or endless input."""

import struct

import cocotb
from cocotb.triggers import RisingEdge, Timer

from fpga.uartbone import UartBone
from fpga.word_bus import WordDecoder, WordToAxiLite
from kiwicha.bus.axi import Resp
from tb import harness
from tb.harness import Bench, StreamDriver, StreamMonitor, bounded, clock, cycles, port

DIVISOR, TIMEOUT, BUS_TIMEOUT = 8, 2000, 64
BIT_NS = 10 * DIVISOR
ONES = 0xFFFF_FFFF


class Line:
    """A serial port at the other end of the line, whose clock is off by `drift`."""

    def __init__(self, dut, drift=0.0):
        self._rx, self._tx = port(dut, "rx"), port(dut, "tx")
        self._bit = BIT_NS * (1 + drift)
        self._rx.value = 1
        self.received = bytearray()
        cocotb.start_soon(self._listen())

    async def send(self, data, stop=1):
        for byte in data:
            for bit in (0, *(byte >> i & 1 for i in range(8)), stop):
                self._rx.value = bit
                await Timer(round(self._bit * 1000), "ps")
        self._rx.value = 1

    async def receive(self, count, limit=None):
        """The next `count` bytes, within `limit` cycles."""
        waited = 0
        while len(self.received) < count:
            await Timer(BIT_NS, "ns")
            waited += DIVISOR
            assert waited < (limit or 30 * DIVISOR * count + 2000), f"{len(self.received)} of {count} bytes"
        data, self.received = bytes(self.received[:count]), self.received[count:]
        return data

    async def _listen(self):
        while True:
            if self._tx.value == 1:
                await self._tx.handle.falling_edge
            await Timer(BIT_NS * 3 // 2, "ns")
            byte = 0
            for i in range(8):
                byte |= int(self._tx.value) << i
                await Timer(BIT_NS, "ns")
            assert self._tx.value == 1, "no stop bit"
            self.received.append(byte)


class Bus:
    """A memory of words behind the bridge, with random delays; notes every access."""

    def __init__(self, dut, rng, slow=True):
        self.words, self.log, self.silent, self.slow = {}, [], False, slow
        self._dut, self._rng = dut, rng
        cocotb.start_soon(self._serve())

    async def _serve(self):
        dut, edge = self._dut, RisingEdge(clock(self._dut))
        ready, valid = port(dut, "bus__request__ready"), port(dut, "bus__answer__valid")
        layout = _layouts()
        while True:
            ready.value = int(not self.slow or self._rng.random() < 0.3)
            await edge
            if not (port(dut, "bus__request__valid").value == 1 and ready.value == 1):
                continue
            ready.value = 0
            request = harness.unpack(layout[0], int(port(dut, "bus__request__payload").value))
            self.log.append((request["address"], request["write"]))
            if request["write"]:
                self.words[request["address"]] = request["data"]
            await cycles(dut, self._rng.randrange(20) if self.slow else 0)
            while self.silent:
                await edge
            port(dut, "bus__answer__payload").value = harness.pack(
                layout[1], data=self.words.get(request["address"], 0))
            valid.value = 1
            await edge
            valid.value = 0


def _layouts():
    bus = UartBone(DIVISOR, timeout=TIMEOUT).bus
    return bus.request.payload.shape(), bus.answer.payload.shape()


def command(code, address, words=None, count=None):
    count = len(words) if count is None else count
    return struct.pack(">BBI", code, count, address) + b"".join(struct.pack(">I", word) for word in words or ())


async def attach(dut, drift=0.0, slow=True):
    await harness.start(dut)
    line = Line(dut, drift)
    # The harness starts with all inputs low, on this line a start bit.
    await cycles(dut, 12 * DIVISOR)
    return line, Bus(dut, harness.rng("bus"), slow)


async def check_alive(line, bus):
    """A write and a read at the end of whatever went before."""
    await line.send(command(1, 0x155, [0xA5C3_0F81]) + command(2, 0x155, count=1))
    assert await line.receive(4) == bytes.fromhex("a5c30f81")
    assert bus.words[0x155] == 0xA5C3_0F81
    assert not line.received


@cocotb.test()
@cocotb.parametrize(drift=[-0.03, 0.0, 0.03])
async def reads_and_writes(dut, drift):
    line, bus = await attach(dut, drift)
    rng = harness.rng("words")
    for _ in range(8):
        address, count = rng.randrange(1 << 30), rng.randrange(1, 6)
        words = [rng.getrandbits(32) for _ in range(count)]
        fixed = rng.random() < 0.4
        addresses = [address if fixed else (address + i) % (1 << 30) for i in range(count)]
        bus.log.clear()
        await line.send(command(3 if fixed else 1, address, words))
        await line.send(command(4 if fixed else 2, address, count=count))
        answer = await line.receive(4 * count)
        assert bus.log == [(a, 1) for a in addresses] + [(a, 0) for a in addresses]
        assert answer == b"".join(struct.pack(">I", words[-1] if fixed else word) for word in words)
    assert not line.received


@cocotb.test()
async def a_burst_of_255_and_of_none(dut):
    line, bus = await attach(dut, slow=False)
    words = [0x0101_0101 * (i % 251) for i in range(255)]
    await line.send(command(1, 7, words) + command(1, 7, []) + command(2, 7, count=0))
    await line.send(command(2, 7, count=255))
    expected = b"".join(struct.pack(">I", word) for word in words)
    # Nothing but the line bounds the rate: 10 bits a byte, and a few cycles for each word.
    assert await line.receive(1020, limit=1020 * 10 * DIVISOR + 255 * 20 + 200) == expected
    assert len(bus.log) == 510


@cocotb.test()
async def one_command_may_wait(dut):
    line, bus = await attach(dut)
    bus.words = {i: 0x1111_1111 * i for i in range(15)}
    # The first answer takes longer than the silence that makes the bridge forget.
    assert 12 * 4 * 10 * DIVISOR > TIMEOUT + 1000
    await line.send(command(2, 0, count=12) + command(2, 12, count=3))
    assert await line.receive(60) == b"".join(struct.pack(">I", 0x1111_1111 * i) for i in range(15))


@cocotb.test()
async def forgets_an_incomplete_command(dut):
    line, bus = await attach(dut)
    whole = command(1, 3, [1, 2])
    for length in range(1, len(whole)):
        await line.send(whole[:length])
        await cycles(dut, TIMEOUT + 10 * DIVISOR + 10)
        assert port(dut, "active").value == 0
        await check_alive(line, bus)
    # Only a whole word reaches the bus.
    assert bus.words == {3: 1, 0x155: 0xA5C3_0F81}


@cocotb.test()
async def a_pause_shorter_than_the_timeout_is_none(dut):
    line, bus = await attach(dut)
    for byte in command(1, 9, [0x01020304]):
        await line.send([byte])
        await cycles(dut, TIMEOUT - 100)
    assert bus.words == {9: 0x01020304}


@cocotb.test()
async def survives_noise(dut):
    line, bus = await attach(dut)
    await line.send([0, 5, 0x80, 0xFF, 0x41])
    await check_alive(line, bus)
    # A byte without its stop bit ends the command that it belongs to.
    await line.send(command(1, 3, [1])[:4])
    await line.send([0x55], stop=0)
    await cycles(dut, 4 * DIVISOR)
    await check_alive(line, bus)
    # A spike is no start bit, and a long break no flood of bytes.
    port(dut, "rx").value = 0
    await cycles(dut, 2)
    port(dut, "rx").value = 1
    await cycles(dut, 20 * DIVISOR)
    port(dut, "rx").value = 0
    await cycles(dut, 100 * DIVISOR)
    port(dut, "rx").value = 1
    await cycles(dut, 4 * DIVISOR)
    await check_alive(line, bus)
    assert set(bus.words) == {0x155}


@cocotb.test()
async def a_silent_bus_does_not_hang_it(dut):
    line, bus = await attach(dut, slow=False)
    bus.words = {0: 17, 1: 18, 2: 19}
    bus.silent = True
    await line.send(command(2, 0, count=3))
    assert await line.receive(12, limit=12 * 10 * DIVISOR + 3 * BUS_TIMEOUT + 200) == b"\xff" * 12
    await line.send(command(1, 1, [99]) + command(2, 1, count=1))
    assert await line.receive(4) == b"\xff" * 4
    # Only the first request has reached the bus; its late answer goes to nobody.
    assert bus.log == [(0, 0)]
    bus.silent = False
    await cycles(dut, 20)
    await line.send(command(2, 0, count=3))
    assert await line.receive(12) == bytes([0, 0, 0, 17, 0, 0, 0, 18, 0, 0, 0, 19])
    await check_alive(line, bus)


class _Lite:
    """An AXI4-Lite slave of words, channel by channel, with random stalls."""

    def __init__(self, dut, p):
        self.aw, self.w, self.ar = (StreamMonitor(dut, f"o__{name}", rng=harness.rng(name), p_ready=p)
                                    for name in ("aw", "w", "ar"))
        self.b, self.r = (StreamDriver(dut, f"o__{name}", rng=harness.rng(name), p_valid=p) for name in "br")


@cocotb.test()
@cocotb.parametrize(p=[0.3, 1.0])
async def axi_lite(dut, p):
    await harness.start(dut)
    lite = _Lite(dut, p)
    requests = StreamDriver(dut, "i__request", rng=harness.rng("i"))
    answers = StreamMonitor(dut, "i__answer")
    bridge = WordToAxiLite(12)
    request, answer = bridge.i.request.payload.shape(), bridge.i.answer.payload.shape()
    r = bridge.o.r.payload.shape()
    rng = harness.rng("words")
    for i in range(60):
        write, address, word = rng.random() < 0.5, rng.randrange(1 << 10), rng.getrandbits(32)
        resp = rng.choice([Resp.OKAY, Resp.OKAY, Resp.SLVERR, Resp.DECERR])
        upper = rng.getrandbits(20) << 10
        requests.send([harness.pack(request, address=upper | address, write=int(write), data=word)])
        channel = lite.aw if write else lite.ar
        await bounded(channel.wait(1), 60)
        assert channel.received.pop() == 4 * address
        if write:
            await bounded(lite.w.wait(1), 60)
            assert lite.w.received.pop() == word | 0xF << 32
            lite.b.send([resp.value])
        else:
            lite.r.send([harness.pack(r, data=word, resp=resp)])
        await bounded(answers.wait(i + 1), 60)
        got = harness.unpack(answer, answers.received[-1])
        assert got["error"] == (resp is not Resp.OKAY)
        assert write or got["data"] == word
    assert not lite.aw.received and not lite.ar.received and not lite.w.received


@cocotb.test()
async def decodes(dut):
    await harness.start(dut)
    decoder = WordDecoder(4, {"low": 0, "high": 15})
    request, answer = decoder.i.request.payload.shape(), decoder.i.answer.payload.shape()
    requests, answers = StreamDriver(dut, "i__request"), StreamMonitor(dut, "i__answer")
    targets = {name: (StreamMonitor(dut, f"{name}__request", rng=harness.rng(name), p_ready=0.5),
                      StreamDriver(dut, f"{name}__answer")) for name in ("low", "high")}
    rng = harness.rng("words")
    for i in range(60):
        upper, address, word = rng.choice([0, 15, 1, 7, 14]), rng.getrandbits(26), rng.getrandbits(32)
        payload = harness.pack(request, address=upper << 26 | address, write=rng.randrange(2), data=word)
        requests.send([payload])
        name = {0: "low", 15: "high"}.get(upper)
        if name:
            seen, reply = targets[name]
            await bounded(seen.wait(1), 30)
            assert seen.received.pop() == payload
            reply.send([harness.pack(answer, data=word, error=0)])
        await bounded(answers.wait(i + 1), 30)
        got = harness.unpack(answer, answers.received[-1])
        assert got == {"data": word if name else ONES, "error": int(not name)}
    assert not any(seen.received for seen, _ in targets.values())


BENCHES = [
    Bench(module=__name__, name="uartbone",
          build=lambda: UartBone(DIVISOR, timeout=TIMEOUT, bus_timeout=BUS_TIMEOUT),
          testcase=("reads_and_writes", "a_burst_of_255_and_of_none", "one_command_may_wait",
                    "forgets_an_incomplete_command", "a_pause_shorter_than_the_timeout_is_none", "survives_noise",
                    "a_silent_bus_does_not_hang_it")),
    Bench(module=__name__, name="word_to_axi_lite", build=lambda: WordToAxiLite(12), testcase=("axi_lite",)),
    Bench(module=__name__, name="word_decoder", build=lambda: WordDecoder(4, {"low": 0, "high": 15}),
          testcase=("decodes",)),
]
