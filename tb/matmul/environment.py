"""The MATMUL unit with its array and memories, and the rules that it must keep in every cycle."""

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from kiwicha.control.unit import ErrorReport, UnitPort
from kiwicha.isa import Activity, Unit
from kiwicha.layouts import unit_layout
from kiwicha.matmul.unit import MatmulUnit
from kiwicha.memory.accumulator import Accumulator, accumulation
from kiwicha.memory.ports import ReadPort, WritePort, line_write
from kiwicha.memory.scratchpad import Scratchpad
from kiwicha.timing import READ_LATENCY
from tb import harness
from tb.harness import StreamDriver, bounded, cycles, port
from tb.matmul.model import Model, ports
from tb.matmul.programs import instruction

__all__ = ["MatmulBench", "MatmulEnv"]


class MatmulBench(wiring.Component):
    """The unit and its memories; `deny_a` and so on hold its requests back, and some wires are for looking."""

    def __init__(self, config):
        self.config = config
        line = 8 * config.line_bytes
        super().__init__({
            "control": Out(UnitPort(Unit.MATMUL)), "load": In(WritePort(line)),
            "read": In(ReadPort(32 * config.columns)), **{f"deny_{name}": In(1) for name in ports(config)},
            "acc": Out(accumulation(config)),
            **{f"{name}_{what}": Out(width) for name in ports(config)
               for what, width in (("valid", 1), ("line", 16), ("taken", 1))},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = MatmulUnit(self.config)
        m.submodules.scratchpad = scratchpad = Scratchpad(self.config)
        m.submodules.accumulator = accumulator = Accumulator(self.config)
        connect(m, flipped(self.control), unit.control)
        connect(m, flipped(self.load), scratchpad.load)
        connect(m, flipped(self.read), accumulator.read)
        m.d.comb += [accumulator.i.eq(unit.acc), self.acc.eq(unit.acc)]
        for name in ports(self.config):
            ours, theirs, deny = getattr(unit, name), getattr(scratchpad, name), getattr(self, f"deny_{name}")
            m.d.comb += [
                theirs.request.valid.eq(ours.request.valid & ~deny),
                theirs.request.payload.eq(ours.request.payload),
                ours.request.ready.eq(theirs.request.ready & ~deny),
                ours.data.eq(theirs.data),
                ours.valid.eq(theirs.valid),
                getattr(self, f"{name}_valid").eq(ours.request.valid),
                getattr(self, f"{name}_line").eq(ours.request.payload),
                getattr(self, f"{name}_taken").eq(ours.request.valid & ours.request.ready),
            ]
        return m


class MatmulEnv:
    """The design, what it must compute, and the rules it must keep in every cycle."""

    def __init__(self, dut, label):
        self.dut, self.config = dut, harness.current().params["config"]
        self.rng = harness.rng(label)
        self.ports = ports(self.config)
        self.p_deny = dict.fromkeys(self.ports, 0.0)
        accumulator = Accumulator(self.config)
        #: Cycles between two sums to one accumulator line, and from a sum to its read.
        self.rest, self.settle = accumulator.hazard, accumulator.latency
        self.aborting = False
        self.now = 0
        self.log = {name: [] for name in (*self.ports, "acc", "retire")}   # cycles; (cycle, line) for ports
        self.activities = []
        self.model = Model(self.config, self.rng)

    @classmethod
    async def begin(cls, dut, label):
        await harness.start(dut)
        world = cls(dut, label)
        layout = line_write(8 * world.config.line_bytes)
        for line, values in enumerate(world.model.memory):
            port(dut, "load__request__valid").value = 1
            port(dut, "load__request__payload").value = harness.pack(
                layout, address=line, data=int.from_bytes(values.tobytes(), "little"))
            await cycles(dut, 1)
        port(dut, "load__request__valid").value = 0
        world.driver = StreamDriver(dut, "control__i", rng=harness.rng(f"{label} driver"))
        cocotb.start_soon(world._watch())
        # So that every accumulator has a value that the model knows.
        lines = world.config.accumulator_lines
        world.send(instruction(world.config, count=(lines, 1, 1, 1), acc_stride=(1, 0, 0, 0)))
        await world.finish()
        return world

    # The rules.

    async def _watch(self):
        held, last_used = dict.fromkeys(self.ports), {}
        while True:
            for name in self.ports:
                port(self.dut, f"deny_{name}").value = self.rng.random() < self.p_deny[name]
            await cycles(self.dut, 1)
            self.now += 1
            for name in self.ports:
                valid, line, taken = (int(port(self.dut, f"{name}_{what}").value)
                                      for what in ("valid", "line", "taken"))
                assert held[name] is None or self.aborting or (valid and line == held[name]), \
                    f"{name}: the request changed while it waited"
                held[name] = line if valid and not taken else None
                if taken:
                    self.log[name].append((self.now, line))
            acc = int(port(self.dut, "acc").value)
            if acc & 1:
                line = acc >> 1 & 0xFFFF
                rested = self.now - last_used.get(line, -self.rest)
                assert rested >= self.rest, "an accumulator line before it has rested"
                last_used[line] = self.now
                self.log["acc"].append(self.now)
            self._watch_control()

    def _watch_control(self):
        control = {name: int(port(self.dut, f"control__{name}").value)
                   for name in ("retire", "quiet", "activity", "progress")}
        activity = Activity(control["activity"])
        self.activities.append(activity)
        issued = {name: self.log[name][-1:] and self.log[name][-1][0] == self.now for name in "aw"}
        assert bool(issued["a"]) == (activity == Activity.BUSY)
        assert bool(control["quiet"]) == (activity == Activity.IDLE)
        assert bool(issued["a"] or issued["w"]) == bool(control["progress"])
        if control["retire"]:
            # In the first cycle of an abort a unit may not have heard it; nobody listens any more.
            assert not self.aborting or self.now <= self.aborted + 1
            if self.aborting:
                return
            self.log["retire"].append(self.now)
            done = self.model.ends[len(self.log["retire"]) - 1]
            assert self.log["acc"][done - 1:done] == [self.now - self.settle], "retire: wrong time"

    # What tests do.

    def send(self, fields, index=0):
        """Queue an instruction, and do in the model what it does; False if it ends in an error, half done."""
        packed = {"index": index}
        for name, value in fields.items():
            if isinstance(value, tuple):
                first = 2 if name in ("w_stride", "a_scale_stride", "w_scale_stride") else 0
                packed |= {f"{name}{first + i}": item for i, item in enumerate(value)}
            else:
                packed[name] = value
        self.driver.send([harness.pack(unit_layout(Unit.MATMUL), packed)])
        return self.model.execute(fields)

    async def finish(self, limit=20_000):
        """Wait until all is done, and compare requests and accumulators."""
        async def retired():
            while len(self.log["retire"]) < len(self.model.ends):
                await cycles(self.dut, 1)
        await bounded(retired(), limit)
        await self.quiet(3)
        for name in self.ports:
            assert [line for _, line in self.log[name]] == self.model.expected[name], f"{name}: wrong lines"
        assert (await self.read_all() == self.model.sums).all()

    async def quiet(self, limit):
        for _ in range(limit):
            await cycles(self.dut, 1)
            if port(self.dut, "control__quiet").value == 1:
                return
        raise AssertionError(f"not quiet after {limit} cycles")

    async def read_all(self):
        """The accumulators, through VECTOR's port."""
        words = []
        for line in range(self.config.accumulator_lines + READ_LATENCY + 1):
            port(self.dut, "read__request__valid").value = line < self.config.accumulator_lines
            port(self.dut, "read__request__payload").value = line % self.config.accumulator_lines
            await cycles(self.dut, 1)
            if port(self.dut, "read__valid").value == 1:
                words.append(int(port(self.dut, "read__data").value))
        port(self.dut, "read__request__valid").value = 0
        size = 4 * self.config.columns
        return np.stack([np.frombuffer(word.to_bytes(size, "little"), "<i4") for word in words])

    def error(self):
        fields = harness.unpack(ErrorReport, int(port(self.dut, "control__error").value))
        return fields if fields["valid"] else None

    async def abort(self):
        """Abort, wait until quiet, and take over the accumulators as they are now."""
        whole = 2 * self.config.rows + self.config.columns + 60
        self.aborting, self.aborted = True, self.now
        port(self.dut, "control__abort").value = 1
        await cycles(self.dut, 1)
        await bounded(self.driver.drain(), 100)
        await self.quiet(whole)
        port(self.dut, "control__abort").value = 0
        await cycles(self.dut, 2)
        assert self.error() is None
        self.aborting = False
        self.model.sums = (await self.read_all()).copy()
        self.forget()

    def forget(self):
        """Forget the instructions so far, both sent and seen."""
        self.log = {name: [] for name in self.log}
        self.model.forget()
