"""The control unit: the host's registers, the program's fetch and dispatch, semaphores, errors, counters."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..bus.axi import AxiLite, AxiRead
from ..config import ChipConfig
from ..isa import INSTRUCTIONS, REGISTER_ADDRESS_WIDTH, Activity, Unit
from .counters import Counters
from .dispatch import Dispatch
from .fetch import Fetch
from .issue_queue import IssueQueue
from .probe import Probe
from .registers import Registers
from .semaphores import Semaphores
from .supervisor import Supervisor
from .unit import UnitPort, Window

__all__ = ["Controller"]


class Controller(wiring.Component):
    """Runs programs: fetches, checks and dispatches instructions, and tells the host how it ended.

    What each part does, and how fast, is said there: :class:`.Registers`, :class:`.Fetch`,
    :class:`.Dispatch`, :class:`.IssueQueue` (one per unit), :class:`.Semaphores`, :class:`.Supervisor`,
    :class:`.Counters`. Together: from a unit's `retire` to another unit's `i.valid`, by way of a
    semaphore, 4 cycles.

    Parameters
    ----------
    config : ChipConfig
    probe : bool
        Have the member `probe`.

    Members
    -------
    host : In(AxiLite(12))
    bus : Out(AxiRead(config))
        Reads of the program.
    window : Out(Window(config))
        The memory window, for the units that touch memory; does not change while they work.
    load, matmul, vector, store : In(UnitPort)
        The units.
    irq : Out(1)
    probe : Out(Probe)
        For a simulator's traces.
    """

    def __init__(self, config: ChipConfig, probe: bool = False):
        self._config = config
        self._probe = probe
        super().__init__({
            "host": In(AxiLite(REGISTER_ADDRESS_WIDTH)),
            "bus": Out(AxiRead(config)),
            "window": Out(Window(config)),
            **{unit.name.lower(): In(UnitPort(unit)) for unit in INSTRUCTIONS},
            "irq": Out(1),
            **({"probe": Out(Probe())} if probe else {}),
        })

    @property
    def config(self):
        return self._config

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = Registers(self._config)
        m.submodules.fetch = fetch = Fetch(self._config)
        m.submodules.dispatch = dispatch = Dispatch()
        m.submodules.semaphores = semaphores = Semaphores()
        m.submodules.supervisor = supervisor = Supervisor()
        m.submodules.counters = counters = Counters()
        wiring.connect(m, wiring.flipped(self.host), registers.host)
        wiring.connect(m, fetch.bus, wiring.flipped(self.bus))
        wiring.connect(m, fetch.o, dispatch.i)
        issue_queues = self._elaborate_issue_queues(m, dispatch, semaphores, supervisor)
        ports = [getattr(self, unit.name.lower()) for unit in INSTRUCTIONS]

        all_done = Signal()
        # Registered: it hangs on the supervisor's state and the host's write, and loads all counters of the fetch.
        m.d.sync += [fetch.start.eq(supervisor.starting),
                     all_done.eq((fetch.index == registers.count) & ~supervisor.starting & ~fetch.start)]
        self._elaborate_movement(m, supervisor, [fetch, dispatch, *issue_queues, *ports], [fetch, *ports])
        m.d.comb += [
            self.window.eq(registers.window),
            self.irq.eq(registers.irq),
            fetch.program.eq(registers.program),
            fetch.count.eq(registers.count),
            fetch.window.eq(registers.window),
            fetch.abort.eq(supervisor.abort),
            dispatch.index.eq(fetch.index),
            dispatch.all_done.eq(all_done),
            dispatch.running.eq(supervisor.running),
            supervisor.start.eq(registers.start),
            supervisor.host_abort.eq(registers.abort),
            supervisor.all_done.eq(all_done),
            supervisor.empty.eq(Cat(issue_queue.empty for issue_queue in issue_queues).all()),
            supervisor.limit.eq(registers.watchdog),
            supervisor.dispatch_unit.eq(dispatch.error_unit),
            supervisor.next_index.eq(fetch.index),
            *(sink.eq(source) for sink, source in zip(
                supervisor.errors, [*(port.error for port in ports), dispatch.error, fetch.error],
                strict=True)),
            *(getattr(registers, name).eq(getattr(supervisor, name))
              for name in ("busy", "done", "error", "record", "succeeded", "failed")),
        ]
        m.d.comb += [
            counters.clear.eq(supervisor.starting),
            counters.read_unit.eq(registers.read_unit),
            counters.read_activity.eq(registers.read_activity),
            registers.counter.eq(counters.value),
            registers.cycles.eq(counters.cycles),
        ]
        m.d.sync += counters.enable.eq(supervisor.running)
        self._elaborate_activities(m, counters, dispatch, issue_queues, ports)
        if self._probe:
            self._elaborate_probe(m, counters, fetch, dispatch, ports)
        return m

    def _elaborate_movement(self, m, supervisor, moving, working):
        """Whether anything moves or works; registered part by part, for it hangs on the `ready` of each port."""
        progress = Signal(len(moving))
        m.d.sync += progress.eq(Cat(part.progress for part in moving))
        # No issue queue is empty before what it held has been told as done, a cycle after the unit is quiet.
        quiet = Signal(len(working))
        m.d.sync += quiet.eq(Cat(part.quiet for part in working))
        m.d.comb += [supervisor.progress.eq(progress.any()), supervisor.quiet.eq(quiet.all())]

    def _elaborate_issue_queues(self, m, dispatch, semaphores, supervisor):
        """An issue queue for each unit, between dispatch and the unit's port."""
        issue_queues = []
        m.d.sync += semaphores.clear.eq(supervisor.starting | supervisor.abort)
        for number, unit in enumerate(INSTRUCTIONS):
            name = unit.name.lower()
            issue_queue = IssueQueue(unit, self._config.queue_depth)
            m.submodules[f"issue_queue_{name}"] = issue_queue
            port = getattr(self, name)
            wiring.connect(m, getattr(dispatch, name), issue_queue.i)
            m.d.comb += [
                port.i.valid.eq(issue_queue.o.valid),
                port.i.payload.eq(issue_queue.o.payload),
                issue_queue.o.ready.eq(port.i.ready),
                port.abort.eq(supervisor.abort),
                issue_queue.retire.eq(port.retire),
                issue_queue.clear.eq(supervisor.abort),
                semaphores.want[number].eq(issue_queue.want),
                semaphores.wait[number].eq(issue_queue.wait),
                issue_queue.granted.eq(semaphores.granted[number]),
                semaphores.signal[number].eq(issue_queue.signal),
                semaphores.add[number].eq(issue_queue.add),
                issue_queue.applied.eq(semaphores.applied[number]),
                supervisor.held[number].eq(issue_queue.oldest_valid),
                supervisor.held_index[number].eq(issue_queue.oldest_index),
            ]
            issue_queues.append(issue_queue)
        return issue_queues

    def _elaborate_activities(self, m, counters, dispatch, issue_queues, ports):
        """What each unit is counted as doing, a cycle later: a semaphore may be why it is idle."""
        m.d.sync += counters.activity[Unit.FETCH.value].eq(dispatch.activity)
        for unit, issue_queue, port in zip(INSTRUCTIONS, issue_queues, ports, strict=True):
            activity, waiting = Signal.like(port.activity), Signal()
            m.d.sync += [activity.eq(port.activity), waiting.eq(issue_queue.waiting)]
            m.d.comb += counters.activity[unit.value].eq(
                Mux((activity == Activity.IDLE) & waiting, Activity.SEMAPHORE, activity))

    def _elaborate_probe(self, m, counters, fetch, dispatch, ports):
        """What is counted, with what happened in the same cycle."""
        m.d.comb += self.probe.counted.eq(counters.enable & ~counters.clear)
        for unit in Unit:
            m.d.comb += self.probe.units[unit.value].activity.eq(counters.activity[unit.value])
        view = self.probe.units[Unit.FETCH.value]
        # Until fetch has started, its index is of the program before.
        m.d.sync += [view.index.eq(Mux(fetch.start, 0, fetch.index)), view.accept.eq(dispatch.progress),
                     view.retire.eq(dispatch.progress)]
        for unit, port in zip(INSTRUCTIONS, ports, strict=True):
            view = self.probe.units[unit.value]
            m.d.sync += [view.index.eq(port.i.p.index), view.accept.eq(port.i.valid & port.i.ready),
                         view.retire.eq(port.retire)]
