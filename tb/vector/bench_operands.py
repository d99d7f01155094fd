"""Operands' lines, cycle by cycle: in which order they are asked for, when they come, what is forgotten."""

from collections import deque

import cocotb

from kiwicha import ChipConfig
from kiwicha.timing import READ_LATENCY
from kiwicha.vector.operand_fetch import LINES, ORDERS, OperandFetch
from tb import harness
from tb.harness import cycles, port
from tb.mutation import mutated_bench

CONFIG = ChipConfig(name="operands", rows=4, columns=4, bus_width=128, vector_lanes=2, scratchpad_banks=2,
                    bank_lines=256, accumulator_lines=64, formats=("int8",))
BITS = 8 * CONFIG.line_bytes
#: Cycles from an order to its line.
LINE_COMES = 7


class Fetching:
    """Orders lines, answers, takes them, and knows what may be seen in every cycle; B's orders have bit 15."""

    def __init__(self, dut):
        self.dut, self.random, self.cycle = dut, harness.rng("operand fetch"), 0
        self.answers, self.rooms, self.most = deque([None] * READ_LATENCY), deque([False] * 2), 0
        self.forget()

    def forget(self):
        #: Of each operand: (cycle, address) not asked for, (first cycle, line) to come, and lines held.
        self.ordered, self.due = {"a": deque(), "b": deque()}, {"a": deque(), "b": deque()}
        self.held, self.may_ask = dict.fromkeys("ab", 0), []
        #: Addresses that are offered to the port, or will be next; and whether there was room for another.
        self.asked, self.free = deque(), True

    async def step(self, orders="", ready=True, takes="ab", clear=False):
        """One cycle; gives the names of the operands of which a line was taken."""
        dut, random = self.dut, self.random
        new = {name: random.getrandbits(15) | (name == "b") << 15 for name in orders}
        answer = self.answers.popleft()
        for name in "ab":
            port(dut, f"{name}__valid").value = int(name in new)
            port(dut, f"{name}__payload").value = new.get(name, 0)
            port(dut, f"{name}_line__ready").value = int(name in takes)
        port(dut, "port__valid").value = int(answer is not None)
        port(dut, "port__data").value = random.getrandbits(BITS) if answer is None else answer
        port(dut, "port__request__ready").value, port(dut, "clear").value = int(ready), int(clear)
        await cycles(dut, 1)
        self.cycle += 1
        self._requests(ready)
        for name in "ab":
            assert port(dut, f"{name}__ready").value == (len(self.ordered[name]) < ORDERS)
            assert name not in new or len(self.ordered[name]) < ORDERS, "no room, though there should be"
        room = all(len(orders) < ORDERS - 2 for orders in self.ordered.values())
        assert port(dut, "room").value == room
        self.rooms.append(room)
        # Whoever has fewer lines first, or B; only what was ordered before this cycle, and has room for its line.
        self.may_ask = [name for name in sorted("ba", key=lambda name: self.held[name])
                        if self.ordered[name] and self.held[name] < LINES]
        for name, address in new.items():
            self.ordered[name].append(address)
        taken = [name for name in "ab" if self._line(name, name in takes)]
        if clear:
            self.forget()
        return taken

    def _requests(self, ready):
        if self.free and self.may_ask:
            self.asked.append(self.ordered[self.may_ask[0]].popleft())
            self.held[self.may_ask[0]] += 1
            self.most = max(self.most, min(self.held.values()))
        self.free = len(self.asked) < 2
        assert port(self.dut, "port__request__valid").value == bool(self.asked)
        line = None
        if self.asked:
            assert port(self.dut, "port__request__payload").value == self.asked[0]
            if ready:
                line = self.random.getrandbits(BITS)
                self.due["ab"[self.asked.popleft() >> 15]].append((self.cycle + READ_LATENCY + 2, line))
        self.answers.append(line)

    def _line(self, name, takes):
        due, there = self.due[name], port(self.dut, f"{name}_line__valid").value
        assert there == bool(due and due[0][0] <= self.cycle), f"{name}'s line: {there}"
        if not there:
            return False
        assert port(self.dut, f"{name}_line__payload").value == due[0][1], f"{name}'s line is another one"
        if takes:
            due.popleft()
            self.held[name] -= 1
        return takes


@cocotb.test()
async def lines_come_in_order(dut):
    """Orders, answers and takers of many tempers; cleared at any time."""
    await harness.start(dut)
    env = Fetching(dut)
    for mood in range(24):
        p = {name: env.random.choice((0, 0.3, 0.8, 1)) for name in ("a", "b", "take_a", "take_b")}
        p |= {"ready": env.random.choice((0.1, 0.6, 1, 1)), "clear": env.random.choice((0, 0, 0.1))}
        if mood == 12:      # from nothing on, until nothing fits any more
            await env.step(ready=False, takes="", clear=True)
            p = {"a": 1, "b": 1, "take_a": 0, "take_b": 0, "ready": 1, "clear": 0}
        for _ in range(80):
            does = [name for name in p if env.random.random() < p[name]]
            orders = [name for name in "ab" if name in does and env.rooms[-2]]
            await env.step(orders, "ready" in does, [name for name in "ab" if f"take_{name}" in does],
                           "clear" in does)
    assert env.most == LINES, f"never more than {env.most} lines of both"


@cocotb.test()
async def latency_and_rate(dut):
    await harness.start(dut)
    env = Fetching(dut)
    await cycles(dut, 3)
    came = [await env.step("ab" if cycle < ORDERS - 2 else "") for cycle in range(2 * ORDERS + LINE_COMES)]
    # One in each cycle, of both about in turn.
    lines = "".join(name for names in came for name in names)
    assert [len(names) for names in came] == [0] * LINE_COMES + [1] * len(lines) + [0] * 4, came
    assert lines[0] == "b" and lines.count("a") == lines.count("b") == ORDERS - 2, lines
    assert all(abs(lines[:end].count("a") - lines[:end].count("b")) <= 4 for end in range(len(lines))), lines


BENCHES = [mutated_bench("operand_fetch", lambda: OperandFetch(CONFIG), "operand_fetch.py", module=__name__)]
