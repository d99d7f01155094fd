"""A language model on a device: tokens in, logits out."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ... import arguments
from ...compiler.errors import CompileError
from ...devices import Device
from ...job import PAGE, Job, Result
from ..deepseek.model import DeepSeekModel
from ..model import LlamaModel
from .architecture import architecture, check_chip
from .logits import finds_tokens
from .numbers import padded
from .step import Run, Step
from .template import Template

__all__ = ["ChipDecoder", "StepRun"]

#: Tokens of a prompt that are taken at a time, where there is room for them.
_MOST_ROWS = 32


@dataclass(frozen=True)
class StepRun:
    """A step that has run: its program, the bytes that any schedule would have moved, and how it went."""
    step: Step
    template: Template
    compulsory_bytes: int
    result: Result


class ChipDecoder:
    """A model on a device, with a cache for `sequences` sequences of at most `context` positions each.

    Parameters
    ----------
    model : LlamaModel, or a DeepSeekModel as it is stored, quantized
    device : Device
    context, sequences : int
    rows : int
        Tokens of a prompt that are taken at a time; fewer where the chip has no room for so many.
    weights : format of a Llama model's weights; None: int8

    Attributes
    ----------
    shape : padded sizes
    memory : BaseMemory
    chosen : dict of int
        Of each sequence, the number of its last largest logit; if the chip has `top_k` and `indices`.
    cycles, bytes, compulsory_bytes : int
        Of all steps so far: clock cycles, bytes that moved, and the least that any schedule would have moved.
    last : StepRun or None
        The last of these steps.

    Raises
    ------
    CompileError
        The chip cannot do it, or has too little scratchpad or memory.
    """

    def __init__(self, model: LlamaModel | DeepSeekModel, device: Device, context: int, sequences: int = 1,
                 rows: int = _MOST_ROWS, weights: str | None = None):
        config = arguments.instance("device", device, Device).config
        kind = self._architecture = architecture(model, weights)
        check_chip(config, model, weights)
        self._device, self.shape, self._layers = device, kind.shape, model.config.layers
        self._vocabulary = model.config.vocabulary
        self.context = arguments.integer("context", context, 1, model.config.context)
        self._lengths = [0] * arguments.integer("sequences", sequences, 1)
        self._rows = arguments.integer("rows", rows, 1)
        span = padded(self.context)
        most = self._most = max(rows, sequences)
        self.memory = kind.memory(config, span, sequences, most)
        self._scratch = self.memory.region(kind.scratch_bytes(most, span))
        # The longest step of one token needs the most of its kind.
        kind.program(config, self.memory, Step((Run(0, self.context - 1),), 1), self._scratch)
        self._program = self.memory.region(0).base
        self._check_memory(self._program)
        self._image = np.concatenate([self.memory.image_of(model),
                                      np.zeros(self._program - self.memory.constant, np.uint8)])
        #: The program of the last step, by its kind.
        self._templates: dict[Hashable, Template] = {}
        self.chosen: dict[int, int] = {}
        self.cycles = self.bytes = self.compulsory_bytes = 0
        self.last: StepRun | None = None

    def _check_memory(self, needed: int) -> None:
        device = self._device
        there = min(1 << device.config.address_width, device.memory_limit or 1 << 64)
        needed = -(-needed // PAGE) * PAGE
        if needed > there:
            raise CompileError(f"the model with a step's program needs {needed} bytes of memory at {self.context} "
                               f"positions; the device has {there}: choose a smaller model or a shorter text")

    def _check_step(self, step: Step, tokens: Sequence[int]) -> None:
        if len(tokens) != step.rows or not tokens:
            raise ValueError(f"tokens must be {step.rows}, at least one, not {len(tokens)}")
        if step.rows > self._most:
            raise ValueError(f"a step must have at most {self._most} tokens, not {step.rows}")
        for run in step.runs:
            arguments.integer("sequence", run.sequence, 0, len(self._lengths) - 1)
            arguments.integer("position", run.position, 0)
            self._check(tokens, run.position, step.length)

    def prefill(self, tokens: Sequence[int], sequence: int = 0) -> np.ndarray:
        """float32 [vocabulary]: the logits after the last of `tokens`, with which the sequence goes on."""
        arguments.integer("the number of tokens", len(tokens), 1)
        sequence = arguments.integer("sequence", sequence, 0, len(self._lengths) - 1)
        self._check(tokens, self._lengths[sequence], len(tokens))
        logits, start = np.empty(0), 0
        while start < len(tokens):
            some = tokens[start:start + self._rows]
            try:
                is_last = start + len(some) == len(tokens)
                logits = self.run(Step((Run(sequence, self._lengths[sequence]),), len(some), is_last), some)[0]
                start += len(some)
            except CompileError:        # no room for so many at once
                if self._rows == 1:
                    raise
                self._rows //= 2
        return logits

    def step(self, token: int) -> np.ndarray:
        """float32 [vocabulary]: the logits after one more token."""
        return self.prefill([token])

    def steps(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """float32 [vocabulary] each: the logits after one more token of each of some sequences, all in one step
        where there is room for it.
        """
        numbers = list(tokens)
        if not numbers:
            return {}
        for number in numbers:
            arguments.integer("sequence", number, 0, len(self._lengths) - 1)
        step = Step(tuple(Run(number, self._lengths[number]) for number in numbers), 1)
        try:
            return dict(zip(numbers, self.run(step, list(tokens.values())), strict=True))
        except CompileError:
            if len(numbers) == 1:
                raise
        halves = (numbers[:len(numbers) // 2], numbers[len(numbers) // 2:])
        return {number: logits for half in halves
                for number, logits in self.steps({number: tokens[number] for number in half}).items()}

    def run(self, step: Step, tokens: Sequence[int]) -> np.ndarray:
        """float32 [runs, vocabulary]: the logits after the last token of each run; or [runs, 0] of a step without.

        Raises
        ------
        CompileError
            The step does not fit the chip's scratchpad.
        DeviceError
            The program ended in an error.
        """
        self._check_step(step, tokens)
        config = self._device.config
        kind = step.kind(config.columns)
        template = self._templates.get(kind)
        if template is None:
            self._templates.clear()
            template = self._architecture.program(config, self.memory, step, self._scratch).template()
            self._templates[kind] = template
        self._check_memory(self._program + template.code.size)
        words = template.indices(step, tokens, config.columns)
        self._put(self.memory.indices.base, words.view(np.uint8))
        self._put(self._program, template.with_indices(words).reshape(-1))
        result = self._device.run(Job(
            self._image, self._program, len(template.code), constant=self.memory.constant,
            kind=(self.shape, self.memory.context, self.memory.sequences, kind)))
        self.cycles += result.cycles or 0
        self.bytes += template.moved + template.code.size
        self.last = StepRun(step, template, self.memory.compulsory_bytes(step), result)
        self.compulsory_bytes += self.last.compulsory_bytes
        for run in step.runs:
            self._lengths[run.sequence] = run.position + step.length
        if not step.logits:
            return np.empty((len(step.runs), 0), np.float32)
        if finds_tokens(config):
            first = self.memory.tokens.address(0)
            found = self._image[first:first + 4 * len(step.runs)].view(np.uint32)
            self.chosen |= {run.sequence: int(token) for run, token in zip(step.runs, found, strict=True)}
        table = self.memory.logits
        logits = self._image[table.address(0):table.address(len(step.runs))].view(np.float32)
        return logits.reshape(len(step.runs), -1)[:, :self._vocabulary].copy()

    def _put(self, address: int, data: np.ndarray) -> None:
        """Write into memory, which grows if it has to."""
        end = -(-(address + len(data)) // PAGE) * PAGE
        if len(self._image) < end:
            self._image = np.concatenate([self._image, np.zeros(end - len(self._image), np.uint8)])
        self._image[address:address + len(data)] = data

    def _check(self, tokens: Sequence[int], position: int, count: int) -> None:
        for token in tokens:
            arguments.integer("tokens", token, 0, self._vocabulary - 1)
        if position + count > self.context:
            raise ValueError(f"{count} tokens after {position} are beyond the context of {self.context} positions")

    def close(self) -> None:
        """Close the device."""
        self._device.close()
