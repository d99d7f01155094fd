"""What a simulator sees of a run: the activities that are counted, and which instructions they belong to."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from ..isa import INDEX_WIDTH, Activity, Unit

__all__ = ["Probe", "UNIT_PROBE"]

#: One unit in one cycle, in 32 bits.
UNIT_PROBE = data.FlexibleLayout(32, {
    "index": data.Field(INDEX_WIDTH, 0),
    "activity": data.Field(Activity, 24),
    "accept": data.Field(1, 27),
    "retire": data.Field(1, 28),
})


class Probe(wiring.Signature):
    """The controller's side of a trace. Only simulated chips have it: it is no part of the exported Verilog.

    Members
    -------
    counted : Out(1)
        This cycle is one of the run's: the counters count `activity` of each unit.
    units : Out(UNIT_PROBE), one per Unit
        In a counted cycle: `activity`; whether the unit took its next instruction (`accept`), and whether the
        oldest that it holds ended (`retire`) in it. `index` is of the instruction that the unit takes next,
        valid with `accept` or SEMAPHORE; FETCH's is of the one that is dispatched next.
    """

    def __init__(self):
        super().__init__({"counted": Out(1), "units": Out(UNIT_PROBE).array(len(Unit))})
