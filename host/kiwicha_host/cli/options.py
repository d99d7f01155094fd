"""Options and arguments that several commands take."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["ANY_PATH", "FOLDER", "PATH", "config_option", "config_option_of", "device_option", "device_options",
           "json_option", "report_option"]


def _known_device(context: click.Context, option: click.Parameter, value: str) -> str:
    if value in ("golden", "verilated") or (value.startswith("serial:") and value != "serial:"):
        return value
    raise click.BadParameter(f"{value!r} is not golden, verilated or serial:PORT.", context, option)


def _needs_verilated(context: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """The device comes first: it is eager."""
    if value is not None and context.params["device"] != "verilated":
        raise click.UsageError(f"--report needs --device verilated, not {context.params['device']}.", context)
    return value


class _Path(click.ParamType):
    """The name of a file, a folder (True) or either (None); "-", where a file is meant, is standard input or
    output.
    """

    name = "path"

    def __init__(self, folder: bool | None = False):
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not value:
            self.fail("a name must not be empty.", param, ctx)
        if self._folder and value == "-":
            self.fail("'-' is no folder; there are several files to write.", param, ctx)
        if self._folder is False and value.endswith(os.sep):
            self.fail(f"{value!r} names a folder, not a file.", param, ctx)
        # A file of that name is called ./-.
        return Path(value) if value == "-" or Path(value) != Path("-") else Path.cwd() / "-"


PATH, FOLDER, ANY_PATH = _Path(), _Path(folder=True), _Path(folder=None)


def config_option_of(default: str) -> Callable:
    """`--config` of a command whose usual chip is `default`."""
    return click.option("--config", default=default, show_default=True, metavar="NAME|FILE.toml",
                        help="The chip: a name that `kiwicha configs` lists, or a file.")


config_option = config_option_of("ulx3s_85f")
device_option = click.option("--device", default="verilated", show_default=True, callback=_known_device,
                             is_eager=True, metavar="golden|verilated|serial:PORT", help="What runs it.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


report_option = click.option("--report", type=FOLDER, metavar="DIR", callback=_needs_verilated,
                             help="Write time line, roofline and figures to this folder; verilated only.")


def device_options(command):
    """Those of whatever runs on a device."""
    for option in (json_option, report_option, device_option, config_option):
        command = option(command)
    return command
