"""The cycle model: what a program's run would take, predicted from its instructions.

It follows instructions, bursts and tiles rather than cycles: see ``docs/performance.md``.
"""

from .model import Deadlock, Prediction, predict
from .timing import MEASURED, Timing

__all__ = ["Deadlock", "MEASURED", "Prediction", "Timing", "predict"]
