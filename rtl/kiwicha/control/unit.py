"""What the control unit and each instruction unit say to one another."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, PAGE_BITS, Activity, ErrorCode, Unit
from ..layouts import unit_layout

__all__ = ["SETTLE", "ErrorReport", "UnitPort", "Window"]

#: Cycles that `abort` is held at least, so that what it cannot stop any more has become visible.
SETTLE = 5


class ErrorReport(data.Struct):
    """A typed error; `valid` stays high, and the rest unchanged, until the unit sees `abort`."""
    valid: 1
    code: ErrorCode
    index: INDEX_WIDTH
    address: 64


def Window(config: ChipConfig) -> data.StructLayout:
    """The memory window in pages of 4 KiB: bytes first * 4096 to last * 4096 + 4095."""
    pages = config.address_width - PAGE_BITS
    return data.StructLayout({"first": pages, "last": pages})


class UnitPort(wiring.Signature):
    """A unit's control port, from the unit's side.

    Members
    -------
    i : In(stream)
        Instructions (:func:`kiwicha.isa.unit_layout`) whose semaphores have been taken.
    retire : Out(1)
        High for one cycle per instruction, in order, when its last result is in place.
    error : Out(ErrorReport)
        The first error; the unit then does nothing more until `abort`.
    abort : In(1)
        Held high until every unit is `quiet`, but for :data:`SETTLE` cycles at least: drop all instructions,
        finish what the bus has begun (with write strobes off), and forget errors. A unit may hear it a cycle late.
    quiet : Out(1)
        Nothing is under way in the unit nor on its bus.
    activity : Out(Activity)
        What the unit does in this cycle; exactly one, IDLE only if `quiet`.
    progress : Out(1)
        Something moved in this cycle, or in the one before; holds off the watchdog.
    """

    def __init__(self, unit: Unit):
        self.unit = unit
        super().__init__({
            "i": In(stream.Signature(unit_layout(unit))),
            "retire": Out(1),
            "error": Out(ErrorReport),
            "abort": In(1),
            "quiet": Out(1),
            "activity": Out(Activity),
            "progress": Out(1),
        })

    def __repr__(self):
        return f"UnitPort({self.unit})"
