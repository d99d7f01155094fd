"""What decoders of different models have in common, and which model has which."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kiwicha import ChipConfig

from ... import arguments
from ...compiler.errors import CompileError
from ...compiler.program.memory_map import Region
from ..deepseek.model import DeepSeekModel
from ..model import LlamaModel
from .numbers import E4M3, E4M3_E2M1, PADDING, Numbers
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
    memory : called with a chip's configuration, and how many positions, sequences, and rows at once
    scratch_bytes : called with rows and positions: memory that a step uses for its own
    program : called with the configuration, the memory, a step, and the step's own memory
    """
    shape: Any
    memory: Callable[[ChipConfig, int, int, int], Any]
    scratch_bytes: Callable[[int, int], int]
    program: Callable[[ChipConfig, Any, Step, Region], Program]


def architecture(model: LlamaModel | DeepSeekModel) -> Architecture:
    """Of a model."""
    if isinstance(model, DeepSeekModel):
        return _deepseek(model)
    return _llama(arguments.instance("model", model, LlamaModel))


def _llama(model: LlamaModel) -> Architecture:
    from .memory import DecoderMemory
    from .program import StepProgram, scratch_bytes
    from .scratchpad import ring_chunk
    from .shape import DecoderShape
    shape = DecoderShape(model.config)
    return Architecture(
        shape, lambda config, context, sequences, rows: DecoderMemory(
            config, shape, context, sequences, rows, ring_chunk(config, shape)),
        lambda rows, context: scratch_bytes(shape, rows, context), StepProgram)


def _deepseek(model: DeepSeekModel) -> Architecture:
    from ..deepseek.chip.memory import DeepSeekMemory
    from ..deepseek.chip.program import StepProgram, scratch_bytes
    from ..deepseek.chip.scratchpad import ring_chunk
    from ..deepseek.chip.shape import DeepSeekShape
    shape = DeepSeekShape(model.config)
    return Architecture(
        shape, lambda config, context, sequences, rows: DeepSeekMemory(
            config, shape, context, sequences, rows, ring_chunk(config, shape)),
        lambda rows, context: scratch_bytes(shape, rows, context), StepProgram)


def check_chip(config: ChipConfig, model: type = LlamaModel) -> None:
    """Raise :exc:`CompileError` if a chip of `config` cannot run a decoder of such a model."""
    has_experts = issubclass(model, DeepSeekModel)
    formats = _formats(E4M3, E4M3_E2M1) if has_experts else ("int8",)
    needed = [("functions", config.functions), ("block scales", config.block_scaled),
              *((f"the format {name}", name in config.formats) for name in formats)]
    if has_experts:
        needed += [("indices", config.indices), ("top_k", config.top_k)]
    missing = [what for what, there in needed if not there]
    what, able = ("a DeepSeek model", "wide") if has_experts else ("a language model", "wide and small")
    if missing:
        raise CompileError(f"{what} needs a chip with {' and '.join(missing)}, which configuration "
                           f"{config.name!r} has not; {able} can do it")
    if not config.float_row_sums:
        raise CompileError("a language model needs columns that are a multiple of vector_lanes, not "
                           f"{config.columns} for {config.vector_lanes}; choose another configuration")
    if PADDING % config.columns:
        raise CompileError(f"a language model needs an array whose columns divide {PADDING}, not {config.columns}"
                           "; choose another configuration")


def _formats(*numbers: Numbers) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fmt.name for each in numbers for fmt in (each.activations, each.weights)))
