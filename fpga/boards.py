"""The boards that there are builds for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amaranth_boards.ulx3s import ULX3S_25F_Platform, ULX3S_85F_Platform

from kiwicha_host.memory_latency import BLOCK_RAM

from .clocking import Ecp5Clock
from .parts import Part

__all__ = ["BOARDS", "Board", "BoardError", "board_rows"]


class BoardError(ValueError):
    """There is no such board, or the chip does not fit it; one line that says what there is."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board with an ECP5, and how the chip is put on it.

    Parameters
    ----------
    name : what the command line calls it
    platform : makes a fresh ``amaranth_boards`` platform, which knows the pins; it has a resource `uart`
    part : the FPGA
    clock : the platform's resource that is the board's clock
    source_mhz : its frequency
    leds : resources `led` from 0 on, the first four of which show what the chip does
    pll : makes the chip's clock from the board's
    clock_mhz : the chip's clock, by configuration name; "" is for all others
    aim_mhz : the clock that placement and routing try for, where that is more, in the same way; they make no
        effort beyond what they are asked for
    seed : of the placement, where another than 1 is known to be better, in the same way
    memory_kib : block RAM that serves as main memory, by configuration name in the same way
    baud : of the serial line to the host; the clock should be a multiple of it, to 2 percent
    config : the preset that is built if none is named
    memory_latency : clock cycles from a read's address to its first data, for which programs are compiled
    """

    name: str
    platform: Callable[[], Any]
    part: Part
    clock: str
    source_mhz: float
    clock_mhz: dict[str, float]
    memory_kib: dict[str, int]
    baud: int
    config: str
    memory_latency: int = BLOCK_RAM
    leds: int = 0
    pll: type[Ecp5Clock] = Ecp5Clock
    aim_mhz: dict[str, float] = field(default_factory=dict)
    seed: dict[str, int] = field(default_factory=dict)

    def clock_for(self, config_name: str) -> float:
        return self.clock_mhz.get(config_name, self.clock_mhz[""])

    def aim_for(self, config_name: str, clock_mhz: float) -> float:
        return max(clock_mhz, self.aim_mhz.get(config_name, 0))

    def seed_for(self, config_name: str) -> int:
        return self.seed.get(config_name, 1)

    def memory_for(self, config_name: str) -> int:
        """Bytes of main memory."""
        return 1024 * self.memory_kib.get(config_name, self.memory_kib[""])

    @staticmethod
    def named(name: str) -> "Board":
        """The board `name`; :exc:`BoardError` lists what there is."""
        try:
            return BOARDS[name]
        except KeyError:
            raise BoardError(f"no board named {name!r}; there are {', '.join(BOARDS)}") from None


# 1 Mbaud is what the FTDI chip makes exactly, as 12 MHz / 12.
BOARDS: dict[str, Board] = {board.name: board for board in (
    Board(name="ulx3s_85f", platform=ULX3S_85F_Platform, part=Part("LFE5U-85F-6BG381C"),
          clock="clk25", source_mhz=25, leds=8,
          clock_mhz={"": 50, "ulx3s_85f": 75}, memory_kib={"": 64, "ulx3s_85f": 128},
          aim_mhz={"ulx3s_85f": 80, "ulx3s_85f_e4m3": 80}, seed={"ulx3s_85f": 2}, baud=1_000_000,
          config="ulx3s_85f"),
    Board(name="ulx3s_25f", platform=ULX3S_25F_Platform, part=Part("LFE5U-25F-6BG381C"),
          clock="clk25", source_mhz=25, leds=8,
          clock_mhz={"": 50}, memory_kib={"": 32}, baud=1_000_000, config="tiny"),
)}


def board_rows() -> list[dict[str, Any]]:
    """What the command line shows: one row per board."""
    return [{"board": board.name, "part": board.part.name, "source_mhz": board.source_mhz, "leds": board.leds,
             "baud": board.baud, "config": board.config} for board in BOARDS.values()]
