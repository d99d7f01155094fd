"""A step's program, for all steps of its kind."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kiwicha.isa import INSTRUCTION_BYTES, LOAD

from ...compiler.program.builder import ProgramBuilder
from .emitter import Indexed, Instruction
from .step import Indices, Step

__all__ = ["Template"]

#: The byte of a transfer at which its address begins.
_ADDRESS = next(field.byte for field in LOAD.fields if field.name == "address")


@dataclass(frozen=True)
class Template:
    """A program, uint8 [instructions, 64]; the bytes that its transfers move; which of its instructions have
    to be given their addresses; the part of the model that each belongs to; and of how many tokens of each run the
    parts of the step are that are taken one after the other.
    """
    code: np.ndarray
    moved: int
    moving: list[tuple[int, Indexed]]
    parts: list[str]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, instructions: Sequence[Instruction], lengths: tuple[int, ...]) -> "Template":
        builder = ProgramBuilder()
        for item in instructions:
            builder.add(item.unit, reads=item.reads, writes=item.writes, **item.fields)
        code = np.frombuffer(builder.assemble(), np.uint8).reshape(-1, INSTRUCTION_BYTES).copy()
        moving = [(number, item.place) for number, item in enumerate(instructions) if item.place is not None]
        return cls(code, sum(item.bytes for item in instructions), moving, [item.part for item in instructions],
                   lengths)

    def indices(self, step: Step, tokens: Sequence[int], columns: int) -> np.ndarray:
        """uint32: the indices of a step of this kind, whose rows have these tokens."""
        words, start = [], 0
        for part in step.cut(self.lengths, columns):
            words.append(Indices(part, columns).words(tokens[start:start + part.rows]))
            start += part.rows
        return np.concatenate(words)

    def with_indices(self, words: np.ndarray) -> np.ndarray:
        """The program of the step whose indices these are."""
        for number, place in self.moving:
            address = place.base + int(words[place.word]) * place.stride
            self.code[number, _ADDRESS:_ADDRESS + 8] = np.frombuffer(address.to_bytes(8, "little"), np.uint8)
        return self.code
