"""Dispatch, which holds no state: whatever is on its inputs, to its outputs by the tables of the ISA."""

import cocotb

from kiwicha.control.check import Verdict
from kiwicha.control.dispatch import Dispatch
from kiwicha.control.fetch import Fetched
from kiwicha.control.issue_queue import issue_entry
from kiwicha.control.unit import ErrorReport
from kiwicha.isa import INSTRUCTIONS, Activity, ErrorCode, Unit
from tb import harness
from tb.harness import cycles, pack, port, unpack
from tb.mutation import mutated_bench

UNITS = list(INSTRUCTIONS)


def number(value):
    return getattr(value, "value", value)


@cocotb.test()
async def routes_and_tells(dut):
    await harness.start(dut)
    random = harness.rng("dispatch")
    for _ in range(500):
        bits, index = random.getrandbits(512), random.getrandbits(24)
        chosen = random.choice((None, *range(len(UNITS))))
        kind = random.choice((Verdict.Kind.OPCODE, Verdict.Kind.RESERVED)) if chosen is None else Verdict.Kind.OKAY
        verdict = {"kind": kind, "unit": random.choice(list(Unit)), "number": random.getrandbits(9)}
        valid, running, all_done = (int(random.random() < p) for p in (0.8, 0.8, 0.2))
        ready = [random.getrandbits(1) for _ in UNITS]
        port(dut, "i__valid").value = valid
        port(dut, "i__payload").value = pack(Fetched, bits=bits, verdict=verdict,
                                             to=0 if chosen is None else 1 << chosen)
        for name, value in (("index", index), ("running", running), ("all_done", all_done)):
            port(dut, name).value = value
        for unit, value in zip(UNITS, ready, strict=True):
            port(dut, f"{unit.name.lower()}__ready").value = value
        await cycles(dut, 1)
        for place, unit in enumerate(UNITS):
            name = unit.name.lower()
            assert port(dut, f"{name}__valid").value == (valid and place == chosen), unit
            entry = unpack(issue_entry(unit), int(port(dut, f"{name}__payload").value))
            assert entry["wait"] == bits >> 32 & 0xFFFF and entry["signal"] == bits >> 48 & 0xFFFF
            assert entry["unit"].pop("index") == index
            for item in INSTRUCTIONS[unit].fields:
                mask = (1 << item.width) - 1
                assert number(entry["unit"][item.name]) & mask == bits >> item.offset & mask, item.name
        moves = chosen is not None and ready[chosen]
        assert port(dut, "i__ready").value == int(moves)
        progress = int(valid and moves)
        assert port(dut, "progress").value == progress
        error = unpack(ErrorReport, int(port(dut, "error").value))
        assert error["valid"] == int(valid and chosen is None)
        if error["valid"]:
            code = ErrorCode.OPCODE if kind == Verdict.Kind.OPCODE else ErrorCode.RESERVED
            assert error == {"valid": 1, "code": code, "index": index, "address": verdict["number"]}
            assert int(port(dut, "error_unit").value) == verdict["unit"].value
        activity = Activity.IDLE if not running or all_done else Activity.BUSY if progress else \
            Activity.QUEUE if valid else Activity.MEMORY
        assert int(port(dut, "activity").value) == activity.value


BENCHES = [mutated_bench("dispatch", Dispatch, "dispatch.py", module=__name__)]
