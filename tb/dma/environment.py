"""What the benches of LOAD and STORE share: the control port, driven and watched."""

from collections import deque

import cocotb
from cocotb.triggers import RisingEdge

from kiwicha.control.unit import SETTLE, ErrorReport, Window
from kiwicha.dma.index import IndexPort
from kiwicha.isa import Activity
from kiwicha.layouts import unit_layout
from kiwicha.timing import INDEX_READ
from tb import harness
from tb.drivers import clock, cycles, port
from tb.payload import pack, unpack

__all__ = ["Control", "Indices", "draw_indexed", "draw_transfers"]


class Control:
    """Hands transfers (dicts of fields) to the unit; counts retirements and cycles by activity.

    `on_retire` is called at each, `while_error` in each cycle from an error to the abort; `working` says what the
    activity may be in this cycle if the unit is not quiet. Asserts that IDLE and
    `quiet` agree, that an error stays as it is, and that nothing retires after it.
    """

    def __init__(self, dut, unit, memory):
        self.dut = dut
        self._layout = unit_layout(unit)
        self._transfers = deque()
        self._rng = harness.rng("control")
        self.p_valid = 1.0
        self.memory = memory
        self.retired = 0
        self.error = None
        self.quiet = False
        self.activities = dict.fromkeys(Activity, 0)
        self.now = 0
        self.on_retire = lambda: None
        self.while_error = lambda: None
        self.working = lambda: set(Activity) - {Activity.IDLE}
        self.aborting = False
        port(dut, "window").value = pack(Window(memory.config), memory.window)
        cocotb.start_soon(self._run())

    def send(self, transfers):
        known = dict(self._layout.members)
        self._transfers.extend(pack(self._layout, {k: v for k, v in transfer.items() if k in known})
                               for transfer in transfers)

    async def settle(self, count, limit):
        """Wait until *count* transfers have retired or there is an error, then until the unit is quiet."""
        for _ in range(limit):
            if (self.retired >= count or self.error) and self.quiet:
                return
            await cycles(self.dut, 1)
        raise AssertionError(f"{self.retired} of {count} retired, error {self.error} after {limit} cycles")

    async def abort(self, limit=3000):
        """Abort, wait for quiet, and forget what was not taken; then the unit is as new."""
        self.aborting = True
        self._transfers.clear()
        port(self.dut, "control__abort").value = 1
        await cycles(self.dut, SETTLE)
        for _ in range(limit):
            if self.quiet:
                break
            await cycles(self.dut, 1)
        else:
            raise AssertionError(f"not quiet {limit} cycles after abort")
        port(self.dut, "control__abort").value = 0
        await cycles(self.dut, 1)
        assert not self.error
        self.aborting = False
        self.retired = 0

    async def _run(self):
        dut = self.dut
        edge = RisingEdge(clock(dut))
        retire, error = port(dut, "control__retire"), port(dut, "control__error")
        quiet, activity = port(dut, "control__quiet"), port(dut, "control__activity")
        valid, ready = port(dut, "control__i__valid"), port(dut, "control__i__ready")
        payload = port(dut, "control__i__payload")
        offered = False
        while True:
            offered = bool(self._transfers) and (offered or self._rng.random() < self.p_valid)
            valid.value = int(offered)
            if offered:
                payload.value = self._transfers[0]
            await edge
            self.now += 1
            if offered and self._transfers and ready.value:
                self._transfers.popleft()
                offered = False
            doing = Activity(int(activity.value))
            self.activities[doing] += 1
            self.quiet = bool(quiet.value)
            assert (doing is Activity.IDLE) == self.quiet, "IDLE and quiet disagree"
            assert self.quiet or doing in self.working(), f"{doing}, not {self.working()}"
            if retire.value:
                assert not self.error, "retired after an error"
                self.retired += 1
                self.on_retire()
            report = int(error.value)
            seen = unpack(ErrorReport, report) if report & 1 else None
            assert self.aborting or self.error is None or seen == self.error, "the error changed"
            self.error = seen
            if seen and not self.aborting:
                self.while_error()


