"""The chip's clock from the board's, through an ECP5 PLL.

Source: Lattice FPGA-TN-02200, ECP5 and ECP5-5G sysCLOCK PLL/DLL Design and Usage Guide, and the ECP5 data sheet's
limits of the PLL.
"""

from dataclasses import dataclass

from amaranth.hdl import Const, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["ClockError", "Ecp5Clock", "PllSettings"]

_PHASE_DETECTOR = (3.125e6, 400e6)
_OSCILLATOR = (400e6, 800e6)
_OUTPUT = (3.125e6, 400e6)
_DIVIDER = 128
#: Cycles of the board's clock for which the PLL must be locked.
_STEADY = 1 << 12


class ClockError(ValueError):
    """The PLL cannot make the wanted clock; the message names the nearest that it can."""


@dataclass(frozen=True)
class PllSettings:
    """Dividers of a PLL whose output is fed back: output = input * feedback / reference.

    Parameters
    ----------
    reference, feedback, output : int
        CLKI_DIV, CLKFB_DIV and CLKOP_DIV.
    frequency : float
        Of the output, Hz.
    """

    reference: int
    feedback: int
    output: int
    frequency: float

    @classmethod
    def find(cls, source_hz: float, wanted_hz: float) -> "PllSettings":
        """The settings that make exactly `wanted_hz`; among them the fastest phase detector.

        Raises
        ------
        ClockError
            There are none.
        """
        nearest = None
        for reference in range(1, _DIVIDER + 1):
            detector = source_hz / reference
            if not _PHASE_DETECTOR[0] <= detector <= _PHASE_DETECTOR[1]:
                continue
            feedback = min(max(round(wanted_hz / detector), 1), _DIVIDER)
            frequency = detector * feedback
            output = _output_divider(frequency)
            if output is None:
                continue
            found = cls(reference, feedback, output, frequency)
            if abs(frequency - wanted_hz) < 1:
                return found
            if nearest is None or abs(frequency - wanted_hz) < abs(nearest.frequency - wanted_hz):
                nearest = found
        hint = f"; the nearest clock is {nearest.frequency / 1e6:.6g} MHz" if nearest else ""
        raise ClockError(f"the PLL cannot make {wanted_hz / 1e6:.6g} MHz from {source_hz / 1e6:.6g} MHz{hint}")


def _output_divider(frequency: float) -> int | None:
    """The divider that puts the oscillator nearest to the middle of its range; None if none does."""
    if not _OUTPUT[0] <= frequency <= _OUTPUT[1]:
        return None
    middle = sum(_OSCILLATOR) / 2
    fits = [divider for divider in range(1, _DIVIDER + 1)
            if _OSCILLATOR[0] <= divider * frequency <= _OSCILLATOR[1]]
    return min(fits, key=lambda divider: abs(divider * frequency - middle), default=None)


class Ecp5Clock(wiring.Component):
    """An ECP5 PLL behind a gate that opens, once and for all, when the PLL has been locked for a while.

    What runs on `clock` so starts from the values that the bitstream gives its registers, and needs no reset:
    a net to every register of the chip would be its longest path.

    Parameters
    ----------
    settings : PllSettings

    Attributes
    ----------
    frequency : float
        Of `clock`, Hz.

    Members
    -------
    source : In(1)
        The board's clock, which drives the domain `board` of the design around this.
    clock : Out(1)
        No edge until it is steady.
    """

    def __init__(self, settings: PllSettings):
        self.settings = settings
        super().__init__({"source": In(1), "clock": Out(1)})

    @classmethod
    def making(cls, source_hz: float, wanted_hz: float) -> "Ecp5Clock":
        """One that makes `wanted_hz` from `source_hz`; :exc:`ClockError` if there is none."""
        return cls(PllSettings.find(source_hz, wanted_hz))

    @property
    def frequency(self) -> float:
        return self.settings.frequency

    def elaborate(self, platform):
        m = Module()
        running = Signal()
        locked = Signal()
        steady = Signal()
        count = Signal(range(_STEADY))
        m.submodules.lock = FFSynchronizer(locked, steady, o_domain="board")
        m.d.board += count.eq(Mux(steady, count + 1, 0))
        opened = Signal()
        with m.If(count == _STEADY - 1):
            m.d.board += opened.eq(1)
        m.submodules.gate = Instance("DCCA", i_CLKI=running, i_CE=opened, o_CLKO=self.clock)
        off = {f"i_{name}": Const(0) for name in ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR",
                                                  "PHASESTEP", "PHASELOADREG", "PLLWAKESYNC", "ENCLKOP")}
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED", p_OUTDIVIDER_MUXA="DIVA", p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=self.settings.reference, p_CLKFB_DIV=self.settings.feedback,
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=self.settings.output,
            p_CLKOP_CPHASE=(self.settings.output - 1) // 2, p_CLKOP_FPHASE=0,
            i_CLKI=self.source, i_CLKFB=running, o_CLKOP=running, o_LOCK=locked, **off)
        return m
