"""AXI4 rules as assertions, to be attached to a master's port in every bench that has one.

Source: AMBA AXI and ACE Protocol Specification, ARM IHI 0022. What is checked, every cycle:
a valid payload stays until it is taken, also during an abort; addresses are beat-aligned; no burst crosses
4 KiB or leaves the window; `last` is on the right beat; beats and answers come only for bursts that
were asked for; no more bursts are outstanding than allowed.
"""

from collections import deque

import cocotb
from cocotb.triggers import RisingEdge

from tb.drivers import clock, port
from tb.payload import unpack

__all__ = ["AxiReadChecker", "AxiWriteChecker", "Channel"]


class Channel:
    """One stream of the design, sampled once per cycle; `check_stable` if the design drives its payload."""

    def __init__(self, dut, name, shape, check_stable):
        self._name = name
        self._valid = port(dut, f"{name}__valid")
        self._ready = port(dut, f"{name}__ready")
        self._payload = port(dut, f"{name}__payload")
        self._shape = shape
        self._check_stable = check_stable
        self._held = None
        self.offered = False

    def sample(self):
        """The payload moved at this edge, or None."""
        self.offered = bool(self._valid.value)
        ready = bool(self._ready.value)
        if not self.offered:
            assert self._held is None or not self._check_stable, f"{self._name}: valid fell before it was taken"
            self._held = None
            return None
        payload = int(self._payload.value)
        if self._check_stable and self._held is not None:
            assert payload == self._held, f"{self._name}: payload changed while it waited"
        self._held = None if ready else payload
        return unpack(self._shape, payload) if ready else None


class _Checker:
    """What both directions share: the window, in bytes (`first`, `last`), and the burst rules."""

    def __init__(self, dut, config, outstanding):
        self._clk = clock(dut)
        self._config = config
        self.limit = outstanding
        self.first = 0
        self.last = (1 << config.address_width) - 1
        self.bursts = []        #: (address, beats) of every burst, in order
        self.beats = 0
        self.outstanding = 0
        self.most = 0           #: most bursts ever outstanding
        cocotb.start_soon(self._run())

    def _begin(self, burst):
        size = self._config.bus_bytes
        address, beats = burst["address"], burst["length"] + 1
        assert address % size == 0, f"burst at {address:#x} is not beat-aligned"
        end = address + beats * size - 1
        assert address >> 12 == end >> 12, f"burst {address:#x}..{end:#x} crosses 4 KiB"
        assert self.first <= address and end <= self.last, \
            f"burst {address:#x}..{end:#x} is outside the window {self.first:#x}..{self.last:#x}"
        self.bursts.append((address, beats))
        self.outstanding += 1
        self.most = max(self.most, self.outstanding)
        assert self.outstanding <= self.limit, f"{self.outstanding} bursts outstanding, {self.limit} allowed"
        return beats

    async def _run(self):
        edge = RisingEdge(self._clk)
        while True:
            await edge
            self._cycle()


class AxiReadChecker(_Checker):
    """Watches the read port *prefix*; bursts are counted per id, beats of different ids may interleave."""

    def __init__(self, dut, prefix, signature, outstanding):
        self._ar = Channel(dut, f"{prefix}__ar", signature.members["ar"].signature.members["payload"].shape, True)
        self._r = Channel(dut, f"{prefix}__r", signature.members["r"].signature.members["payload"].shape, True)
        self._left = {}
        super().__init__(dut, signature.config, outstanding)

    def _cycle(self):
        beat = self._r.sample()
        if beat is not None:
            left = self._left.get(beat["id"])
            assert left, "beat without a burst"
            left[0] -= 1
            self.beats += 1
            assert beat["last"] == (left[0] == 0), "RLAST on the wrong beat"
            if left[0] == 0:
                left.popleft()
                self.outstanding -= 1
        burst = self._ar.sample()
        if burst is not None:
            self._left.setdefault(burst["id"], deque()).append(self._begin(burst))


class AxiWriteChecker(_Checker):
    """Watches the write port *prefix*. A beat must not be offered before its burst's address has been."""

    def __init__(self, dut, prefix, signature, outstanding):
        self._aw, self._w, self._b = (
            Channel(dut, f"{prefix}__{name}", signature.members[name].signature.members["payload"].shape, True)
            for name in ("aw", "w", "b"))
        self._announced = deque()   # beats of bursts whose data is not complete
        self._lasts = 0             # complete data of so many bursts
        self._addresses = 0         # accepted addresses
        self._answers = 0
        self._sent = 0              # beats of the burst in front
        self._complete = deque()    # beats of bursts whose data is complete, but not matched with an address yet
        self.strobed = 0            #: bytes written
        super().__init__(dut, signature.config, outstanding)

    def _cycle(self):
        answer = self._b.sample()
        if answer is not None:
            self._answers += 1
            self.outstanding -= 1
            assert self._answers <= min(self._lasts, self._addresses), "answer before address and last beat"
        burst = self._aw.sample()
        if burst is not None:
            self._announced.append(self._begin(burst))
            self._addresses += 1
        beat = self._w.sample()
        if self._w.offered:
            assert self._aw.offered or self._announced or self._lasts < self._addresses, "beat before its address"
        if beat is not None:
            self._sent += 1
            self.beats += 1
            self.strobed += beat["strobe"].bit_count()
            if beat["last"]:
                self._complete.append(self._sent)
                self._sent = 0
                self._lasts += 1
        self._match()

    def _match(self):
        """Data may be complete before its address is accepted: compare once both are there."""
        complete = self._complete
        while complete and self._announced:
            assert complete[0] == self._announced[0], \
                f"WLAST after {complete[0]} beats of a burst of {self._announced[0]}"
            complete.popleft()
            self._announced.popleft()
        if self._announced:
            assert self._sent < self._announced[0], "more beats than the burst has"
