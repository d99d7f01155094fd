"""Layers of the vector unit that compute with FP32 numbers, of each element by itself."""

from dataclasses import dataclass, field

import numpy as np

from kiwicha.isa import OperandUse, ResultFunction

from .layers import VectorLayer

__all__ = ["NO_TABLE", "NumberLayer"]

NO_TABLE = np.zeros(0, np.float32)


@dataclass(frozen=True)
class NumberLayer(VectorLayer):
    """A, or A plus B, or A times B, times the factor; clamped; a function of that; as a number, or rounded, plus
    the zero point.

    For a chip with `functions`. Each operation is one of FP32. An operand of codes has a table, float32 [256]; one
    without is of numbers itself, and its table is [0].

    Parameters
    ----------
    use : of operand B; NONE without one
    constant : operand B, float32 [channels], if that is the same at all places; else [0]
    clamp : of numbers: lowest and highest
    function : of numbers
    element : of the result: "int8" or "float32"
    """
    use: OperandUse = OperandUse.NONE
    constant: np.ndarray = field(default_factory=lambda: NO_TABLE)
    function: ResultFunction = ResultFunction.NONE
    element: str = "int8"

    @property
    def elements(self) -> tuple[str, str, str]:
        tables = self.a_table, self.b_table
        a, b = ("float32" if table is None or not table.size else "int8" for table in tables)
        return a, b, self.element

    @property
    def has_second(self) -> bool:
        return self.use != OperandUse.NONE

    @property
    def b_use(self) -> OperandUse:
        return self.use
