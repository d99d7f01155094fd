"""The cycle model: what a program's run would take, predicted from its instructions.

It follows instructions, bursts and tiles rather than cycles: see ``docs/performance.md``.
"""

from .model import Endless, Prediction, predict
from .timing import MEASURED, Timing

__all__ = ["Endless", "MEASURED", "Prediction", "Timing", "predict"]
