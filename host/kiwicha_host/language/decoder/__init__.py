"""The decoder of a language model as programs for the chip: tokens in, logits out, and no host in between."""

import os

from kiwicha import ChipConfig

from ...devices import open_device
from ..deepseek.model import DeepSeekModel
from ..model import LlamaModel
from .architecture import check_chip
from .chip_decoder import ChipDecoder
from .step import Run, Step

__all__ = ["ChipDecoder", "Run", "Step", "check_chip", "open_decoder"]


def open_decoder(model: LlamaModel | DeepSeekModel, *, config: str | os.PathLike[str] | ChipConfig = "wide",
                 device: str = "verilated", context: int, sequences: int = 1,
                 weights: str | None = None) -> ChipDecoder:
    """A decoder of `model` on a device of its own; see :class:`ChipDecoder`, and close it.

    Raises
    ------
    CompileError
        The chip cannot do it; this is known before the device is opened.
    """
    chip = config if isinstance(config, ChipConfig) else ChipConfig.load(config)
    check_chip(chip, model, weights)
    opened = open_device(device, config=chip)
    try:
        return ChipDecoder(model, opened, context, sequences, weights=weights)
    except BaseException:
        opened.close()
        raise
