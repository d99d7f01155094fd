"""How well a chip was used: the figures of a run, defined once."""

from dataclasses import dataclass
from typing import Any

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS

from . import arguments
from .job import Result
from .request import GemmRequest

__all__ = ["Work", "counters_by_cause", "figures", "gemm_work", "request_work"]


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

    def __post_init__(self) -> None:
        arguments.integer("macs", self.macs, 0)
        arguments.integer("compulsory_bytes", self.compulsory_bytes, 0)

    def bound_cycles(self, config: ChipConfig) -> float:
        """Cycles that no schedule can go below: the slower of all arithmetic and all traffic."""
        arguments.chip(config)
        return max(self._compute(config), self._traffic(config))

    def bound(self, config: ChipConfig) -> str:
        """Which of the two it is."""
        arguments.chip(config)
        return "compute" if self._compute(config) >= self._traffic(config) else "memory"

    def _compute(self, config: ChipConfig) -> float:
        return self.macs / config.peak_macs_per_cycle

    def _traffic(self, config: ChipConfig) -> float:
        return self.compulsory_bytes / config.bus_bytes


def gemm_work(m: int, n: int, k: int, *, a_per_byte: int = 1, b_per_byte: int = 1, out_bits: int = 32,
              scale_bytes: int = 0) -> Work:
    """The work of C[m, n] = A[m, k] . B[k, n]; `scale_bytes` are those of all scales, the result's too."""
    m, n, k, a_per_byte, b_per_byte, out_bits = (
        arguments.integer(name, value, 1) for name, value in (
            ("m", m), ("n", n), ("k", k), ("a_per_byte", a_per_byte), ("b_per_byte", b_per_byte),
            ("out_bits", out_bits)))
    scale_bytes = arguments.integer("scale_bytes", scale_bytes, 0)
    return Work(m * n * k, -(-m * k // a_per_byte) - (-k * n // b_per_byte) - (-m * n * out_bits // 8)
                + scale_bytes)


def request_work(request: GemmRequest) -> Work:
    """The work of one GEMM: operands, result, and the scales of both."""
    spec = arguments.instance("request", request, GemmRequest).spec
    scales = sum(item.size for item in (request.a_scale, request.b_scale) if item is not None)
    if spec.out_block:
        scales += spec.m * -(-spec.n // spec.out_block)
    return gemm_work(spec.m, spec.n, spec.k, a_per_byte=FORMATS[spec.a_format].per_byte,
                     b_per_byte=FORMATS[spec.b_format].per_byte, out_bits=spec.out_bits, scale_bytes=scales)


def counters_by_cause(result: Result) -> dict[str, dict[str, int]]:
    """Per unit: cycles busy, idle, and stalled by cause; they add up to the run's cycles."""
    arguments.instance("result", result, Result)
    names = {"BUSY": "busy", "IDLE": "idle"}
    return {unit.lower(): {names.get(activity, f"stalled_{activity.lower()}"): count
                           for activity, count in row.items()}
            for unit, row in result.counters.items()}


def figures(device: str, config: ChipConfig, work: Work, result: Result) -> dict[str, Any]:
    """All that is measured (on the golden device: predicted) and derived; None where there is nothing."""
    if not isinstance(device, str):
        raise TypeError(f"device must be a device's name, not {arguments.shown(device)}")
    arguments.chip(config)
    arguments.instance("work", work, Work)
    arguments.instance("result", result, Result)
    cycles = result.cycles or None
    return {"device": device, "config": config.name, "cycles": result.cycles, "macs": work.macs,
            "peak_macs_per_cycle": config.peak_macs_per_cycle,
            "utilization": work.macs / (config.peak_macs_per_cycle * cycles) if cycles else None,
            "roofline_fraction": work.bound_cycles(config) / cycles if cycles else None,
            "bound": work.bound(config), "counters": counters_by_cause(result),
            "simulated_cycles_per_second": result.simulated_cycles_per_second, "wall_s": result.wall_s}
