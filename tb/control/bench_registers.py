"""The control unit's registers: resets, access, strobes, locks, and both AXI4-Lite channels in any order."""

import cocotb

from kiwicha.bus.axi import Resp
from kiwicha.isa import REGISTERS, Access
from tb import harness
from tb.control.environment import HOST, UNITS, ControlEnv, benches
from tb.harness import bounded, cycles, port

LOAD, MATMUL, VECTOR, STORE = UNITS


@cocotb.test()
async def register_resets(dut):
    """Every register reads what it should after reset; everything else is no register."""
    world = await ControlEnv.make(dut)
    config = world.config
    high = (1 << config.address_width - 32) - 1
    expected = dict.fromkeys(REGISTERS, 0) | {
        "ID": 0x4B495749, "VERSION": 0x20005,
        "FEATURES": config.functions | config.block_scales << 1 | config.indices << 2 | config.top_k << 3,
        "ACCUMULATOR": config.accumulator_lines,
        # A bit for each format, in the order that the ISA gives them.
        "FORMATS": sum(1 << ("int8", "int4", "e4m3", "e3m2", "e2m3", "e2m1").index(name)
                       for name in config.formats),
        "ARRAY": config.rows | config.columns << 8 | config.vector_lanes << 16 | config.line_bytes << 24,
        "BUS": config.bus_width // 8 | config.address_width << 8 | config.reads_in_flight << 16
        | config.writes_in_flight << 24,
        "SCRATCHPAD": config.bank_lines | config.scratchpad_banks << 16 | config.queue_depth << 24,
        "WINDOW_FIRST_LOW": 0xFFFF_F000, "WINDOW_FIRST_HIGH": high, "WINDOW_LAST_LOW": 0xFFF,
        "WATCHDOG": 1 << 20}
    port(dut, "rst").value = 1
    await cycles(dut, 2)
    port(dut, "rst").value = 0
    await cycles(dut, 2)
    assert len(REGISTERS) == len({register.offset for register in REGISTERS.values()})
    names = {register.offset: name for name, register in REGISTERS.items()}
    for offset in range(0, 4096, 4):
        answer = await bounded(world.host.read(offset, 4), 30)
        value = int.from_bytes(answer.data, "little")
        if offset in names:
            assert int(answer.resp) == 0 and value == expected[names[offset]], f"{names[offset]}: {value:#x}"
        elif offset < 0x200 or world.random.random() < 0.1:
            assert int(answer.resp) == Resp.SLVERR.value and value == 0
    pages = config.address_width - 12
    assert int(port(dut, "window").value) == (1 << pages) - 1


@cocotb.test()
async def register_writes(dut):
    """Access, strobes, bits that do not exist; a refused write changes nothing."""
    world = await ControlEnv.make(dut)
    random, host = world.random, world.host
    high = (1 << world.config.address_width - 32) - 1
    plain = {"PROGRAM_LOW": 0xFFFF_FFFF, "PROGRAM_HIGH": 0xFFFF_FFFF, "PROGRAM_COUNT": 0xFF_FFFF,
             "WINDOW_FIRST_LOW": 0xFFFF_F000, "WINDOW_FIRST_HIGH": high, "WINDOW_LAST_LOW": 0xFFFF_F000,
             "WINDOW_LAST_HIGH": high, "WATCHDOG": 0xFFFF_FFFF, "IRQ_ENABLE": 3}
    strict = ("PROGRAM_COUNT", "WINDOW_FIRST_HIGH", "WINDOW_LAST_HIGH")
    model = {name: await world.read(name) for name in plain}
    for _ in range(150):
        name = random.choice(list(plain))
        first = random.randrange(4)
        count = random.randint(1, 4 - first)
        value = random.getrandbits(8 * count)
        bits = (1 << 8 * count) - 1 << 8 * first
        if name in strict and random.random() < 0.7:
            value &= plain[name] >> 8 * first
        refused = name in strict and value << 8 * first & ~plain[name] & 0xFFFF_FFFF
        answer = await host.write(REGISTERS[name].offset + first, value.to_bytes(count, "little"))
        assert int(answer.resp) == (Resp.SLVERR if refused else Resp.OKAY).value, name
        if not refused:
            bits &= plain[name]
            model[name] = model[name] & ~bits | value << 8 * first & bits
        assert await world.read(name) == model[name], name
    first = model["WINDOW_FIRST_HIGH"] << 32 | model["WINDOW_FIRST_LOW"]
    last = model["WINDOW_LAST_HIGH"] << 32 | model["WINDOW_LAST_LOW"]
    assert int(port(dut, "window").value) == \
        first >> 12 | last >> 12 << world.config.address_width - 12
    before = {name: await world.read(name) for name in REGISTERS}
    for name, register in REGISTERS.items():
        if register.access is Access.RO:
            await world.write(name, 0xFFFF_FFFF, expect=Resp.SLVERR)
    for offset in (0x01C, 0x038, 0x04C, 0x070, 0x084, 0x1A0, 0x800, 0xFFC):
        await world.write(offset, 0xFFFF_FFFF, expect=Resp.SLVERR)
    assert before == {name: await world.read(name) for name in REGISTERS}


