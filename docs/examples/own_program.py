"""A program by hand: LOAD and STORE copy a matrix and leave its padding behind.

    .venv/bin/python docs/examples/own_program.py [golden|verilated|serial:PORT] [CONFIG]
"""

import sys

import numpy as np

from kiwicha.isa import INSTRUCTION_BYTES, Unit
from kiwicha_host import Job, open_device
from kiwicha_host.assembler import disassemble
from kiwicha_host.compiler.program.builder import ProgramBuilder

device_name, config = (*sys.argv[1:], *("golden", "tiny")[len(sys.argv) - 1:])
ROWS, WIDTH, PITCH = 10, 6, 32          # 10 rows of 6 bytes, 32 bytes apart
SOURCE, TARGET, PROGRAM, SIZE = 0, 1024, 2048, 4096

with open_device(device_name, config) as device:
    assert device.config.line_bytes >= WIDTH
    builder = ProgramBuilder()
    transfer = {"row_bytes": WIDTH, "rows": ROWS, "planes": 1, "segment_bytes": WIDTH, "line": 0,
                "row_line_stride": 1}
    # Who reads and writes what is all that the builder needs to know: semaphores follow from it.
    builder.add(Unit.LOAD, writes=["lines"], address=SOURCE, row_stride=PITCH, **transfer)
    builder.add(Unit.STORE, reads=["lines"], address=TARGET, row_stride=WIDTH, **transfer)
    program = builder.assemble()

    memory = np.zeros(SIZE, np.uint8)
    memory[SOURCE:SOURCE + ROWS * PITCH] = np.arange(ROWS * PITCH, dtype=np.uint8)
    memory[PROGRAM:PROGRAM + len(program)] = np.frombuffer(program, np.uint8)
    for start in range(0, len(program), INSTRUCTION_BYTES):
        print(disassemble(program[start:start + INSTRUCTION_BYTES]))
    result = device.run(Job(memory, PROGRAM, len(program) // INSTRUCTION_BYTES))
    print(f"{result.cycles} cycles")

    rows = memory[SOURCE:SOURCE + ROWS * PITCH].reshape(ROWS, PITCH)[:, :WIDTH]
    assert (memory[TARGET:TARGET + ROWS * WIDTH].reshape(ROWS, WIDTH) == rows).all()
