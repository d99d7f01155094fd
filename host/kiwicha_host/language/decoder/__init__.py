"""The decoder of a language model as programs for the chip: tokens in, logits out, and no host in between."""

import os

from kiwicha import ChipConfig

from ...devices import open_device
from ...trace import SPAN_LIMIT
from ..deepseek.model import DeepSeekModel
from ..model import LlamaModel
from .architecture import check_chip
from .chip_decoder import ChipDecoder, StepRun
from .step import Run, Step

#: Of a trace: enough for a step of one token of a model with some 100 million weights.
_SPANS = 2 * SPAN_LIMIT

__all__ = ["ChipDecoder", "Run", "Step", "StepRun", "check_chip", "open_decoder"]


def open_decoder(model: LlamaModel | DeepSeekModel, *, config: str | os.PathLike[str] | ChipConfig = "wide",
                 device: str = "verilated", context: int, sequences: int = 1, weights: str | None = None,
                 trace: bool = False) -> ChipDecoder:
    """A decoder of `model` on a device of its own; see :class:`ChipDecoder`, and close it.

    With `trace`, which needs the device verilated, results have a :class:`kiwicha_host.trace.Trace`.

    Raises
    ------
    CompileError
        The chip cannot do it; this is known before the device is opened.
    """
    chip = config if isinstance(config, ChipConfig) else ChipConfig.load(config)
    check_chip(chip, model, weights)
    opened = open_device(device, config=chip, **({"trace": True, "trace_limit": _SPANS} if trace else {}))
    try:
        return ChipDecoder(model, opened, context, sequences, weights=weights)
    except BaseException:
        opened.close()
        raise
