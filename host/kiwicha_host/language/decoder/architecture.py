"""What decoders of different models have in common, and which model has which."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS

from ... import arguments
from ...compiler.errors import CompileError
from ...compiler.program.memory_map import Region
from ..deepseek.model import DeepSeekModel
from ..model import LlamaModel
from .numbers import E4M3, E4M3_E2M1, MXINT8, PADDING, Numbers
from .step import Step
from .template import Template

__all__ = ["Architecture", "Program", "architecture", "check_chip"]


class Program(Protocol):
    """A step's program, not yet written."""

    def template(self) -> Template: ...


@dataclass(frozen=True)
class Architecture:
    """How a model becomes programs.

    Parameters
    ----------
    shape : padded sizes; equal ones have equal programs
    numbers : what is multiplied
    memory : called with a chip's configuration, and how many positions, sequences, and rows at once
    scratch_bytes : called with rows and positions: memory that a step uses for its own
    program : called with the configuration, the memory, a step, and the step's own memory
    """
    shape: Any
    numbers: tuple[Numbers, ...]
    memory: Callable[[ChipConfig, int, int, int], Any]
    scratch_bytes: Callable[[int, int], int]
    program: Callable[[ChipConfig, Any, Step, Region], Program]


def architecture(model: LlamaModel | DeepSeekModel, weights: str | None = None) -> Architecture:
    """Of a model, whose weights get the format `weights`; None: as they are stored, or int8.

    Raises
    ------
    ValueError
        There is no such format, or the model is stored in formats of its own.
    """
    if isinstance(model, DeepSeekModel):
        if weights is not None:
            raise ValueError("a model that is stored quantized keeps its own formats; give no weights, not "
                             f"{weights!r}")
        return _deepseek(model)
    weights = arguments.choice("weights", weights or "int8", FORMATS)
    return _llama(arguments.instance("model", model, LlamaModel), dataclasses.replace(
        MXINT8, weights=FORMATS[weights]))


def _llama(model: LlamaModel, numbers: Numbers) -> Architecture:
    from .memory import DecoderMemory
    from .program import StepProgram, scratch_bytes
    from .scratchpad import ring_chunk
    from .shape import DecoderShape
    shape = DecoderShape(model.config, numbers)
    return Architecture(
        shape, (MXINT8, numbers), lambda config, context, sequences, rows: DecoderMemory(
            config, shape, context, sequences, rows, ring_chunk(config, shape)),
        lambda rows, context: scratch_bytes(shape, rows, context), StepProgram)


def _deepseek(model: DeepSeekModel) -> Architecture:
    from ..deepseek.chip.memory import DeepSeekMemory
    from ..deepseek.chip.program import StepProgram, scratch_bytes
    from ..deepseek.chip.scratchpad import ring_chunk
    from ..deepseek.chip.shape import DeepSeekShape
    shape = DeepSeekShape(model.config)
    return Architecture(
        shape, (E4M3, E4M3_E2M1), lambda config, context, sequences, rows: DeepSeekMemory(
            config, shape, context, sequences, rows, ring_chunk(config, shape)),
        lambda rows, context: scratch_bytes(shape, rows, context), StepProgram)


def check_chip(config: ChipConfig, model: LlamaModel | DeepSeekModel, weights: str | None = None) -> None:
    """Raise :exc:`CompileError` if a chip of `config` cannot run a decoder of such a model."""
    has_experts = isinstance(model, DeepSeekModel)
    formats = dict.fromkeys(fmt.name for numbers in architecture(model, weights).numbers
                            for fmt in (numbers.activations, numbers.weights))
    needed = [("functions", config.functions), ("block scales", config.block_scaled),
              *((f"the format {name}", name in config.formats) for name in formats)]
    if has_experts:
        needed += [("indices", config.indices), ("top_k", config.top_k)]
    missing = [what for what, there in needed if not there]
    if missing:
        what = "a DeepSeek model" if has_experts else "a language model"
        raise CompileError(f"{what} needs a chip with {' and '.join(missing)}, which configuration "
                           f"{config.name!r} has not; wide and small can do it")
    if not config.float_row_sums:
        raise CompileError("a language model needs columns that are a multiple of vector_lanes, not "
                           f"{config.columns} for {config.vector_lanes}; choose another configuration")
    if PADDING % config.columns:
        raise CompileError(f"a language model needs an array whose columns divide {PADDING}, not {config.columns}"
                           "; choose another configuration")
