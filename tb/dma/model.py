"""What LOAD and STORE mean, byte by byte in plain Python, and memories with an AXI port to run them on."""

from collections import deque
from dataclasses import replace

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from kiwicha.config import ChipConfig
from kiwicha.isa import ErrorCode
from tb.drivers import clock, port
from tb.payload import pack, unpack

__all__ = ["CONFIGS", "AxiReadMemory", "AxiWriteMemory", "Memory", "begin", "segments", "field_error",
           "load_lines", "store_bytes"]

CONFIGS = {
    "tiny": replace(ChipConfig.preset("tiny"), indices=True),
    "small": replace(ChipConfig.preset("small"), indices=False),
    "wide": ChipConfig(name="wide", rows=16, columns=16, bus_width=128, bank_lines=256, reads_in_flight=16),
    "tall": ChipConfig(name="tall", rows=32, columns=4, bus_width=64, address_width=40, bank_lines=256,
                       indices=True),
    "tall_wide": ChipConfig(name="tall_wide", rows=32, columns=4, bus_width=128, address_width=64, bank_lines=128,
                            indices=True),
}


def field_error(config, transfer):
    """The value of the field at fault, or None."""
    indexed = transfer.get("indexed", 0)
    if 0 in (transfer["row_bytes"], transfer["rows"], transfer["planes"], transfer["segment_bytes"]):
        return 0
    if indexed and config.indices and not transfer["index_bound"]:
        return 0
    if transfer["segment_bytes"] > config.line_bytes:
        return transfer["segment_bytes"]
    if indexed and (not config.indices or transfer["fill_only"]):
        return 1
    return transfer["index_word"] if indexed and transfer["index_word"] >= config.line_bytes // 4 else None


def begin(config, scratchpad, transfer):
    """A transfer as one without an index, and None; or it, and the error that comes first: (code, value)."""
    if (value := field_error(config, transfer)) is not None:
        return transfer, (ErrorCode.FIELD, value)
    if not transfer.get("indexed", 0):
        return transfer, None
    if transfer["index_line"] >= config.scratchpad_lines:
        return transfer, (ErrorCode.SCRATCHPAD_RANGE, transfer["index_line"])
    index = int(scratchpad[transfer["index_line"]].view("<u4")[transfer["index_word"]])
    if not index < transfer["index_bound"]:
        return transfer, (ErrorCode.INDEX, index)
    return {**transfer, "address": transfer["address"] + index * transfer["index_stride"]}, None


def segments(transfer):
    """Yields (line, memory address of the first byte, bytes) for each segment of a good transfer, in order."""
    for plane in range(transfer["planes"]):
        for row in range(transfer["rows"]):
            start = transfer["address"] + plane * transfer["plane_stride"] + row * transfer["row_stride"]
            for number, offset in enumerate(range(0, transfer["row_bytes"], transfer["segment_bytes"])):
                line = (transfer["line"] + number * transfer["segment_line_stride"]
                        + row * transfer["row_line_stride"] + plane * transfer["plane_line_stride"])
                yield line, start + offset, min(transfer["segment_bytes"], transfer["row_bytes"] - offset)


def locate(config, transfer, address, plane_of):
    """Start of the run of bytes that holds *address*, byte number *plane_of* of the transfer's bytes."""
    if transfer["row_stride"] == transfer["row_bytes"]:
        plane = plane_of // (transfer["rows"] * transfer["row_bytes"])
        return transfer["address"] + plane * transfer["plane_stride"]
    return address - plane_of % transfer["row_bytes"]


