"""The ``kiwicha`` command.

Exit status 0: done; 1: it failed, and one line on standard error says why; 2: wrong usage, one line too.
"""

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

from .tables import print_json, show_figures, show_rows

__all__ = ["main"]

_A_FORMATS = ("int8", "int4", "e4m3", "e2m1", "e2m3", "e3m2")
_OUT = ("int32", "fp32", "bf16", "int8", "e4m3", "e2m1")
_BLOCK_OUT = ("e4m3", "e2m1")
_BLOCKS = ("16", "32", "64", "128")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; always ends in SystemExit."""
    with warnings.catch_warnings():
        # Standard error is for one line that matters.
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # click's own main() would add an empty line to an interrupt.
        with _commands.make_context("kiwicha", list(sys.argv[1:] if arguments is None else arguments)) as context:
            _commands.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "kiwicha"
        return _say(f"{error.format_message()} See '{command} --help'.", 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", 1)
    except BrokenPipeError:
        # The reader has gone; Python must not trip over that again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
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


def _say(message: str, status: int) -> int:
    print("kiwicha: " + " ".join(message.split()), file=sys.stderr)
    return status


def _version() -> str:
    try:
        return importlib.metadata.version("kiwicha")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, from sources"


def _known_device(context: click.Context, option: click.Parameter, value: str) -> str:
    if value in ("golden", "verilated") or (value.startswith("serial:") and value != "serial:"):
        return value
    raise click.BadParameter(f"{value!r} is not golden, verilated or serial:PORT.", context, option)


def _needs_verilated(context: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """The device comes first: it is eager."""
    if value is not None and context.params["device"] != "verilated":
        raise click.UsageError(f"--report needs --device verilated, not {context.params['device']}.", context)
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(_version(), prog_name="kiwicha")
def _commands() -> None:
    """Kiwicha: an open accelerator for matrices of narrow numbers."""


_PATH = click.Path(path_type=Path)
_config_option = click.option("--config", default="ulx3s_85f", show_default=True, metavar="NAME|FILE.toml",
                              help="The chip: a name that `kiwicha configs` lists, or a file.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def _device_options(command):
    for option in (_json_option,
                   click.option("--report", type=_PATH, metavar="DIR", callback=_needs_verilated,
                                help="Write time line, roofline and figures to this folder; verilated only."),
                   click.option("--device", default="verilated", show_default=True,
                                callback=_known_device, is_eager=True,
                                metavar="golden|verilated|serial:PORT", help="What runs it."),
                   _config_option):
        command = option(command)
    return command


# What there is.

@_commands.command()
@_json_option
def configs(as_json: bool) -> None:
    """List the named configurations."""
    rows = [{"config": name, "rows": config.rows, "columns": config.columns, "formats": list(config.formats),
             "multiplier": config.multiplier, "bus_bits": config.bus_width,
             "scratchpad_kib": config.scratchpad_bytes / 1024,
             "accumulator_kib": config.accumulator_bytes / 1024,
             "peak_macs_per_cycle": config.peak_macs_per_cycle} for name, config in PRESETS.items()]
    if not as_json:
        rows = [{"config": row["config"], "array": f"{row['rows']}x{row['columns']}",
                 "multiplier": row["multiplier"], "formats": row["formats"], "bus, bits": row["bus_bits"],
                 "scratchpad, KiB": row["scratchpad_kib"], "accumulators, KiB": row["accumulator_kib"],
                 "MACs/cycle": row["peak_macs_per_cycle"]} for row in rows]
    show_rows("configurations", rows, as_json)


@_commands.command()
@_json_option
def boards(as_json: bool) -> None:
    """List the boards that bitstreams can be built for."""
    from ..fpga import board_rows
    show_rows("boards", board_rows(), as_json)


# Work.

@_commands.command()
@click.argument("a_file", metavar="A.npy", type=_PATH)
@click.argument("b_file", metavar="B.npy", type=_PATH)
@click.option("-o", "output", type=_PATH, metavar="C.npy", help="Write the result here.")
@click.option("--a-format", type=click.Choice(_A_FORMATS), default="int8", show_default=True)
@click.option("--b-format", type=click.Choice(_A_FORMATS), default="int8", show_default=True)
@click.option("--block", type=click.Choice(("0", *_BLOCKS)), default="0", show_default=True,
              help="Elements per scale block along K; 0: integer GEMM.")
@click.option("--a-scale", "a_scale_file", type=_PATH, metavar="S.npy", help="E8M0 codes [M, ceil(K/G)].")
@click.option("--b-scale", "b_scale_file", type=_PATH, metavar="S.npy",
              help="E8M0 codes [ceil(K/G), N] or [ceil(K/G), ceil(N/G)].")
@click.option("--bias", "bias_file", type=_PATH, metavar="B.npy", help="int32 [N], float32 if block-scaled.")
@click.option("--out", type=click.Choice(_OUT), help="Output format; default int32, fp32 if block-scaled.")
@click.option("--out-scale", metavar="X|S.npy", help="Factor before the output: a number, or float32 [N].")
@click.option("--out-zero-point", type=int, default=0, show_default=True, help="Added to an int8 output.")
@click.option("--relu", is_flag=True, help="Replace negative results by zero.")
@click.option("--out-block", type=click.Choice(_BLOCKS), help="Scale block of an e4m3 or e2m1 output.")
@click.option("--scale-rule", type=click.Choice(("rceil", "floor")), help="How such an output is scaled.")
@_device_options
def gemm(a_file: Path, b_file: Path, output: Path | None, a_format: str, b_format: str, block: str,
         a_scale_file: Path | None, b_scale_file: Path | None, bias_file: Path | None, out: str | None,
         out_scale: str | None, out_zero_point: int, relu: bool, out_block: str | None, scale_rule: str | None,
         config: str, device: str, report: Path | None, as_json: bool) -> None:
    """Multiply A [M, K] by B [K, N] on a device."""
    from .. import metrics, operands
    from ..files import check_writable, read_array, write_arrays
    from ..report import write_report

    group, out = int(block), out or ("fp32" if int(block) else "int32")
    _check_combinations(group, a_scale_file, b_scale_file, out, out_block, scale_rule)
    chip = ChipConfig.load(config)
    if output is not None:
        check_writable(output)
        if out in _BLOCK_OUT:
            check_writable(output.with_suffix(".scale.npy"))
    _check_report(report)
    a = operands.from_codes("A", read_array(a_file), a_format)
    b = operands.from_codes("B", read_array(b_file), b_format)
    arguments: dict[str, Any] = {
        "block": group, "out": out, "out_scale": _factor(out_scale), "out_zero_point": out_zero_point,
        "relu": relu, **{name: read_array(path) for name, path in
           (("bias", bias_file), ("a_scale", a_scale_file), ("b_scale", b_scale_file)) if path is not None}}
    if out in _BLOCK_OUT:
        arguments |= {"out_block": int(out_block or 32), "scale_rule": scale_rule or "rceil"}
    spec, _ = operands.gemm_request(chip, a, b, **arguments)     # fails before the device is built
    with _open(device, chip, report) as opened:
        c = opened.gemm(a, b, **arguments)
        result = opened.last_result
    if result is None:
        raise RuntimeError(f"device {device!r} has not said how the program ran")
    fresh = c[1] if spec.out_block else None
    if output is not None:
        scale_file = {} if fresh is None else {output.with_suffix(".scale.npy"): fresh}
        write_arrays({output: _codes(c[0] if spec.out_block else c)} | scale_file)
    shape = spec.shape(chip)
    scales = sum(item.size for item in (arguments.get("a_scale"), arguments.get("b_scale"), fresh)
                 if item is not None)
    work = metrics.gemm_work(spec.m, spec.n, spec.k, a_per_byte=shape.a_per_byte, b_per_byte=shape.b_per_byte,
                             out_bits=shape.element_bits, scale_bytes=scales)
    figures = {"m": spec.m, "n": spec.n, "k": spec.k, **metrics.figures(device, chip, work, result)}
    if report is not None:
        write_report(report, chip, work, result, figures=figures)
    show_figures(figures, as_json)


def _check_report(folder: Path | None) -> None:
    from ..report import check_report
    if folder is not None:
        check_report(folder)


def _open(device: str, chip: ChipConfig, report: Path | None) -> Any:
    """The device; with a trace if there is to be a report."""
    from ..devices import open_device
    return open_device(device, chip, **({} if report is None else {"trace": True}))


def _codes(array: Any) -> Any:
    """Types that numpy's files do not know, as unsigned codes."""
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def _check_combinations(group: int, a_scale: Path | None, b_scale: Path | None, out: str, out_block: str | None,
                        scale_rule: str | None) -> None:
    """Options that need one another."""
    if group and (a_scale is None or b_scale is None):
        raise click.UsageError("--block needs --a-scale and --b-scale.", click.get_current_context())
    if not group and (a_scale or b_scale):
        raise click.UsageError("--a-scale and --b-scale need --block.", click.get_current_context())
    if group and out == "int32":
        raise click.UsageError("--out int32 is for integer GEMM; with --block use fp32.",
                               click.get_current_context())
    if (out_block or scale_rule) and out not in _BLOCK_OUT:
        raise click.UsageError("--out-block and --scale-rule need --out e4m3 or e2m1.",
                               click.get_current_context())


