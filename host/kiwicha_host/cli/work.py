"""The command ``gemm``, and what it has in common with ``run``."""

import os
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS

from .options import PATH, device_options
from .tables import show_figures

__all__ = ["check_report_folder", "chip_of", "figures_to", "gemm", "open_for", "outputs_of"]

_A_FORMATS = tuple(FORMATS)
_OUT = ("int32", "fp32", "bf16", "int8", "e4m3", "e2m1", "mxint8")
_BLOCK_OUT = ("e4m3", "e2m1", "mxint8")
_BLOCKS = ("16", "32", "64", "128")


@click.command()
@click.argument("a_file", metavar="A.npy", type=PATH)
@click.argument("b_file", metavar="B.npy", type=PATH)
@click.option("-o", "output", type=PATH, metavar="C.npy", help="Write the result here.")
@click.option("--a-format", type=click.Choice(_A_FORMATS), default="int8", show_default=True)
@click.option("--b-format", type=click.Choice(_A_FORMATS), default="int8", show_default=True)
@click.option("--block", type=click.Choice(("0", *_BLOCKS)), default="0", show_default=True,
              help="Elements per scale block along K; 0: integer GEMM.")
@click.option("--a-scale", "a_scale_file", type=PATH, metavar="S.npy", help="E8M0 codes [M, ceil(K/G)].")
@click.option("--b-scale", "b_scale_file", type=PATH, metavar="S.npy",
              help="E8M0 codes [ceil(K/G), N] or [ceil(K/G), ceil(N/G)].")
@click.option("--bias", "bias_file", type=PATH, metavar="B.npy", help="int32 [N], float32 if block-scaled.")
@click.option("--out", type=click.Choice(_OUT), help="Output format; default int32, fp32 if block-scaled.")
@click.option("--out-scale", metavar="X|S.npy", help="Factor before the output: a number, or float32 [N].")
@click.option("--out-zero-point", type=int, default=0, show_default=True, help="Added to an int8 output.")
@click.option("--relu", is_flag=True, help="Replace negative results by zero.")
@click.option("--out-block", type=click.Choice(_BLOCKS), help="Scale block of an e4m3, e2m1 or mxint8 output.")
@click.option("--scale-rule", type=click.Choice(("rceil", "floor")), help="How such an output is scaled.")
@device_options
def gemm(a_file: Path, b_file: Path, output: Path | None, a_format: str, b_format: str, block: str,
         a_scale_file: Path | None, b_scale_file: Path | None, bias_file: Path | None, out: str | None,
         out_scale: str | None, out_zero_point: int, relu: bool, out_block: str | None, scale_rule: str | None,
         config: str, device: str, report: Path | None, as_json: bool) -> None:
    """Multiply A [M, K] by B [K, N] on a device."""
    from .. import metrics
    from ..files import write_arrays
    from ..report import write_report
    from ..request import GemmRequest

    group, out = int(block), out or ("fp32" if int(block) else "int32")
    _check_combinations(group, a_scale_file, b_scale_file, out, out_block, scale_rule)
    chip = chip_of(config, a_file, b_file, a_scale_file, b_scale_file, bias_file, _factor_file(out_scale))
    outputs = outputs_of(output, as_json, scaled=out in _BLOCK_OUT)
    check_report_folder(report)
    request = GemmRequest(
        _operand("A", a_file, a_format), _operand("B", b_file, b_format), block=group, out=out,
        a_scale=_array(a_scale_file), b_scale=_array(b_scale_file), bias=_array(bias_file),
        out_scale=_factor(out_scale), out_zero_point=out_zero_point, relu=relu,
        out_block=int(out_block or 32) if out in _BLOCK_OUT else 0, scale_rule=scale_rule or "rceil")
    request.check(chip)         # fails before the device is built
    with open_for(device, chip, report) as opened:
        result = opened.compute(request)
    arrays = [result.codes] if result.c_scale is None else [result.codes, result.c_scale]
    write_arrays(dict(zip(outputs, arrays, strict=True)) if outputs else {})
    spec, work = request.spec, metrics.request_work(request)
    figures = {"m": spec.m, "n": spec.n, "k": spec.k, **metrics.figures(device, chip, work, result.run)}
    if report is not None:
        write_report(report, chip, work, result.run, figures=figures)
    show_figures(figures, as_json, figures_to(outputs))


def chip_of(config: str, *inputs: Path | None) -> ChipConfig:
    """The configuration, when it is known that no stream is to be read twice."""
    from ..files import check_inputs
    check_inputs(path for path in (Path(config) if os.sep in config else None, *inputs) if path is not None)
    return ChipConfig.load(config)


def outputs_of(output: Path | None, as_json: bool, *, scaled: bool = False) -> list[Path]:
    """Where results go, the scales of a `scaled` one second; known to be possible before there are any."""
    from ..files import check_writable, is_stdout, is_stream
    if output is None:
        return []
    clash = ""
    if as_json and is_stdout(output):
        clash = f"-o {output} and --json would both write to standard output"
    elif scaled and is_stream(output):
        clash = f"-o {output} has room for one array, but this output is two, C.npy and C.scale.npy"
    if clash:
        raise click.UsageError(f"{clash}; give -o a file's name.", click.get_current_context())
    outputs = [output, output.with_suffix(".scale.npy")] if scaled else [output]
    for path in outputs:
        check_writable(path)
    return outputs


def figures_to(outputs: list[Path]) -> TextIO | None:
    """Standard error if the result goes to standard output."""
    from ..files import is_stdout
    return sys.stderr if any(map(is_stdout, outputs)) else sys.stdout


def _array(path: Path | None) -> Any:
    from ..files import read_array
    return None if path is None else read_array(path)


def _operand(name: str, path: Path, element_format: str) -> Any:
    from ..operands import from_codes
    return from_codes(name, _array(path), element_format)


def check_report_folder(folder: Path | None) -> None:
    from ..report import check_report
    if folder is not None:
        check_report(folder)


def open_for(device: str, chip: ChipConfig, report: Path | None) -> Any:
    """The device; with a trace if there is to be a report."""
    from ..devices import open_device
    return open_device(device, chip, **({} if report is None else {"trace": True}))


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
        raise click.UsageError("--out-block and --scale-rule need --out e4m3, e2m1 or mxint8.",
                               click.get_current_context())


def _factor_file(text: str | None) -> Path | None:
    """The file that --out-scale names; None if it is a number, or not given."""
    if text is None:
        return None
    try:
        float(text)
    except ValueError:
        path = PATH.convert(text, None, click.get_current_context())
        if text == "-" or os.sep in text or text.lower().endswith(".npy"):
            return path
        raise ValueError(f"--out-scale must be a number or a .npy file, not {text!r}") from None
    return None


def _factor(text: str | None) -> Any:
    """--out-scale: a number or the array in a file."""
    file = _factor_file(text)
    return _array(file) if text is None or file is not None else float(text)
