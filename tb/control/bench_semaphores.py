"""The semaphores' arbiter: one grant for one request, and nobody loses for long."""

import cocotb

from kiwicha.control.semaphores import Arbiter
from tb import harness
from tb.harness import Bench, cycles, port

SIZE = 4


async def grants(dut, requests, count):
    """(request, grant) of `count` cycles in which there may be requests; none follow a grant, as promised."""
    await harness.start(dut)
    for _ in range(count):
        request = requests()
        port(dut, "request").value = request
        await cycles(dut, 1)
        yield request, int(port(dut, "grant").value)
        port(dut, "request").value = 0
        await cycles(dut, 1)
        assert port(dut, "grant").value == 0


@cocotb.test()
async def takes_turns(dut):
    """All ask all the time: each is granted every fourth time."""
    order = [grant async for _, grant in grants(dut, lambda: (1 << SIZE) - 1, 10 * SIZE)]
    assert sorted(order[:SIZE]) == [1 << unit for unit in range(SIZE)]
    assert order == order[:SIZE] * 10


@cocotb.test()
@cocotb.parametrize(often=[0.2, 0.5, 0.9])
async def loses_three_times_at_most(dut, often):
    random = harness.rng(often)
    lost = [0] * SIZE

    def requests():
        return sum((random.random() < often) << unit for unit in range(SIZE))

    async for request, grant in grants(dut, requests, 500):
        assert grant & request == grant and grant.bit_count() == bool(request), f"{grant:04b} of {request:04b}"
        for unit in range(SIZE):
            if grant >> unit & 1:
                lost[unit] = 0
            elif request >> unit & 1:
                lost[unit] += 1
        assert max(lost) < SIZE, f"lost {lost} times in a row"


BENCHES = [Bench(name="semaphores_arbiter", build=lambda: Arbiter(SIZE))]
