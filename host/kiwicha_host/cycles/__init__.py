"""The cycle model: what a program's run would take, predicted from its instructions.

It follows instructions, bursts and tiles rather than cycles: see ``docs/performance.md``.
"""

from .events import NEVER
from .model import Deadlock, Prediction, cycles_within, predict
from .timing import MEASURED, Timing

__all__ = ["Deadlock", "MEASURED", "NEVER", "Prediction", "Timing", "cycles_within", "predict"]