def _factor(text: str | None) -> Any:
    """--out-scale: a number or the array in a file."""
    from ..files import read_array
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        if not text.endswith(".npy"):
            raise ValueError(f"--out-scale must be a number or a .npy file, not {text!r}") from None
    return read_array(Path(text))


@_commands.command()
@click.argument("model", metavar="MODEL.onnx", type=_PATH)
@click.argument("input_file", metavar="INPUT.npy", type=_PATH)
@click.option("-o", "output", type=_PATH, metavar="OUT.npy", help="Write the result here.")
@_device_options
def run(model: Path, input_file: Path, output: Path | None, config: str, device: str, report: Path | None,
        as_json: bool) -> None:
    """Run a quantized ONNX model on a device."""
    from .. import metrics
    from ..compiler import compile_onnx
    from ..devices import memory_latency_of
    from ..files import FileProblem, check_writable, read_array, write_array
    from ..inference import infer
    from ..report import Layers, write_report

    chip = ChipConfig.load(config)
    if output is not None:
        check_writable(output)
    _check_report(report)
    if not model.is_file():
        raise FileProblem(f"no such file: {model}")
    images = read_array(input_file)
    network = compile_onnx(chip, model, memory_latency=memory_latency_of(device))
    network.graph.encode(images)        # fails on wrong images before the device is built
    with _open(device, chip, report) as opened:
        outputs, result = infer(opened, network, images)
    if output is not None:
        write_array(output, outputs)
    work = metrics.Work(network.macs(len(images)), network.compulsory_bytes(len(images)))
    layers = [dataclasses.asdict(layer) for layer in network.layers]
    figures = {"images": len(images), **metrics.figures(device, chip, work, result), "layers": layers}
    if report is not None:
        # The compiled chip's memory has no limit, so that one program computes all images.
        parts = Layers([layer.name for layer in network.layers], network.layer_works(len(images)),
                       network.instruction_layers(len(images)))
        write_report(report, chip, work, result, figures=figures, layers=parts)
    show_figures(figures, as_json)


# The hardware.

@_commands.command()
@click.option("-o", "folder", type=_PATH, metavar="DIR", help="Default: build/verilog.")
@_config_option
def verilog(folder: Path | None, config: str) -> None:
    """Write the chip as Verilog, with a map of its names, lint waivers and the C header."""
    from .. import toolchain
    from ..verilog import write_verilog
    for path in write_verilog(ChipConfig.load(config), folder or toolchain.build_root() / "verilog"):
        print(path)


@_commands.command()
@click.option("--board", required=True, metavar="NAME", help="A name that `kiwicha boards` lists.")
@click.option("--config", metavar="NAME|FILE.toml", help="The chip. Default: the board's.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the placement.  [default: the board's choice]")
@click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: the report is JSON anyway.")
def synth(board: str, config: str | None, seed: int | None, as_json: bool) -> None:
    """Build a bitstream; prints the report as JSON."""
    from rich.console import Console

    from ..fpga import synthesise
    chip = None if config is None else ChipConfig.load(config)
    # On a terminal only: in a file, standard error has at most one line, which says what is wrong.
    with Console(stderr=True).status("") as status:
        report = synthesise(board, chip, seed, status.update)
    print_json(report)


if __name__ == "__main__":
    main()
