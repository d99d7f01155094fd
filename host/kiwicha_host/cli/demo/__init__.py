"""What ``make sim`` shows: networks, matrix products and a language model on the chip, each result checked.

``python -m kiwicha_host.cli.demo [--device NAME] [--config NAME|FILE.toml] [--images N]``
"""

import argparse
import sys
from functools import partial

from rich.console import Console

from kiwicha import ChipConfig

from ... import models
from ...compiler.errors import CompileError
from ...devices import Device, open_device
from ...extras import MissingExtra
from .checks import Mismatch
from .digits import show_network, show_residual, show_time
from .file_types import show_file_types
from .products import show_products
from .words import show_words

__all__ = ["Mismatch", "main"]

#: Tokens that the language model says.
_WORDS = 15


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kiwicha_host.cli.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="verilated", help="golden, verilated or serial:PORT")
    parser.add_argument("--config", default="ulx3s_85f", help="a preset's name or a .toml file")
    parser.add_argument("--images", type=int, default=500, help="how many test images, 1 to 500")
    options = parser.parse_args(arguments)
    if not 1 <= options.images <= 500:
        parser.error(f"--images must be from 1 to 500, not {options.images}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        config = ChipConfig.load(options.config)
        with console.status(f"Building the chip {config.name!r} for device {options.device!r} ..."):
            device = open_device(options.device, config)
        with device:
            _show_chip(console, device)
            _show_all(console, device, options.images)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"demo: {str(error).strip() or type(error).__name__}".splitlines()[0], file=sys.stderr)
        return 1
    console.print("[bold green]Every result is right, bit for bit.[/]")
    return 0


def _show_all(console: Console, device: Device, images: int) -> None:
    for file in (models.DIGITS_CONV, models.DIGITS_MLP):
        show_network(console, device, file, images)
        if file == models.DIGITS_CONV and device.name == "verilated":
            show_time(console, device.config, file)
    for name, show in (("residual blocks", partial(show_residual, count=images)), ("Magika", show_file_types)):
        try:
            show(console, device)
        except (CompileError, MissingExtra) as error:
            # A chip or a memory that is too small for it, or no such package: neither makes a result wrong.
            console.print(f"\nnot shown: {name}: {error}", markup=False)
    show_products(console, device)
    if device.name in ("golden", "verilated"):
        try:
            show_words(console, device.name, _WORDS)
        except MissingExtra as error:
            console.print(f"\nnot shown: a language model: {error}", markup=False)


def _show_chip(console: Console, device: Device) -> None:
    config = device.config
    console.print(f"[bold]Kiwicha[/] {config.name}: {config.rows}x{config.columns} int8 array, "
                  f"{config.peak_macs_per_cycle} multiply-accumulates per cycle, "
                  f"{config.scratchpad_bytes // 1024} KiB scratchpad, {config.bus_width}-bit memory bus; "
                  f"device {device.name}")
