"""What normalizations of rows have in common: constants in parts."""

from functools import cached_property

import numpy as np

from .plan import VectorPlan

__all__ = ["NormPlan"]


class NormPlan(VectorPlan):
    """Its constants are the parts that :meth:`parts` says, in memory one after another."""

    def parts(self) -> list[np.ndarray]:
        """Arrays of 32-bit words."""
        raise NotImplementedError

    @cached_property
    def _packed(self) -> np.ndarray:
        packed = np.concatenate([part.view(np.uint8).reshape(-1) for part in self.parts()])
        return packed.reshape(-1, self.config.line_bytes)

    @property
    def weight_bytes(self) -> int:
        return self._packed.nbytes

    def packed(self) -> np.ndarray:
        return self._packed