@cocotb.test()
async def register_locks(dut):
    """While busy, and once locked."""
    world = await ControlEnv.make(dut)
    guarded = ("PROGRAM_LOW", "PROGRAM_HIGH", "PROGRAM_COUNT", "WATCHDOG", "WINDOW_FIRST_LOW", "WINDOW_FIRST_HIGH",
               "WINDOW_LAST_LOW", "WINDOW_LAST_HIGH")
    world.duration = lambda unit, index: 3000
    await world.start([(LOAD, 0, 0)])
    before = {name: await world.read(name) for name in guarded}
    for name in guarded:
        await world.write(name, 0, expect=Resp.SLVERR)
    await world.write("CONTROL", 1)     # ignored
    await world.write("IRQ_ENABLE", 1)
    assert before == {name: await world.read(name) for name in guarded}
    assert port(dut, "irq").value == 0
    await world.check_done(5000)
    assert port(dut, "irq").value == 1 and await world.read("IRQ_PENDING") == 1
    await world.write("IRQ_PENDING", 2)
    assert port(dut, "irq").value == 1
    await world.write("IRQ_PENDING", 1)
    assert port(dut, "irq").value == 0
    await world.write("WINDOW_LOCK", 0)
    assert not (await world.status())["locked"]
    await world.write("WINDOW_LOCK", 1)
    await world.write("WINDOW_LOCK", 0)
    assert (await world.status())["locked"] and await world.read("WINDOW_LOCK") == 1
    before = {name: await world.read(name) for name in guarded}
    for name in guarded:
        await world.write(name, 0, expect=Resp.SLVERR if name.startswith("WINDOW") else Resp.OKAY)
    after = {name: await world.read(name) for name in guarded}
    assert {name: after[name] for name in guarded if name.startswith("WINDOW")} == \
        {name: before[name] for name in guarded if name.startswith("WINDOW")}
    assert after["WATCHDOG"] == 0


@cocotb.test()
async def register_channel_order(dut):
    """Address first, data first, both at once, a slow reader: every write is answered once."""
    await harness.start(dut)
    random = harness.rng("channels")
    pins = {name: port(dut, f"host_{name}") for name in HOST}
    for _ in range(40):
        value = random.getrandbits(32)
        delays = {"aw": random.randrange(6), "w": random.randrange(6)}
        pins["awaddr"].value = pins["araddr"].value = REGISTERS["PROGRAM_LOW"].offset
        pins["wdata"].value, pins["wstrb"].value = value, 15
        taken = {}
        cycle = 0
        while len(taken) < 2 or cycle < max(taken.values()) + 4:
            for channel, delay in delays.items():
                pins[f"{channel}valid"].value = int(cycle >= delay and channel not in taken)
            await cycles(dut, 1)
            for channel, delay in delays.items():
                if cycle >= delay and channel not in taken and pins[f"{channel}ready"].value == 1:
                    taken[channel] = cycle
            cycle += 1
            assert cycle < 20 and (len(taken) == 2 or pins["bvalid"].value == 0)
        # Nothing in these cycles takes the answer, so it must stay.
        for _ in range(random.randrange(1, 6)):
            assert pins["bvalid"].value == 1 and pins["bresp"].value == 0, "the write is not answered"
            await cycles(dut, 1)
        pins["bready"].value = pins["arvalid"].value = 1
        await cycles(dut, 1)
        pins["bready"].value = pins["arvalid"].value = 0
        await cycles(dut, 5)
        assert pins["bvalid"].value == 0, "the write is answered twice"
        for _ in range(random.randrange(1, 6)):
            assert pins["rvalid"].value == 1 and pins["rresp"].value == 0, "the read is not answered"
            assert pins["rdata"].value == value
            await cycles(dut, 1)
        pins["rready"].value = 1
        await cycles(dut, 1)
        pins["rready"].value = 0
        await cycles(dut, 2)
        assert pins["rvalid"].value == 0, "the read is answered twice"


BENCHES = benches(__name__, "registers")
