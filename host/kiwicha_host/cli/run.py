"""The command ``run``: models."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from .options import FOLDER, PATH, device_options
from .tables import show_figures
from .work import check_report_folder, chip_of, figures_to, open_for, outputs_of

if TYPE_CHECKING:
    from ..compiler.ir.graph import Graph
    from ..compiler.model import CompiledModel, Placement

__all__ = ["run"]

#: So many reasons for the host are printed, with operators of so many kinds each.
_CAUSES, _KINDS = 5, 3


class _Dim(click.ParamType):
    """NAME=N."""

    name = "dimension"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        name, equals, size = value.rpartition("=")
        if not (name and equals and size.isascii() and size.isdigit() and int(size) > 0):
            self.fail(f"{value!r} is not a dimension's name, '=' and a positive number.", param, ctx)
        return name, int(size)


@click.command()
@click.argument("model", metavar="MODEL.onnx", type=PATH)
@click.argument("inputs", metavar="[NAME=]INPUT.npy ...", nargs=-1, required=True)
@click.option("-o", "output", metavar="OUT.npy|DIR",
              help="Write the result here; several, to DIR/NAME.npy.")
@click.option("--dim", "dims", type=_Dim(), multiple=True, metavar="NAME=N",
              help="The size of a dimension that the model only names.")
@click.option("--quantize", "calibration", multiple=True, metavar="[NAME=]CALIBRATION.npy",
              help="Quantize a float model on these inputs first.")
@click.option("--emit-c", "c_folder", type=FOLDER, metavar="DIR",
              help="Write driver, program and a main in C for these inputs.")
@click.option("--strict", is_flag=True, help="Fail if something would run on the host.")
@click.option("--dump-after", metavar="PASS", help="Print the compiler's graph after this pass (standard error).")
@device_options
def run(model: Path, inputs: Sequence[str], output: str | None, dims: Sequence[tuple[str, int]],
        calibration: Sequence[str], c_folder: Path | None, strict: bool, dump_after: str | None, config: str,
        device: str, report: Path | None, as_json: bool) -> None:
    """Run an ONNX model: its quantized products on a device, all else in ONNX Runtime."""
    from ..compiler import CompileError
    from ..compiler.model import compile_model
    from ..compiler.optimize import STAGES
    from ..devices import memory_latency_of
    from ..emit_c import c_sources
    from ..files import is_stdout, is_stream, make_folder, read_model, write_arrays, write_texts
    from ..model import run_model

    if dump_after is not None and dump_after not in STAGES:
        raise click.BadParameter(f"{dump_after!r} is not one of {', '.join(STAGES)}.", param_hint="--dump-after")
    files = [Path(_file_of(text)) for text in (*inputs, *calibration)]
    chip = chip_of(config, model, *files)
    check_report_folder(report)
    if output is not None and is_stdout(Path(output)):
        outputs_of(Path(output), as_json)
    source, sizes = read_model(model), dict(dims)
    if calibration:
        source = _quantized(source, calibration, sizes)
    compiled = compile_model(chip, source, dims=sizes, strict=strict, memory_latency=memory_latency_of(device),
                             watch=lambda name, graph: _dump(graph) if name == dump_after else None)
    results = _results(output, compiled.outputs, as_json)
    values = _named(inputs, compiled.inputs)
    compiled.check(values)              # fails on wrong inputs before the device is built
    if report is not None and all(row.place == "host" for row in compiled.placement):
        raise CompileError("nothing of the model runs on the chip, so that there is nothing to report")
    if c_folder is not None:
        write_texts(c_folder, c_sources(compiled, values, model.name))
    with open_for(device, chip, report) as opened:
        done = run_model(opened, compiled, values)
    for path in results:
        if not is_stream(path):
            make_folder(path.parent)
    write_arrays({path: np.asarray(done.outputs[name]) for path, name in results.items()})
    figures = _figures(device, compiled, done)
    if report is not None:
        _write_report(report, compiled, done, figures)
    if figures["macs_host"] and not figures["macs_chip"]:
        click.echo("kiwicha: no product of the model is one of codes, so that all ran on the host; --quantize "
                   "SAMPLES.npy quantizes a float model for the chip", err=True)
    elif figures["host"] and not as_json:
        click.echo(f"kiwicha: {figures['nodes_host']} of {len(compiled.placement)} operators ran on the host, "
                   f"with {figures['macs_host']:,} of {figures['macs_host'] + done.work.macs:,} "
                   "multiply-accumulates; --json lists them", err=True)
    if not as_json:
        for line in _causes(compiled.placement):
            click.echo(f"  {line}", err=True)
    show_figures(figures, as_json, figures_to(list(results)))


def _dump(graph: "Graph") -> None:
    click.echo(graph.dump(), err=True, nl=False)


# Inputs and outputs.

def _file_of(text: str) -> str:
    """The file in NAME=FILE; a file may have "=" in its name too."""
    return text if "=" not in text or Path(text).exists() else text.partition("=")[2]


def _named(texts: Sequence[str], names: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by the inputs' names; those without a name are for the first inputs without an array."""
    from ..compiler import CompileError
    from ..files import read_array
    files: dict[str, str] = {}
    unnamed = []
    for text in texts:
        name = next((name for name in names if text.startswith(f"{name}=")), None)
        if name is None and _file_of(text) != text:
            raise CompileError(f"the model has no input {text.partition('=')[0]!r}; it takes {_listed(names)}")
        if name is None:
            unnamed.append(text)
        elif name in files:
            raise CompileError(f"input {name!r} is given twice")
        else:
            files[name] = text[len(name) + 1:]
    left = [name for name in names if name not in files]
    if len(unnamed) > len(left):
        raise CompileError(f"the model takes {len(names)} inputs, {_listed(names)}, not {len(texts)}")
    files |= dict(zip(left, unnamed, strict=False))
    context = click.get_current_context()
    return {name: read_array(PATH.convert(file, None, context)) for name, file in files.items()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _results(output: str | None, names: Sequence[str], as_json: bool) -> dict[Path, str]:
    """Where each of the outputs goes; known to be possible before there are any."""
    from ..compiler import CompileError
    from ..files import check_folder, is_stream
    if output is None:
        return {}
    if len(names) == 1 and not output.endswith(os.sep) and not Path(output).is_dir():
        path = PATH.convert(output, None, click.get_current_context())
        return dict.fromkeys(outputs_of(path, as_json), names[0])
    if is_stream(folder := Path(output)):
        raise CompileError(f"-o {output} has room for one array, but the model has {len(names)} outputs, "
                           f"{', '.join(names)}; give a folder")
    files = [re.sub(r"[^\w.-]", "_", name).lstrip(".")[:100] + ".npy" for name in names]
    if len(set(files)) < len(files):
        files = [f"{number}_{file}" for number, file in enumerate(files)]
    check_folder(folder, files)
    return {folder / file: name for file, name in zip(files, names, strict=True)}


def _quantized(source: Any, calibration: Sequence[str], dims: Mapping[str, int]) -> bytes:
    from ..compiler.frontend.onnx.quantizer import model_inputs, quantize_model
    return quantize_model(source, _named(calibration, dict.fromkeys(model_inputs(source))), dims)


# Figures.

def _causes(rows: Iterable["Placement"]) -> list[str]:
    """Why operators ran on the host, a line for each reason: first those with most products, then most operators.
    """
    from ..compiler.legalize.growth import is_cause
    found: dict[str, list[Placement]] = {}
    for row in rows:
        if row.place == "host" and is_cause(row.why):
            found.setdefault(row.why.removeprefix(f"{row.op} {row.node!r}: "), []).append(row)
    order = sorted(found.items(), key=lambda item: (-sum(row.macs for row in item[1]), -len(item[1])))
    lines = [f"{_some(rows)}: {why}" for why, rows in order[:_CAUSES]]
    return [*lines, f"and {len(order) - _CAUSES} more"] if len(order) > _CAUSES else lines


def _some(rows: Sequence["Placement"]) -> str:
    """The first operator of each of a few kinds, and how many there are."""
    firsts: dict[str, str] = {}
    for row in rows:
        firsts.setdefault(row.op, row.node)
    shown = list(firsts.items())[:_KINDS]
    names, more = ", ".join(f"{op} {node!r}" for op, node in shown), len(rows) - len(shown)
    return f"{names} and {more} more" if more else names


def _figures(device: str, compiled: "CompiledModel", done: Any) -> dict[str, Any]:
    from .. import metrics
    rows = compiled.placement
    host = [{"node": row.node, "op": row.op, "why": row.why} for row in rows if row.place == "host"]
    layers = [dataclasses.asdict(layer) for layer in done.layers]
    return {"images": done.images,
            **metrics.figures(device, compiled.config, done.work, done.result),
            "nodes_chip": len(rows) - len(host), "nodes_host": len(host), "macs_chip": done.work.macs,
            "macs_host": done.host_macs, "host_s": done.host_s, "layers": layers, "host": host}


def _write_report(folder: Path, compiled: "CompiledModel", done: Any, figures: Mapping[str, Any]) -> None:
    from ..report import Layers, Piece, write_report
    layers = None
    if done.of_instruction is not None:
        layers = Layers([layer.name for layer in done.layers], done.works, done.of_instruction)
    pieces = [Piece("edge", tuple(f"input {name}" for name in compiled.inputs), outputs=tuple(compiled.inputs)),
              *(Piece(*item) for item in compiled.outline),
              Piece("edge", tuple(f"output {name}" for name in compiled.outputs), compiled.outputs)]
    write_report(folder, compiled.config, done.work, done.result, figures=figures, layers=layers, pieces=pieces)
