"""Operands' lines to words, cycle by cycle: tables, words, bytes, a word for all, and indices."""

from collections import deque
from itertools import count

import cocotb

from kiwicha import ChipConfig
from kiwicha.isa import TABLE_WORDS
from kiwicha.timing import READ_LATENCY, steps
from kiwicha.vector.operand_words import OperandWords
from kiwicha.vector.shapes import tag_layout
from kiwicha.vector.tables import table_write
from tb import harness
from tb.harness import cycles, port
from tb.mutation import Invisible, mutated_bench

CONFIG = ChipConfig(name="words", rows=4, columns=14, bus_width=64, vector_lanes=2, scratchpad_banks=2,
                    bank_lines=64, accumulator_lines=64, functions=True)
LANES, WORDS = CONFIG.vector_lanes, CONFIG.line_bytes // 4
_RUNS = count()
TAG, WRITE = tag_layout(CONFIG), table_write()


def expected(tables, tag, a_line, b_line):
    """Words of A and of B for each lane: of BF16 numbers the upper halves."""
    step = tag["step"]
    words, halves = ([[int.from_bytes(line[at:at + size], "little") for at in range(0, len(line), size)]
                      for line in (a_line, b_line)] for size in (4, 2))
    a, b = [], []
    for lane in range(LANES):
        byte = step * LANES + lane
        slot, half_slot = byte % WORDS, byte % (2 * WORDS)
        b_word = (words[1][0] if tag["b_row"] else halves[1][half_slot] << 16 if tag["b_half"] else
                  words[1][slot])
        off = (b_word & 255 if tag["b_words"] else b_line[byte]) if tag["index"] else 0
        code = a_line[byte]
        a.append(halves[0][half_slot] << 16 if tag["a_half"] else words[0][slot] if tag["a_words"] else
                 (code - 256 * (code > 127)) % (1 << 32) if tag["a_bytes"] else tables[0][(code - off) % 256])
        b.append(b_word if tag["b_words"] else tables[1][b_line[byte]])
    return a, b


async def fill(dut, random):
    """Load both tables with random words, each alone and in any order; gives them."""
    tables = [[0] * TABLE_WORDS, [0] * TABLE_WORDS]
    places = [(table, address) for table in range(2) for address in range(TABLE_WORDS)]
    # Other words each time, lest those of a run before are right.
    other = next(_RUNS)
    for table, address in random.sample(places, len(places)):
        tables[table][address] = random.getrandbits(32) ^ other
        port(dut, "table").value = harness.pack(WRITE, {"enable": 1 << table, "address": address,
                                                        "data": tables[table][address]})
        await cycles(dut, 1)
    port(dut, "table").value = harness.pack(WRITE, {"enable": 0, "address": 3, "data": 5})
    await cycles(dut, 3)
    return tables


def unpacked(value):
    return [int(value) >> 32 * lane & 0xFFFFFFFF for lane in range(LANES)]


@cocotb.test()
async def every_kind_of_operand(dut):
    await harness.start(dut)
    random = harness.rng("operand words")
    port(dut, "read").value = 0
    tables, due = await fill(dut, random), deque([None] * READ_LATENCY)
    for _ in range(1200):
        read = random.random() < 0.8
        tag = {name: random.getrandbits(1) for name in ("b_words", "b_row", "index", "a_words")}
        tag |= {"step": random.randrange(steps(CONFIG)),
                "a_bytes": int(not tag["a_words"] and random.random() < 0.5)}
        tag["b_row"] &= tag["b_words"]
        tag["a_half"] = tag["a_words"] & random.getrandbits(1)
        # There is no index in BF16, nor one for all columns.
        tag["b_half"] = tag["b_words"] & ~tag["b_row"] & ~tag["index"] & random.getrandbits(1)
        a_line, b_line = (random.randbytes(CONFIG.line_bytes) for _ in range(2))
        port(dut, "read").value = int(read)
        port(dut, "tag").value = harness.pack(TAG, dict.fromkeys(TAG.members, 0) | tag)
        port(dut, "a_line").value, port(dut, "b_line").value = (int.from_bytes(line, "little")
                                                                for line in (a_line, b_line))
        await cycles(dut, 1)
        due.append(expected(tables, tag, a_line, b_line) if read else None)
        if (right := due.popleft()) is not None:
            assert (unpacked(port(dut, "a").value), unpacked(port(dut, "b").value)) == right


BENCHES = [mutated_bench(
    "operand_words", lambda: OperandWords(CONFIG), "operand_words.py", module=__name__, invisible=[
        Invisible("table.read.eq(self.read)", "stuck at ones", "what is read for nobody", (0, 4))])]
