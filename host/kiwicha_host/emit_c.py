"""A model's run as C, for hosts without Python or an operating system: driver, memory image and a main."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .assembler import c_header
from .compiler import CompileError
from .compiler.model import ChipPart, CompiledModel, first_cause
from .devices import open_device

__all__ = ["DRIVER", "c_sources"]

#: The driver's files, beside the generated ``kiwicha.h``.
DRIVER = ("kiwicha_driver.h", "kiwicha_driver.c")
_FOLDER = Path(__file__).with_name("driver")

_MODEL_H = """\
/* {name}: {images} images for configuration {config}. */
#ifndef KIWICHA_MODEL_H
#define KIWICHA_MODEL_H

#include "kiwicha_driver.h"

#ifdef __cplusplus
extern "C" {{
#endif

/* Weights, program and input, as they are before the run. */
extern kiwicha_job kiwicha_model;

/* Where the results are in its memory after the run, and what they have to be. Of each output, in bytes:
 *
{outputs}
 */
#define KIWICHA_MODEL_RESULTS {base}u
#define KIWICHA_MODEL_RESULTS_BYTES {size}u
extern const uint8_t kiwicha_model_expected[KIWICHA_MODEL_RESULTS_BYTES];

#ifdef __cplusplus
}}
#endif

#endif
"""
_MODEL_C = """\
#include "kiwicha_model.h"

#ifdef __cplusplus
#define PAGE_ALIGNED alignas(4096)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define PAGE_ALIGNED _Alignas(4096)
#else
#define PAGE_ALIGNED __attribute__((aligned(4096)))
#endif

PAGE_ALIGNED static uint8_t memory[{bytes}u] = {{
{memory}
}};

kiwicha_job kiwicha_model = {{memory, {bytes}u, {program}u, {instructions}u}};

const uint8_t kiwicha_model_expected[KIWICHA_MODEL_RESULTS_BYTES] = {{
{expected}
}};
"""
_MAIN_C = """\
/* Runs the model once and looks at its results: 0 if they are right. */
#include "kiwicha_model.h"

#ifndef KIWICHA_REGISTERS
#error "define KIWICHA_REGISTERS as the address at which the chip's registers are mapped"
#endif
#ifndef KIWICHA_PATIENCE /* how often to look whether the run has ended */
#define KIWICHA_PATIENCE UINT64_C(1000000000)
#endif

int main(void)
{
    kiwicha_chip chip;
    uint32_t i;
    chip.registers = (volatile uint32_t *)KIWICHA_REGISTERS;
    if (kiwicha_check(&chip))
        return 1; /* no chip there */
    kiwicha_relocate(&kiwicha_model);
    if (kiwicha_start(&chip, &kiwicha_model))
        return 2; /* it is busy */
    switch (kiwicha_wait(&chip, KIWICHA_PATIENCE)) {
    case KIWICHA_RUNNING:
        kiwicha_abort(&chip);
        return 3;
    case KIWICHA_FAILED:
        return 16 + (int)kiwicha_error(&chip).code;
    }
    kiwicha_acknowledge(&chip);
    KIWICHA_FLUSH(kiwicha_model.memory, kiwicha_model.bytes);
    for (i = 0; i < KIWICHA_MODEL_RESULTS_BYTES; i++)
        if (kiwicha_model.memory[KIWICHA_MODEL_RESULTS + i] != kiwicha_model_expected[i])
            return 4; /* a wrong result */
    return 0;
}
"""


def c_sources(model: CompiledModel, inputs: Mapping[str, Any], name: str = "model") -> dict[str, str]:
    """Texts by file name: driver, model and main of one run with `inputs`, and the results that it has to have.

    The inputs are in the memory image as the chip takes them, and the results are [images, height, width,
    channels] of int8 codes, a product's float32 numbers or its int32 sums (of ArgMax and TopK, bytes of FP32
    numbers and then of uint32 places), perhaps between those of other outputs: what a host does before and after
    (QuantizeLinear, transposes) is not in the program.

    Raises
    ------
    CompileError
        The model needs the host in between, or an input is wrong.
    """
    model.check(inputs)
    host = [row for row in model.placement if row.place == "host"]
    part = model.parts[0] if len(model.parts) == 1 else None
    if host or not isinstance(part, ChipPart):
        what = f"it is {len(model.parts)} programs"
        if host:
            first = first_cause(host)
            what = f"{first.op} {first.node!r} runs on the host: {first.cause}"
        raise CompileError(f"only a model that is one program can be written as C; {what}")
    job = part.network.batch_job({name: np.asarray(inputs[name]) for name in part.network.inputs})
    before, region = job.memory.copy(), part.network.output_region(job.images)
    with open_device("golden", model.config) as device:
        device.run(job)
    texts = {item: (_FOLDER / item).read_text(encoding="utf-8") for item in DRIVER}
    return texts | {
        "kiwicha.h": c_header(), "main.c": _MAIN_C,
        "kiwicha_model.h": _MODEL_H.format(
            name=name.replace("*/", ""), images=job.images, config=model.config.name,
            outputs="\n".join(_outputs(model, part, job.images)), base=region.base, size=region.size),
        "kiwicha_model.c": _MODEL_C.format(
            bytes=len(before), memory="\n".join(_bytes(before)), program=job.program_address,
            instructions=job.program_count, expected="\n".join(_bytes(job.memory[region.base:region.end])))}


def _outputs(model: CompiledModel, part: ChipPart, images: int) -> Iterator[str]:
    """What is where: a line for each output, in the model's order."""
    layouts = part.network.output_layouts(images)
    for name in model.outputs:
        address, element, shape, strides = layouts[name]
        yield (f" *   {name.replace('*/', '')}: {element} {list(shape)}, [image, y, x, channel], at {address}, "
               f"strides {list(strides)}")


def _bytes(data: np.ndarray) -> Iterator[str]:
    """Lines of an initialiser."""
    for start in range(0, len(data), 32):
        yield ",".join(map(str, data[start:start + 32].tolist())) + ","
