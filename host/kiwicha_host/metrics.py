"""How well a chip was used: the figures of a run, defined once."""

from dataclasses import dataclass
from typing import Any

from kiwicha import ChipConfig

from .job import Result

__all__ = ["Work", "counters_by_cause", "figures", "gemm_work"]


@dataclass(frozen=True)
class Work:
    """What a job asks for, whoever does it.

    Parameters
    ----------
    macs : int
        Multiply-accumulates of the problem as given, without padding.
    compulsory_bytes : int
        Operands, result and block scales, once each, as stored.
    """
    macs: int
    compulsory_bytes: int

    def bound_cycles(self, config: ChipConfig) -> float:
        """Cycles that no schedule can go below: the slower of all arithmetic and all traffic."""
        return max(self._compute(config), self._traffic(config))

    def bound(self, config: ChipConfig) -> str:
        """Which of the two it is."""
        return "compute" if self._compute(config) >= self._traffic(config) else "memory"

    def _compute(self, config: ChipConfig) -> float:
        return self.macs / config.peak_macs_per_cycle

    def _traffic(self, config: ChipConfig) -> float:
        return self.compulsory_bytes / config.bus_bytes


def gemm_work(m: int, n: int, k: int, *, a_per_byte: int = 1, b_per_byte: int = 1, out_bits: int = 32,
              scale_bytes: int = 0) -> Work:
    """The work of C[m, n] = A[m, k] . B[k, n]; `scale_bytes` are those of all scales, the result's too."""
    return Work(m * n * k, -(-m * k // a_per_byte) - (-k * n // b_per_byte) - (-m * n * out_bits // 8)
                + scale_bytes)


def counters_by_cause(result: Result) -> dict[str, dict[str, int]]:
    """Per unit: cycles busy, idle, and stalled by cause; they add up to the run's cycles."""
    names = {"BUSY": "busy", "IDLE": "idle"}
    return {unit.lower(): {names.get(activity, f"stalled_{activity.lower()}"): count
                           for activity, count in row.items()}
            for unit, row in result.counters.items()}


def figures(device: str, config: ChipConfig, work: Work, result: Result) -> dict[str, Any]:
    """All that is measured (on the golden device: predicted) and derived; None where there is nothing."""
    cycles = result.cycles or None
    return {"device": device, "config": config.name, "cycles": result.cycles, "macs": work.macs,
            "peak_macs_per_cycle": config.peak_macs_per_cycle,
            "utilization": work.macs / (config.peak_macs_per_cycle * cycles) if cycles else None,
            "roofline_fraction": work.bound_cycles(config) / cycles if cycles else None,
            "bound": work.bound(config), "counters": counters_by_cause(result),
            "simulated_cycles_per_second": result.simulated_cycles_per_second, "wall_s": result.wall_s}
