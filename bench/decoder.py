"""What a language model's decoder takes on chips of several sizes: ``python -m bench.decoder``.

By the cycle model, for the sizes of SmolLM2-135M; no weights are needed. All layers are alike, but for the first
ones of a prompt's two halves, so that those of the whole follow from programs of four and of six layers.
"""

import dataclasses
import functools
from typing import NamedTuple

from kiwicha import ChipConfig
from kiwicha_host.compiler import CompileError
from kiwicha_host.cycles import predict
from kiwicha_host.language.decoder import Run, Step
from kiwicha_host.language.decoder.memory import DecoderMemory
from kiwicha_host.language.decoder.program import StepProgram, scratch_bytes
from kiwicha_host.language.decoder.scratchpad import ring_chunk
from kiwicha_host.language.decoder.shape import DecoderShape
from kiwicha_host.language.decoder.template import Template
from kiwicha_host.language.generate import macs
from kiwicha_host.language.model import LlamaConfig
from kiwicha_host.memory_latency import MEMORY_LATENCY

__all__ = ["CHIPS", "MODEL", "Taken", "step_program", "take", "take_prompt"]

MODEL = LlamaConfig(layers=30, width=576, heads=9, kv_heads=3, head_size=64, ffn=1536, vocabulary=49152,
                    context=8192, rope_base=100000., tied_head=True)
_WIDE = ChipConfig.preset("wide")
#: Chips by what is said of them; what is not is the preset's.
CHIPS = {"small": ChipConfig.preset("small"), "wide": _WIDE,
         "wide, bus of 64 bits": dataclasses.replace(_WIDE, name="narrow", bus_width=64),
         "wide, 8x8": dataclasses.replace(_WIDE, name="eight", rows=8, columns=8),
         "wide, 32x32": dataclasses.replace(_WIDE, name="large", rows=32, columns=32, vector_lanes=8)}
#: (tokens at a time, position of the first): decoding early and late, and prompts.
STEPS = ((1, 31), (1, 1023), (16, 112), (32, 96))
_FEW = (4, 6)
#: A whole prompt's tokens, and how many are taken at a time.
PROMPT, AT_ONCE = 128, 32


class Taken(NamedTuple):
    """Cycles of a step, bytes that it moves, and multiply-accumulates of the model."""
    cycles: int
    bytes: int
    macs: int


def take(config: ChipConfig, model: LlamaConfig, tokens: int, position: int, latency: int = MEMORY_LATENCY,
         logits: bool = True) -> Taken:
    """A step of `tokens` tokens of one sequence, the first at `position`, with memory of `latency` cycles; with or
    without logits of the last.

    Raises
    ------
    CompileError
        It does not fit the chip.
    """
    few, more = (_layers(config, dataclasses.replace(model, layers=layers), tokens, position, latency, logits)
                 for layers in _FEW)
    steps, each = model.layers - _FEW[0], _FEW[1] - _FEW[0]
    cycles, moved = (a + (b - a) * steps // each for a, b in zip(few, more, strict=True))
    head = model.width * model.vocabulary
    before = macs(model, position, 0) - head if position else 0
    everything = macs(model, position + tokens, 0) - before - (0 if logits else head)
    return Taken(cycles, moved, everything)


def take_prompt(config: ChipConfig, model: LlamaConfig, tokens: int, at_once: int) -> Taken:
    """A prompt of `tokens` tokens, so many at a time."""
    steps = [take(config, model, min(at_once, tokens - start), start, logits=start + at_once >= tokens)
             for start in range(0, tokens, at_once)]
    return Taken(*map(sum, zip(*steps, strict=True)))


@functools.lru_cache(maxsize=4)
def step_program(config: ChipConfig, model: LlamaConfig, tokens: int, position: int, logits: bool = True
                 ) -> tuple[Template, int]:
    """The step's program, and its address, where the memory that it works on ends. All tokens are number 0.

    Raises
    ------
    CompileError
        It does not fit the chip.
    """
    shape, step = DecoderShape(model), Step((Run(0, position),), tokens, logits)
    memory = DecoderMemory(config, shape, step.most_span, 1, tokens, ring_chunk(config, shape))
    scratch = memory.region(scratch_bytes(shape, tokens, step.most_span))
    template = StepProgram(config, memory, step, scratch).template()
    template.with_indices(template.indices(step, [0] * tokens, config.columns))
    return template, memory.region(0).base


def _layers(config: ChipConfig, model: LlamaConfig, tokens: int, position: int, latency: int, logits: bool
            ) -> tuple[int, int]:
    template, address = step_program(config, model, tokens, position, logits)
    code = template.code.tobytes()
    return predict(config, code, latency=latency, address=address).cycles, template.moved + len(code)


def main() -> None:
    print("chip                 | tokens at | million cycles | tokens per    | of the | of the\n"
          "                     | position  | a token        | million cycles | bus    | array")
    for name, config in CHIPS.items():
        for tokens, position in STEPS:
            try:
                taken = take(config, MODEL, tokens, position)
            except CompileError:
                print(f"{name:20} | {tokens:2} at {position:4} | does not fit", flush=True)
                continue
            _show(name, f"{tokens:2} at {position:4}", config, tokens, taken)
    _show("wide", f"{PROMPT}, by {AT_ONCE}", _WIDE, PROMPT, take_prompt(_WIDE, MODEL, PROMPT, AT_ONCE))


def _show(name: str, what: str, config: ChipConfig, tokens: int, taken: Taken) -> None:
    print(f"{name:20} | {what:10} | {taken.cycles / tokens / 1e6:14.2f} | "
          f"{tokens / taken.cycles * 1e6:14.3f} | {taken.bytes / config.bus_bytes / taken.cycles:6.2f} | "
          f"{taken.macs / config.peak_macs_per_cycle / taken.cycles:6.2f}", flush=True)


if __name__ == "__main__":
    main()
