"""What each kind of layer of the vector unit has of its own."""

from kiwicha import ChipConfig

from ...ir.layers import VectorLayer
from ...ir.number_layers import NumberLayer
from ...ir.row_layers import LayerNormLayer, RmsNormLayer, RotaryLayer, SoftmaxLayer, TopLayer
from ..geometry import Strides
from .layer_norm import LayerNormPlan, LayerNormWork
from .numbers import NumberPlan, NumberWork
from .plan import VectorPlan
from .rms_norm import RmsNormPlan, RmsNormWork
from .rotary import RotaryPlan, RotaryWork
from .softmax import SoftmaxWork
from .top import TopWork
from .work import Work

__all__ = ["plan_vector", "work_of"]

_WORK: dict[type[VectorLayer], type[Work]] = {SoftmaxLayer: SoftmaxWork, LayerNormLayer: LayerNormWork,
                                              RmsNormLayer: RmsNormWork, RotaryLayer: RotaryWork,
                                              TopLayer: TopWork, NumberLayer: NumberWork}
_PLANS: dict[type[VectorLayer], type[VectorPlan]] = {
    LayerNormLayer: LayerNormPlan, RmsNormLayer: RmsNormPlan, RotaryLayer: RotaryPlan, NumberLayer: NumberPlan}
#: The same wherever one is.
_EVERYWHERE = Strides(0, 0, 0)


def plan_vector(config: ChipConfig, layer: VectorLayer, source: Strides, second: Strides | None, target: Strides
                ) -> VectorPlan:
    """The plan of a layer."""
    if isinstance(layer, NumberLayer) and layer.constant.size:
        second = _EVERYWHERE
    return _PLANS.get(type(layer), VectorPlan)(config, layer, source, second, target)


def work_of(layer: VectorLayer) -> type[Work]:
    """What makes a layer's instructions."""
    return _WORK.get(type(layer), Work)
