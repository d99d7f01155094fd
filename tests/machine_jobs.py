"""Small chips with odd sizes, short instructions for them, and jobs of these."""

from dataclasses import replace

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.isa import Unit
from kiwicha_host import DeviceError, Job
from kiwicha_host.assembler import encode
from kiwicha_host.golden import Machine

# Odd on purpose: rows, columns and lines all differ, and 32-bit results take several lines.
CONFIG = ChipConfig(name="odd", rows=3, columns=6, bus_width=64, scratchpad_banks=4, bank_lines=16,
                    accumulator_lines=32, vector_lanes=1, queue_depth=2)
# With room for the vector unit's tables, and with indices.
SCALED = ChipConfig(name="scaled", rows=4, columns=8, bus_width=64, scratchpad_banks=4, bank_lines=128,
                    accumulator_lines=32, vector_lanes=1, queue_depth=2, formats=("int8", "e2m1"), indices=True)
ROOMY = replace(CONFIG, bank_lines=128)
PROGRAM = 0x4000
SIZE = 0x8000


def make_job(*instructions, memory=None, **options):
    code = np.frombuffer(b"".join(instructions), np.uint8)
    data = np.zeros(SIZE, np.uint8) if memory is None else memory.copy()
    data[PROGRAM:PROGRAM + len(code)] = code
    return Job(memory=data, program_address=PROGRAM, program_count=len(instructions), **options)


def error_of(*instructions, machine=None, **options):
    with pytest.raises(DeviceError) as caught:
        (machine or Machine(CONFIG)).run(make_job(*instructions, **options))
    error = caught.value
    assert "\n" not in str(error) and error.code.name in str(error)
    return error.code, error.unit, error.index, error.address


def load(**fields):
    return encode(Unit.LOAD, **{"row_bytes": 8, "rows": 1, "planes": 1, "segment_bytes": 8} | fields)


def store(**fields):
    return encode(Unit.STORE, **{"row_bytes": 8, "rows": 1, "planes": 1, "segment_bytes": 8} | fields)


def matmul(**fields):
    return encode(Unit.MATMUL, **{f"count{i}": 1 for i in range(4)} | fields)


def vector(**fields):
    return encode(Unit.VECTOR, **{f"count{i}": 1 for i in range(4)} | fields)
