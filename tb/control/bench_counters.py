"""The cycle counters against a table, with reads at any time, cleared at any time."""

import cocotb

from kiwicha.control.counters import Counters
from kiwicha.isa import Activity, Unit
from tb import harness
from tb.harness import cycles, port
from tb.mutation import mutated_bench

#: Cycles until a cycle is in the counters, and from a counter's address to its value.
COUNTED, READ = 2, 2


@cocotb.test()
@cocotb.parametrize(often=[0.02, 0.2])
async def counts_every_cycle(dut, often):
    """Each unit's activities sum to `cycles`; `clear` comes as often as said."""
    await harness.start(dut)
    random = harness.rng(f"counters {often}")
    counts = {(unit, activity): 0 for unit in Unit for activity in Activity}
    total = 0
    coming, reads = [None] * COUNTED, [None] * READ
    for cycle in range(700):
        clear = cycle == 0 or random.random() < often
        enable = random.random() < 0.8
        # Mostly a few, so that counters grow.
        doing = {unit: random.choice((*Activity, Activity.BUSY, Activity.IDLE, Activity.BUSY)) for unit in Unit}
        address = random.choice(list(Unit)), random.choice((*Activity, Activity.BUSY))
        for unit in Unit:
            port(dut, f"activity__{unit.value}").value = doing[unit].value
        port(dut, "clear").value, port(dut, "enable").value = int(clear), int(enable)
        port(dut, "read_unit").value, port(dut, "read_activity").value = (item.value for item in address)
        await cycles(dut, 1)
        # What is seen in this cycle, counted until COUNTED cycles ago.
        if cycle:
            assert int(port(dut, "cycles").value) == total
        reads.append(counts[address] if cycle else None)
        due = reads.pop(0)
        assert due is None or int(port(dut, "value").value) == due, f"cycle {cycle}: {address}"
        coming.append(doing if enable and not clear else None)
        coming.pop(0)
        counted = coming[0]
        if clear:
            counts, total = dict.fromkeys(counts, 0), 0
        elif counted is not None:
            total += 1
            for item in counted.items():
                counts[item] += 1
    for unit in Unit:
        assert sum(count for (whose, _), count in counts.items() if whose == unit) == total


BENCHES = [mutated_bench("counters", Counters, "counters.py", module=__name__)]
