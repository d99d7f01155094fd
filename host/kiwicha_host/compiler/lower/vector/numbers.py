"""FP32 numbers, element by element, tile by tile."""

from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np

from kiwicha.isa import OperandUse, SecondSource, Source

from ...ir.number_layers import NumberLayer
from ..emitter import Addresses, element_lines, result_fields
from .plan import Box, VectorPlan
from .work import Work, scaled

__all__ = ["NumberPlan", "NumberWork"]


class NumberPlan(VectorPlan):
    """A constant operand B is in memory behind the tables: one place, which counts for all."""

    @cached_property
    def _packed(self) -> np.ndarray:
        constant, line = cast(NumberLayer, self.layer).constant, self.config.line_bytes
        lines = np.pad(constant.view(np.uint8), (0, -constant.nbytes % line)).reshape(-1, line)
        return np.concatenate([super().packed(), lines])

    @property
    def weight_bytes(self) -> int:
        return self._packed.nbytes

    @property
    def resident_lines(self) -> int:
        return super().packed().shape[0]

    def packed(self) -> np.ndarray:
        return self._packed

    def of(self, box: Box) -> Box:
        layer = cast(NumberLayer, self.layer)
        a, b, result = (element_lines(self.config, item) for item in layer.elements)
        return replace(box, elements=layer.elements, lines=(a, b, result))

    def addresses(self, at: Addresses) -> Addresses:
        if not cast(NumberLayer, self.layer).constant.size:
            return at
        return replace(at, second=at.weights + self.resident_lines * self.config.line_bytes)


class NumberWork(Work):
    """One pass over a tile; what has no table are words."""

    def _function(self, places: int) -> dict[str, int]:
        layer, factor = cast(NumberLayer, self.plan.layer), self.plan.factor(places)
        a, b, _ = layer.elements
        fields = {"float": 1, "b_use": layer.b_use, "function": layer.function, **result_fields(layer),
                  "a_source": Source.TABLE if a == "int8" else Source.WORDS}
        if layer.b_use != OperandUse.NONE and b != "int8":
            fields["b_source"] = SecondSource.WORDS
        return fields if factor == 1 else fields | scaled(factor)
