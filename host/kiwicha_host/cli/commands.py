"""The ``kiwicha`` command.

Exit status 0: done; 1: it failed, and one line on standard error says why; 2: wrong usage, one line too.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kiwicha import ChipConfig
from kiwicha.config import PRESETS

from ..extras import extra
from .generate import generate
from .options import FOLDER, config_option, json_option
from .run import run
from .tables import print_json, show_line, show_rows, standard_output
from .work import gemm

__all__ = ["main"]

def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; always ends in SystemExit."""
    with warnings.catch_warnings():
        # Standard error is for one line that matters.
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        if sys.stdout is not None:
            # A path may hold what the terminal's encoding does not.
            sys.stdout.reconfigure(errors="backslashreplace")   # type: ignore[union-attr]
        sys.exit(_leave_quietly(_run(arguments)))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # click's own main() would add an empty line to an interrupt.
        with _commands.make_context("kiwicha", list(sys.argv[1:] if arguments is None else arguments)) as context:
            _commands.invoke(context)
        with standard_output():
            return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "kiwicha"
        return _say(f"{error.format_message()} See '{command} --help'.", 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", 1)
    except BrokenPipeError:
        return 1    # the reader has had enough
    except MemoryError as error:
        return _say(f"not enough memory: {error}" if str(error) else "not enough memory; use smaller arrays", 1)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _say(f"{name}{error.strerror or error or type(error).__name__}", 1)
    except (ValueError, RuntimeError) as error:
        # What Kiwicha raises says by itself what is wrong and what to do.
        return _say(str(error) or type(error).__name__, 1)
    except Exception as error:
        return _say(f"internal error, please report it: {type(error).__name__}: {error}", 1)


def _leave_quietly(status: int) -> int:
    """`status`; what standard output still holds and cannot get rid of, Python must not trip over at its exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _say(message: str, status: int) -> int:
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            print("kiwicha: " + " ".join(message.split()), file=sys.stderr)
    return status


def _version() -> str:
    try:
        return importlib.metadata.version("kiwicha")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, from sources"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(_version(), prog_name="kiwicha")
def _commands() -> None:
    """Kiwicha: an open accelerator for matrices of narrow numbers."""


_commands.add_command(gemm)
_commands.add_command(run)
_commands.add_command(generate)


# What there is.

@_commands.command()
@json_option
def configs(as_json: bool) -> None:
    """List the named configurations."""
    rows = [{"config": name, "rows": config.rows, "columns": config.columns, "formats": list(config.formats),
             "multiplier": config.multiplier, "bus_bits": config.bus_width,
             "scratchpad_kib": config.scratchpad_bytes / 1024,
             "accumulator_kib": config.accumulator_bytes / 1024,
             "peak_macs_per_cycle": config.peak_macs_per_cycle,
             "features": [item.name for item in dataclasses.fields(config)
                          if getattr(config, item.name) is True]} for name, config in PRESETS.items()]
    if not as_json:
        rows = [{"config": row["config"], "array": f"{row['rows']}x{row['columns']}",
                 "multiplier": row["multiplier"], "formats": row["formats"], "bus, bits": row["bus_bits"],
                 "scratchpad, KiB": row["scratchpad_kib"], "accumulators, KiB": row["accumulator_kib"],
                 "MACs/cycle": row["peak_macs_per_cycle"], "features": row["features"]} for row in rows]
    show_rows("configurations", rows, as_json)


@_commands.command()
@json_option
def boards(as_json: bool) -> None:
    """List the boards that bitstreams can be built for."""
    with extra("synth"):
        from fpga.boards import board_rows
    show_rows("boards", board_rows(), as_json)


# The hardware.

@_commands.command()
@click.option("-o", "folder", type=FOLDER, metavar="DIR", help="Default: build/verilog.")
@click.option("--no-init", is_flag=True, help="No initial values for registers: a reset of one cycle gives them.")
@config_option
def verilog(folder: Path | None, no_init: bool, config: str) -> None:
    """Write the chip as Verilog, with a map of its names, lint waivers and the C header."""
    from ..build_cache import build_folder
    from ..verilog import write_verilog
    folder = folder or build_folder("verilog")
    for path in write_verilog(ChipConfig.load(config), folder, initial_values=not no_init):
        show_line(str(path))


@_commands.command()
@click.option("--board", required=True, metavar="NAME", help="A name that `kiwicha boards` lists.")
@click.option("--config", metavar="NAME|FILE.toml", help="The chip. Default: the board's.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the placement.  [default: the board's choice]")
@click.option("--json", "as_json", is_flag=True, help="Nothing but the report, which is JSON anyway.")
def synth(board: str, config: str | None, seed: int | None, as_json: bool) -> None:
    """Build a bitstream; prints the report as JSON, and what each switch costs on a terminal, too."""
    from rich.console import Console

    with extra("synth"):
        from fpga.build import synthesise
    chip = None if config is None else ChipConfig.load(config)
    # On a terminal only: in a file, standard error has at most one line, which says what is wrong.
    with Console(stderr=True).status("") as status:
        report = synthesise(board, chip, seed, progress=status.update)
    print_json(report)
    if not as_json and sys.stderr.isatty():
        _show_switches(report)


def _show_switches(report: dict[str, Any]) -> None:
    """The report's switches as a table on standard error, and what its figures are."""
    show_rows("switches", [{"switch": name, **row, "on": "yes" if row["on"] else "no"}
                           for name, row in report["switches"].items()], False, sys.stderr)
    print(report["switches_note"], file=sys.stderr)
