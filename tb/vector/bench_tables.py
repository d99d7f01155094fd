"""The loader of tables, cycle by cycle: requests, words, lines that do not exist, cleared at any time."""

from collections import deque

import cocotb

from kiwicha import ChipConfig
from kiwicha.isa import TABLE_WORDS
from kiwicha.timing import READ_LATENCY
from kiwicha.vector.tables import TableLoader
from tb import harness
from tb.harness import cycles, port
from tb.mutation import Invisible, mutated_bench

CONFIG = ChipConfig(name="tables", rows=4, columns=4, bus_width=128, vector_lanes=2, scratchpad_banks=2,
                    bank_lines=256, accumulator_lines=64, formats=("int8",))
BITS, WORDS, LAST = 8 * CONFIG.line_bytes, CONFIG.line_bytes // 4, CONFIG.scratchpad_lines - 1
#: Cycles from `start` to the first word.
WORD_COMES = 6


class Loading:
    """One load from its start on, and what may be seen in every cycle of it."""

    def __init__(self, dut, random, wanted, first):
        self.dut, self.random, self.wanted, self.first = dut, random, wanted, first
        tables = [table for table in range(2) if wanted >> table & 1]
        self.places = deque((1 << table, word) for table in tables for word in range(TABLE_WORDS))
        self.lines = deque(range(first, first + len(self.places) // WORDS))
        #: What comes, and what is there; the cycle from which on a line may be asked for.
        self.answers, self.words, self.may_ask = deque([None] * (READ_LATENCY + 1)), deque(), 1
        self.cycle, self.running, self.failed = 0, False, False

    async def step(self, ready=True, clear=False):
        dut, random, starts = self.dut, self.random, self.cycle == 0
        line = self.answers.popleft()
        # Lines that nobody here asked for come as well, but not to a load.
        stray = line is None and not self.running and random.random() < 0.3
        data = random.getrandbits(BITS) if line is None else line
        for name, value in (("start", starts), ("clear", clear), ("request__ready", ready), ("line", data),
                            ("arrived", line is not None or stray), ("wanted", self.wanted),
                            ("first", self.first)):
            port(dut, name).value = int(value)
        await cycles(dut, 1)
        self._words()
        assert port(dut, "busy").value == (self.running and not self.failed and bool(self.places))
        assert port(dut, "failed").value == self.failed
        if self.words:
            self.words.popleft()
            self.places.popleft()
        self._requests(ready)
        if self.running and line is not None:
            self.words.extend(line >> 32 * word & 0xFFFFFFFF for word in range(WORDS))
        self.cycle, self.running = self.cycle + 1, self.running or starts
        if clear:
            self.words.clear()
            self.running = self.failed = False

    def _words(self):
        write = port(self.dut, "write").value
        if not self.words:
            assert write & 3 == 0, f"cycle {self.cycle}: a word out of nowhere"
            return
        got = write & 3, write >> 2 & TABLE_WORDS - 1, write >> 10
        assert got == (*self.places[0], self.words[0]), f"cycle {self.cycle}: {got}"

    def _requests(self, ready):
        exists = bool(self.lines) and self.lines[0] <= LAST
        asks = self.running and exists and self.cycle >= self.may_ask
        assert port(self.dut, "request__valid").value == asks, f"cycle {self.cycle}: it asks, or does not"
        if asks or self.failed:
            assert port(self.dut, "request__payload" if asks else "address").value == self.lines[0]
        self.failed |= self.running and bool(self.lines) and not exists
        if asks and ready:
            self.lines.popleft()
            self.may_ask = self.cycle + WORDS
        self.answers.append(self.random.getrandbits(BITS) if asks and ready else None)

    async def run(self, p_ready=1.0, stop=None):
        """To the end of the load, or to a `clear` in cycle `stop`, and on; gives the cycles that it took."""
        took = None
        while took is None or self.cycle < took + 4 * WORDS:
            await self.step(self.random.random() < p_ready, self.cycle == stop)
            if took is None and (stop is None or self.cycle > stop) and (
                    not self.running or self.failed or not self.places):
                took = self.cycle
        return took


@cocotb.test()
async def a_word_a_cycle(dut):
    await harness.start(dut)
    random = harness.rng("tables")
    for wanted, first in ((2, 5), (1, LAST + 1 - TABLE_WORDS // WORDS), (3, 0)):
        took = await Loading(dut, random, wanted, first).run()
        assert took == WORD_COMES + TABLE_WORDS * wanted.bit_count(), f"{took} cycles"


@cocotb.test()
async def busy_port(dut):
    await harness.start(dut)
    random = harness.rng("tables")
    for wanted, p_ready in ((3, 0.4), (1, 0.1)):
        await Loading(dut, random, wanted, random.randrange(LAST // 2)).run(p_ready)


@cocotb.test()
async def missing_lines_and_clear(dut):
    """Lines that do not exist, from the first one on or later; cleared at any time, then or before."""
    await harness.start(dut)
    random = harness.rng("tables")
    for stop in (*range(16), 40, 41, 42, 43, 44):
        for first in (random.randrange(LAST // 2), LAST - random.randrange(5), LAST + 1, 0xFFFF):
            await Loading(dut, random, random.choice((1, 2, 3)), first).run(random.choice((1, 0.5)), stop)


BENCHES = [mutated_bench("tables", lambda: TableLoader(CONFIG), "tables.py", module=__name__, invisible=[
    Invisible("left.eq(left - 1)", "- -> +", "a line is half of what `left` counts to: 0 after as many", (0,)),
])]
