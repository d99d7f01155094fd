"""What normalizations of rows have in common: constants in parts, and the pass that makes the results."""

from functools import cached_property

import numpy as np

from kiwicha.isa import ScaleMode, Source, Unit

from ..emitter import result_fields
from .plan import VectorPlan
from .rows import RowTile
from .work import Work

__all__ = ["NUMBERS", "NormPlan", "leave"]

#: The buffer of what :func:`leave` makes results of: words for all channels of each place.
NUMBERS = -1


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


def leave(work: Work, row: RowTile, factors: int, *, bias: bool) -> None:
    """Numbers to results, block by block of channels. Each block has a word for each channel from line `factors`
    on: with `bias` what is added, then what is multiplied with.
    """
    for block in range(row.blocks):
        work.emitter.add(
            Unit.VECTOR, reads=[*row.in_keys, row.key(NUMBERS)], writes=[row.out_key], a_source=Source.WORDS,
            float=1, **result_fields(work.plan.layer), count0=1, count1=1, count2=row.places, count3=1,
            a_line=row.behind + block * row.words, a_stride2=row.blocks * row.words, bias=int(bias),
            scale_mode=ScaleMode.COLUMN, param_line=factors + (1 + bias) * block * row.words,
            out_line=row.out_line + block, out_stride2=row.blocks)
