"""Helpers that run inside the simulator: clock and reset, ports, streams.

All of them act just after a rising edge of the clock: what they read there is what the registers
saw at that edge, and what they write is seen by the next one.
"""

import functools
import importlib
import json
import os
import random
from collections import deque
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Event, RisingEdge, SimTimeoutError, with_timeout

__all__ = ["StreamDriver", "StreamMonitor", "bounded", "clock", "current", "cycles", "port", "rng", "start"]

PERIOD_NS = 10
#: The input of a design with planted bugs (:mod:`mutation`) that chooses one: not a test's to drive.
MUTANT = "mutant"


def current():
    """The :class:`harness.Bench` that is running."""
    benches = importlib.import_module(os.environ["KIWICHA_BENCH_MODULE"]).BENCHES
    return next(bench for bench in benches if bench.name == os.environ["KIWICHA_BENCH"])


def rng(label=""):
    """A random generator that depends on the seed, the bench and *label* only."""
    return random.Random(f"{os.environ['KIWICHA_SEED']}/{os.environ['KIWICHA_BENCH']}/{label}")


class Port:
    """A port (or a public signal) of the design, its value a non-negative integer.

    To make cocotb's objects of what is read, and to write what is there already, would take a third of a bench's
    time. Within a test, write to it through this object only.
    """
    __slots__ = ("_bits", "_written", "handle")

    def __init__(self, handle):
        #: cocotb's own, for triggers and for models of buses
        self.handle = handle
        # Verilator has neither x nor z: the digits are a number.
        self._bits = handle._handle.get_signal_val_binstr
        self._written = None

    @property
    def value(self):
        return int(self._bits(), 2)

    @value.setter
    def value(self, value):
        if value != self._written:
            self.write(value)

    def write(self, value):
        """Write it whatever was written last."""
        self.handle.value = value
        self._written = value


_named = {}


def port(dut, name):
    """The :class:`Port` *name*, such as ``i__valid``."""
    try:
        return _named[name]
    except KeyError:
        return _named.setdefault(name, Port(dut[name]))


def clock(dut):
    """cocotb's handle of the clock, for its triggers."""
    return dut.clk


@functools.cache
def _ports():
    return json.loads(Path(os.environ["KIWICHA_PORTS"]).read_text(encoding="utf-8"))


async def start(dut, reset_cycles=3):
    """Drive every input but `mutant` to 0, start the clock, reset for some cycles; return just after an edge."""
    cocotb.log.info("bench %s, seed %s", os.environ["KIWICHA_BENCH"], os.environ["KIWICHA_SEED"])
    for name, (direction, _) in _ports().items():
        if direction == "i" and name != MUTANT:
            port(dut, name).write(0)        # a bus model of the test before may have left something else
    port(dut, "rst").value = 1
    Clock(clock(dut), PERIOD_NS, unit="ns", impl="gpi").start()
    await cycles(dut, reset_cycles)
    port(dut, "rst").value = 0
    await cycles(dut, 1)


async def cycles(dut, count):
    """Wait for *count* rising edges of the clock."""
    await ClockCycles(clock(dut), count)


async def bounded(awaitable, limit):
    """Await *awaitable*, a coroutine or trigger, and fail if that takes more than *limit* cycles."""
    try:
        # Half a cycle more, so that what happens at the last edge still counts.
        return await with_timeout(awaitable, limit * PERIOD_NS + PERIOD_NS // 2, "ns")
    except SimTimeoutError:
        raise AssertionError(f"not done within {limit} cycles") from None


def _signal(dut, prefix, member):
    """The handle of a stream's member, or None where it is constant and so no port."""
    name = f"{prefix}__{member}"
    return port(dut, name) if name in _ports() else None


class StreamDriver:
    """Sends payloads, as integers, into the input stream *prefix* of the design.

    With probability 1 - *p_valid* a cycle with nothing pending on the wires stays a bubble; a
    payload once offered stays until it is taken. *p_valid* may change at any time.
    """

    def __init__(self, dut, prefix, *, rng=None, p_valid=1.0):
        self._clk = clock(dut)
        self._valid = _signal(dut, prefix, "valid")
        self._ready = _signal(dut, prefix, "ready")
        self._payload = _signal(dut, prefix, "payload")
        self._rng = rng or random.Random(prefix)
        self.p_valid = p_valid
        self._queue = deque()
        self._enqueued = 0
        self.accepted = 0
        self._progress = Event()
        cocotb.start_soon(self._run())

    def send(self, payloads):
        """Queue *payloads* and return at once."""
        before = len(self._queue)
        self._queue.extend(payloads)
        self._enqueued += len(self._queue) - before

    async def put(self, payload):
        """Queue *payload* and wait until the design has taken it."""
        self.send([payload])
        await self.drain()

    async def drain(self):
        """Wait until the design has taken everything queued so far."""
        target = self._enqueued
        while self.accepted < target:
            self._progress.clear()
            await self._progress.wait()

    async def _run(self):
        edge = RisingEdge(self._clk)
        offered = False
        while True:
            if not offered and self._queue and self._rng.random() < self.p_valid:
                offered = True
                if self._payload is not None:
                    self._payload.value = self._queue[0]
                if self._valid is not None:
                    self._valid.value = 1
            await edge
            if offered and (self._ready is None or self._ready.value == 1):
                self._queue.popleft()
                self.accepted += 1
                self._progress.set()
                offered = False
                if self._valid is not None:
                    self._valid.value = 0


class StreamMonitor:
    """Takes payloads from the output stream *prefix* of the design into the list ``received``.

    It is ready with probability *p_ready* in each cycle, which may change at any time. It asserts
    that a valid payload stays, unchanged, until it is taken; set ``check`` to False around
    anything that may break that rule on purpose, such as a flush.
    """

    def __init__(self, dut, prefix, *, rng=None, p_ready=1.0):
        self._clk = clock(dut)
        self._prefix = prefix
        self._valid = _signal(dut, prefix, "valid")
        self._ready = _signal(dut, prefix, "ready")
        self._payload = _signal(dut, prefix, "payload")
        self._rng = rng or random.Random(prefix)
        self.p_ready = p_ready
        self.check = True
        self.received = []
        self._progress = Event()
        cocotb.start_soon(self._run())

    async def wait(self, count):
        """Wait until ``received`` holds at least *count* payloads."""
        while len(self.received) < count:
            self._progress.clear()
            await self._progress.wait()

    async def _run(self):
        edge = RisingEdge(self._clk)
        held = None
        while True:
            ready = self._ready is None or self._rng.random() < self.p_ready
            if self._ready is not None:
                self._ready.value = int(ready)
            await edge
            valid = self._valid is None or self._valid.value == 1
            payload = int(self._payload.value) if valid and self._payload is not None else None
            if held is not None and self.check:
                assert valid, f"{self._prefix}: valid fell before the payload was taken"
                assert payload == held[0], f"{self._prefix}: payload changed while it waited"
            held = None
            if valid and ready:
                self.received.append(payload)
                self._progress.set()
            elif valid:
                held = (payload,)
