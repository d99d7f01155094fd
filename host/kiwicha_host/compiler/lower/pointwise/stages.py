"""Which step of the pipeline a layer belongs to, and how long its operands and results stay."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..conv.plan import ConvPlan
from ..feature_maps import FeatureMaps
from ..geometry import Strides
from ..vector.plan import VectorPlan

__all__ = ["Buffer", "Stages", "place_stride"]


@dataclass(frozen=True)
class Buffer:
    """Places of a group that are in the scratchpad.

    Parameters
    ----------
    blocks : lines of a place
    stage : the stage of the layer that makes it; of what is loaded, one before that of the first that reads it
    last : the stage of the last layer that reads it
    slots : groups of which it is there at once
    of_products : the array reads it
    loads : of what is loaded, the layer whose operand it is, by its place in the row, and whether that is B
    is_one : it is one place, for all of an image
    """
    blocks: int
    stage: int
    last: int
    slots: int
    of_products: bool
    loads: tuple[int, bool] | None = None
    is_one: bool = False


class Stages:
    """Layers in a row, each with its stage: in step t of the pipeline, stage s works on group t - s.

    A product is a stage after what it takes, and what takes its results is one after it: so the array and the
    vector unit have a step's time for each other's results. Layers of the vector unit share a stage.

    Attributes
    ----------
    of : list of int
        Each layer's stage.
    buffers : list of Buffer
    sources, seconds, targets : lists of int
        The buffers that each layer reads and writes; of B, -1 where it is none, or A.
    stored : list of bool
        Whether a layer's result goes to memory.
    """

    def __init__(self, plans: Sequence[ConvPlan | VectorPlan], first: int, maps: FeatureMaps):
        layers = range(first, first + len(plans))
        self._plans = plans
        self._makers = [tuple(None if item is None else item - first for item in maps.makers(layer, layers))
                        for layer in layers]
        self.stored = [maps.leaves(layer, layers) for layer in layers]
        self.of: list[int] = []
        for plan, makers in zip(plans, self._makers, strict=True):
            self.of.append(max((self.of[item] + (isinstance(plan, ConvPlan) or isinstance(plans[item], ConvPlan))
                                for item in makers if item is not None), default=0))
        self.buffers = [self._result(layer) for layer in range(len(plans))]
        self.targets = list(range(len(plans)))
        self._loaded: dict[object, int] = {}
        operands = [maps.operands(layer) for layer in layers]
        self.sources = [self._operand(layer, operands, False) for layer in range(len(plans))]
        self.seconds = [self._operand(layer, operands, True) for layer in range(len(plans))]

    @property
    def count(self) -> int:
        return max(self.of) + 1

    def _result(self, layer: int) -> Buffer:
        plan, stage = self._plans[layer], self.of[layer]
        readers = [reader for reader, makers in enumerate(self._makers) if layer in makers]
        last = max((self.of[reader] for reader in readers), default=stage)
        return Buffer(_blocks(plan, plan.layer.out_channels), stage, last, last - stage + 1,
                      any(isinstance(self._plans[reader], ConvPlan) for reader in readers))

    def _operand(self, layer: int, operands: Sequence[tuple], is_second: bool) -> int:
        """The buffer of a layer's operand; it is loaded if no layer makes it, once for all that take it."""
        plan, maker = self._plans[layer], self._makers[layer][is_second]
        second = plan.second if isinstance(plan, VectorPlan) else None
        if is_second and second is None:
            return -1
        if maker is not None:
            return self.targets[maker]
        key = operands[layer][is_second]
        if key not in self._loaded:
            takers = [taker for taker, (source, other) in enumerate(operands) if key in (source, other)]
            stages = [self.of[taker] for taker in takers]
            channels = plan.channels if isinstance(plan, ConvPlan) else plan.layer.channels
            self._loaded[key] = len(self.buffers)
            self.buffers.append(Buffer(
                _blocks(plan, channels), min(stages) - 1, max(stages), max(stages) - min(stages) + 2,
                any(isinstance(self._plans[taker], ConvPlan) for taker in takers), (layer, is_second),
                is_second and second is not None and not place_stride(plan.layer.size, second)))
        return self._loaded[key]


def place_stride(size: tuple[int, int], view: Strides) -> int:
    """Bytes from a place to the next, of places without gaps; 0 of one that counts for all."""
    return view.x if size[1] > 1 else view.y


def _blocks(plan: ConvPlan | VectorPlan, channels: int) -> int:
    return -(-channels // plan.config.columns)
