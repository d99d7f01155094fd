"""What each switch of a configuration costs: measured for one chip, and shown for all."""

import json
from dataclasses import fields
from pathlib import Path

from kiwicha.config import ChipConfig

__all__ = ["CONFIG", "FILE", "NOTE", "names", "table"]

#: The configuration that the switches were counted for.
CONFIG = "ulx3s_85f"
#: ``{switch: {"lut", "ff", "dsp", "bram"}}``, as ``python -m bench.area --switches --keep`` writes it.
FILE = Path(__file__).with_name("switches.json")
#: What the figures are, and are not.
NOTE = (f"what a switch adds to the units that it changes, each unit alone in {CONFIG} and before placement; "
        "top_k comes on top of functions")


def names() -> tuple[str, ...]:
    """The switches: the fields of a configuration that are true or false."""
    return tuple(item.name for item in fields(ChipConfig) if item.type in (bool, "bool"))


def table(config: ChipConfig) -> dict[str, dict[str, int]]:
    """For each switch: on (whether `config` sets it), and the LUTs, flip-flops, multipliers and block RAMs that it
    takes (lut, ff, dsp, bram), of which :data:`NOTE` says more. A chip with floating-point formats has scales
    without `block_scales`, too.
    """
    costs = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: {"on": getattr(config, name), **costs[name]} for name in names()}