def burst_start(config, transfer, address, number):
    """First byte of the burst that holds byte *number* of the transfer, at *address*."""
    block = 256 * config.bus_bytes
    return max(locate(config, transfer, address, number), address // block * block)


def signed_address(value):
    return value % (1 << 64)


class Memory:
    """Bytes from `base` on; the window is the part of it that the chip may touch."""

    def __init__(self, config, rng, pages=8, margin=2):
        self.config = config
        top = (1 << config.address_width - 12) - pages
        self.base = rng.choice([0, top, rng.randrange(top)]) << 12
        self.data = np.frombuffer(rng.randbytes(pages << 12), np.uint8).copy()
        self.first = self.base + (margin << 12)
        self.last = self.base + (pages - margin << 12) - 1
        self.bad = set()        # beat-aligned addresses that answer with an error

    @property
    def window(self):
        return {"first": self.first >> 12, "last": self.last >> 12}

    def inside(self, address):
        return self.first <= address <= self.last

    def broken(self, address):
        return address & -self.config.bus_bytes in self.bad

    def __getitem__(self, address):
        return int(self.data[address - self.base])


class AxiReadMemory:
    """Answers the read port *prefix*: each burst `latency()` cycles after its address, in order."""

    def __init__(self, dut, prefix, signature, memory, rng):
        self._ports = {name: port(dut, f"{prefix}__{name}") for name in (
            "ar__valid", "ar__ready", "ar__payload", "r__valid", "r__ready", "r__payload")}
        self._clk = clock(dut)
        self._ar_shape = signature.members["ar"].signature.members["payload"].shape
        self._r_shape = signature.members["r"].signature.members["payload"].shape
        self._size = signature.config.bus_bytes
        self.memory = memory
        self.rng = rng
        self.latency = lambda: 0
        self.p_ar = self.p_r = 1.0
        cocotb.start_soon(self._run())

    async def _run(self):
        edge = RisingEdge(self._clk)
        p, random = self._ports, self.rng.random
        queue = deque()     # (cycle, beat)
        now = 0
        ready = valid = False
        while True:
            ready = random() < self.p_ar
            p["ar__ready"].value = int(ready)
            if not valid and queue and queue[0][0] <= now and random() < self.p_r:
                valid = True
                p["r__payload"].value = queue[0][1]
            p["r__valid"].value = int(valid)
            await edge
            now += 1
            if valid and p["r__ready"].value:
                queue.popleft()
                valid = False
            if ready and p["ar__valid"].value:
                burst = unpack(self._ar_shape, int(p["ar__payload"].value))
                self._serve(queue, burst, now + self.latency())

    def _serve(self, queue, burst, when):
        for number in range(burst["length"] + 1):
            address = burst["address"] + number * self._size
            offset = address - self.memory.base
            assert 0 <= offset < len(self.memory.data), f"read outside the memory at {address:#x}"
            word = int.from_bytes(self.memory.data[offset:offset + self._size].tobytes(), "little")
            broken = self.memory.broken(address)
            queue.append((when, pack(self._r_shape, data=word, id=burst["id"], last=number == burst["length"],
                                     resp=self.rng.choice([2, 3]) if broken else 0)))


class AxiWriteMemory:
    """Takes writes on *prefix*; `order` is which of AW and W it waits for before it takes the other.

    "any": both as they come; "aw": no beat before its address; "w": no address before its last beat.
    """

    def __init__(self, dut, prefix, signature, memory, rng):
        self._ports = {name: port(dut, f"{prefix}__{name}") for name in (
            "aw__valid", "aw__ready", "aw__payload", "w__valid", "w__ready", "w__payload", "b__valid", "b__ready",
            "b__payload")}
        self._clk = clock(dut)
        self._shapes = {name: signature.members[name].signature.members["payload"].shape
                        for name in ("aw", "w", "b")}
        self._size = signature.config.bus_bytes
        self.memory = memory
        self.rng = rng
        self.latency = lambda: 0
        self.p_aw = self.p_w = 1.0
        self.order = "any"
        self.log = {}       # address: how often it was written
        cocotb.start_soon(self._run())

    async def _run(self):
        edge = RisingEdge(self._clk)
        p, random = self._ports, self.rng.random
        addresses, bursts, beats, answers = deque(), deque(), [], deque()
        now = 0
        valid = False
        while True:
            aw_ready = random() < self.p_aw and (self.order != "w" or len(bursts) > len(addresses))
            w_ready = random() < self.p_w and (self.order != "aw" or len(addresses) > len(bursts)) \
                and (self.order != "w" or len(bursts) <= len(addresses))
            p["aw__ready"].value = int(aw_ready)
            p["w__ready"].value = int(w_ready)
            if not valid and answers and answers[0][0] <= now:
                valid = True
                p["b__payload"].value = pack(self._shapes["b"], resp=answers[0][1])
            p["b__valid"].value = int(valid)
            await edge
            now += 1
            if valid and p["b__ready"].value:
                answers.popleft()
                valid = False
            if aw_ready and p["aw__valid"].value:
                addresses.append(unpack(self._shapes["aw"], int(p["aw__payload"].value)))
            if w_ready and p["w__valid"].value:
                beats.append(unpack(self._shapes["w"], int(p["w__payload"].value)))
                if beats[-1]["last"]:
                    bursts.append(beats)
                    beats = []
            while addresses and bursts:
                answers.append((now + self.latency(), self._serve(addresses.popleft(), bursts.popleft())))

    def _serve(self, burst, beats):
        assert len(beats) == burst["length"] + 1
        broken = False
        for number, beat in enumerate(beats):
            address = burst["address"] + number * self._size
            broken |= self.memory.broken(address)
            for lane in range(self._size):
                if beat["strobe"] >> lane & 1:
                    offset = address + lane - self.memory.base
                    assert 0 <= offset < len(self.memory.data), f"write outside the memory at {address:#x}"
                    self.memory.data[offset] = beat["data"] >> 8 * lane & 255
                    self.log[address + lane] = self.log.get(address + lane, 0) + 1
        return self.rng.choice([2, 3]) if broken else 0


def load_lines(config, memory, transfers, scratchpad=None):
    """What LOADs do: (lines written as (line, bytes), lines written by each retired one, error or None).

    An error is (code, index, address). What indices are read from is `scratchpad`.
    """
    written, ends = [], []
    for transfer in transfers:
        transfer, wrong = begin(config, scratchpad, transfer)
        if wrong:
            return written, ends, (wrong[0], transfer["index"], wrong[1])
        number = 0
        for line, address, count in segments(transfer):
            content = b""
            for i in range(0 if transfer["fill_only"] else count):
                if not memory.inside(address + i):
                    return written, ends, (ErrorCode.WINDOW, transfer["index"], signed_address(address + i))
                if memory.broken(address + i):
                    where = burst_start(config, transfer, address + i, number)
                    return written, ends, (ErrorCode.BUS_READ, transfer["index"], where)
                content += bytes([memory[address + i]])
                number += 1
            if not 0 <= line < config.scratchpad_lines:
                return written, ends, (ErrorCode.SCRATCHPAD_RANGE, transfer["index"], signed_address(line))
            written.append((line, content.ljust(config.line_bytes, bytes([transfer["fill"]]))))
        ends.append(len(written))
    return written, ends, None


def store_bytes(config, memory, scratchpad, transfers):
    """What STOREs do: (bytes as (address, value), bytes written by each retired one, error or None)."""
    written, ends = [], []
    for transfer in transfers:
        transfer, wrong = begin(config, scratchpad, transfer)
        if wrong:
            return written, ends, (wrong[0], transfer["index"], wrong[1])
        number, broken = 0, None
        for line, address, count in segments(transfer):
            if broken is None and not 0 <= line < config.scratchpad_lines:
                return written, ends, (ErrorCode.SCRATCHPAD_RANGE, transfer["index"], signed_address(line))
            for i in range(count):
                if not memory.inside(address + i):
                    return written, ends, (ErrorCode.WINDOW, transfer["index"], signed_address(address + i))
                if memory.broken(address + i):
                    where = burst_start(config, transfer, address + i, number)
                    return written, ends, (ErrorCode.BUS_WRITE, transfer["index"], where)
                written.append((address + i, scratchpad[line][i]))
                number += 1
        ends.append(len(written))
    return written, ends, None