class Indices:
    """Answers the port `index` from `scratchpad`; `asked` counts the requests that were accepted.

    Asserts that a request does not change (on an error it may be withdrawn) and is of a word that there is, and
    that the unit is not quiet while one is under way.
    """

    def __init__(self, dut, control, scratchpad, config):
        self.asked = 0
        self._valid, self._since = port(dut, "index__request__valid"), 0
        self.p_ready = 1.0
        self.delay = lambda: 0
        self._words, self._lines = config.line_bytes // 4, config.scratchpad_lines
        self._payload = IndexPort(config).members["request"].signature.members["payload"].shape
        cocotb.start_soon(self._run(dut, control, scratchpad, harness.rng("indices")))

    @property
    def wanted(self):
        """Whether an index may be asked for, awaited, or multiplied in this cycle."""
        return self._valid.value == 1 or self._since <= 32

    async def _run(self, dut, control, scratchpad, rng):
        edge = RisingEdge(clock(dut))
        valid, ready, payload = (port(dut, f"index__request__{name}") for name in ("valid", "ready", "payload"))
        held, left, word = None, 0, 0
        while True:
            taking = not left and rng.random() < self.p_ready
            ready.value = int(taking)
            port(dut, "index__valid").value = int(left == 1)
            port(dut, "index__data").value = word if left == 1 else rng.getrandbits(32)
            await edge
            # An index that is under way keeps the unit busy.
            assert not (left and control.quiet), "quiet with an index under way"
            left = max(0, left - 1)
            offered = int(payload.value) if valid.value else None
            assert held is None or offered in (held, None), "request changed"
            held = None if taking else offered
            self._since = 0 if left else self._since + 1
            if offered is not None and taking:
                self._since = 0
                place = unpack(self._payload, offered)
                assert place["line"] < self._lines and place["word"] < self._words
                word = int(scratchpad[place["line"]].view("<u4")[place["word"]])
                left, self.asked = INDEX_READ + self.delay(), self.asked + 1


def draw_indexed(config, scratchpad, rng, transfers, p=0.8):
    """Good transfers, each with probability `p` as one with an index, which is put into `scratchpad`."""
    drawn = []
    places = rng.sample(range(config.scratchpad_lines * config.line_bytes // 4), len(transfers))
    for transfer, place in zip(transfers, places, strict=True):
        if rng.random() >= p or transfer["fill_only"]:
            # Without an index its fields mean nothing.
            drawn.append({**transfer, "indexed": 0, "index_line": rng.getrandbits(16),
                          "index_word": rng.getrandbits(8), "index_stride": rng.randrange(-1 << 31, 1 << 31),
                          "index_bound": rng.getrandbits(32)})
            continue
        while True:
            stride = rng.choice([0, 1, -1, 64, transfer["row_bytes"], -1 << 31, rng.randrange(-1 << 31, 1 << 31)])
            bound = rng.choice([1, 2, 3, rng.randint(1, 100), 1 << 31, (1 << 32) - 1, rng.randrange(1, 1 << 32)])
            index = rng.choice([0, bound - 1, rng.randrange(bound)])
            address = transfer["address"] - index * stride
            if 0 <= address < 1 << 64:
                break
        line, word = divmod(place, config.line_bytes // 4)
        scratchpad[line].view("<u4")[word] = index
        drawn.append({**transfer, "address": address, "indexed": 1, "index_line": line, "index_word": word,
                      "index_stride": stride, "index_bound": bound})
    return drawn


def draw_transfers(config, memory, rng, count, *, load, rows=4, length=None, spread=None):
    """Random good transfers within the window, in disjoint regions of memory, some with tricky shapes.

    Lines are drawn such that they do not repeat within one transfer.
    """
    transfers = []
    span = (memory.last + 1 - memory.first) // count if spread is None else spread
    for index in range(count):
        low = memory.first + index * span
        while True:
            line = config.line_bytes
            transfer = _draw(config, rng, length or rng.choice([line, 3 * line, 100]), rows)
            transfer["fill_only"] = int(load and rng.random() < 0.15)
            offsets = [plane * transfer["plane_stride"] + row * transfer["row_stride"] + end
                       for plane in (0, transfer["planes"] - 1) for row in (0, transfer["rows"] - 1)
                       for end in (0, transfer["row_bytes"])]
            if max(offsets) - min(offsets) <= span:
                break
        transfer["address"] = low - min(offsets) + rng.randrange(span - (max(offsets) - min(offsets)) + 1)
        transfer["index"] = rng.randrange(1 << 24)
        transfers.append(transfer)
    return transfers


def _draw(config, rng, most, rows):
    size = config.line_bytes
    row_bytes = rng.randint(1, most)
    segment = rng.choice([size, size, size, rng.randint(1, size), config.bus_bytes, 1 if row_bytes < 20 else size])
    if segment < size and -(-row_bytes // segment) * rows * 3 >= config.scratchpad_lines // 2:
        segment = size
    segment_count = -(-row_bytes // segment)
    row_count, planes = rng.randint(1, rows), rng.randint(1, 3)
    row_stride = rng.choice([row_bytes, row_bytes, row_bytes + rng.randrange(20), -row_bytes - rng.randrange(20)])
    plane_stride = rng.choice([1, -1]) * (abs(row_stride) * row_count + row_bytes + rng.randrange(9))
    down = rng.choice([1, -1])
    total = segment_count * row_count * planes
    line = rng.randrange(config.scratchpad_lines - total) + (0 if down > 0 else total)
    return {"segment_bytes": segment, "row_bytes": row_bytes, "rows": row_count, "planes": planes,
            "row_stride": row_stride, "plane_stride": plane_stride, "line": line, "segment_line_stride": down,
            "row_line_stride": down * segment_count, "plane_line_stride": down * segment_count * row_count,
            "fill": rng.randrange(256), "fill_only": 0}
