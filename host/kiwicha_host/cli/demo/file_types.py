"""Magika, Google's model of what kind of file some bytes are: a published model with the code around it.

The package from PyPI reads the file, makes the model's input and judges its output, as it always does; only the
model itself, quantized, runs on the chip.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from ...compiler.frontend.onnx.quantizer import quantize_model
from ...devices import Device, open_device
from ...extras import MissingExtra, extra
from ...model import Model, load_model
from .batches import Batches, run_in_batches
from .checks import check, in_onnxruntime
from .figures import shaded, show_placement, show_run

__all__ = ["CALIBRATION", "PICTURE", "show_file_types"]

#: A picture in an installed package: Rear Admiral Grace Hopper.
PICTURE = "matplotlib/mpl-data/sample_data/grace_hopper.jpg"
#: Other files, which show the quantizer what values occur in the model.
CALIBRATION = (
    "matplotlib/mpl-data/sample_data/Minduka_Present_Blue_Pack.png", "matplotlib/mpl-data/images/home.svg",
    "matplotlib/mpl-data/images/home.pdf", "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf",
    "matplotlib/mpl-data/sample_data/s1045.ima.gz", "matplotlib/mpl-data/sample_data/msft.csv",
    "matplotlib/pyplot.py", "kiwicha_host/driver/kiwicha_driver.c", "kiwicha_host/models/digits_test.npz",
    "kiwicha_host/models/digits_mlp.onnx")
#: Lines and columns of the picture in the terminal, and kinds of files beside it.
LINES, COLUMNS, KINDS = 16, 28, 3

_Values = Mapping[str, np.ndarray]


def show_file_types(console: Console, device: Device) -> None:
    """Quantize the model, let the chip say what the picture's bytes are, and check each probability.

    Raises
    ------
    MissingExtra
        A package is not installed.
    CompileError
        The model does not fit the chip or its memory.
    """
    with extra("demo"):
        import magika
        from PIL import Image, ImageOps
    identifier = magika.Magika()
    folder = Path(magika.__file__).parent / "models" / identifier.get_model_name()
    published = (folder / "model.onnx").read_bytes()
    with console.status("Quantizing Magika's model ..."):
        samples, _ = _identify(identifier, CALIBRATION, lambda inputs: in_onnxruntime(published, inputs))
        data = quantize_model(published, samples.inputs)
        model = load_model(data, device=device)
    picture = _installed(PICTURE)
    console.print(f"\n[bold]Magika {folder.name}[/], from PyPI: what kind of file is {picture.name}? "
                  f"{sum(row.macs for row in model.placement):,} multiply-accumulates")
    runs: list[Batches] = []

    def on_chip(inputs: _Values) -> _Values:
        runs.append(run_in_batches(console, model, inputs, 1, "files"))
        return runs[-1].outputs

    said, (result,) = _identify(identifier, [PICTURE], on_chip)
    with open_device("golden", device.config) as golden:
        expected = Model(model.compiled, golden).run(said.inputs)
    checks = (check("the golden machine", expected, said.outputs),
              check("ONNX Runtime", in_onnxruntime(data, said.inputs), said.outputs))
    with Image.open(picture) as image:
        pixels = np.asarray(ImageOps.autocontrast(image.convert("L").resize((COLUMNS, LINES)))) / 255
    kinds = json.loads((folder / "config.min.json").read_text(encoding="utf-8"))["target_labels_space"]
    exact = in_onnxruntime(published, said.inputs)["target_label"][0]
    _show_picture(console, pixels, kinds, said.outputs["target_label"][0], exact, result)
    console.print(f"  every probability equals that of {' and '.join(checks)}")
    show_placement(console, model, runs[0])
    show_run(console, device.config, runs[0].result, runs[0].macs, 1, "file")


class _Session:
    """Stands where Magika has its session of ONNX Runtime: computes, and keeps what came and went."""

    def __init__(self, compute: Callable[[_Values], _Values]):
        self._compute = compute
        self.inputs: _Values = {}
        self.outputs: _Values = {}

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[np.ndarray]:
        self.inputs = {name: np.array(rows, np.int32) for name, rows in feeds.items()}
        self.outputs = self._compute(self.inputs)
        return [self.outputs[name] for name in names]


def _identify(identifier: Any, files: Sequence[str], compute: Callable[[_Values], _Values]
              ) -> tuple[_Session, list[Any]]:
    """What Magika says of `files` if `compute` is its model; and what went through that."""
    identifier._onnx_session = session = _Session(compute)
    results = identifier.identify_paths([_installed(name) for name in files])
    if len(session.inputs.get("bytes", ())) != len(files):
        raise RuntimeError(f"Magika asked its model about {len(session.inputs.get('bytes', ()))} files, not "
                           f"{len(files)}: pip install 'kiwicha[demo]' installs a release that does")
    return session, results


def _installed(name: str) -> Path:
    """A file in an installed package.

    Raises
    ------
    MissingExtra
        There is no such package, or not with this file in it.
    """
    package, _, rest = name.partition("/")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / rest).is_file():
            return Path(folder) / rest
    raise MissingExtra(f"{name} is not installed; pip install 'kiwicha[demo]'", name=package)


def _show_picture(console: Console, pixels: np.ndarray, kinds: Sequence[str], probabilities: np.ndarray,
                  exact: np.ndarray, result: Any) -> None:
    """The picture, beside what the chip takes its bytes for, and what the model does that is not quantized."""
    beside = [f"{'':14} {'the chip':>8} {'as published':>12}"]
    beside += [f"{kinds[kind]:14} {probabilities[kind]:8.3%} {exact[kind]:12.3%}"
               for kind in probabilities.argsort()[::-1][:KINDS]]
    beside[1] += f"  <- {result.output.description}"
    above = (len(pixels) - len(beside)) // 2
    for row, line in enumerate(pixels):
        text = beside[row - above] if 0 <= row - above < len(beside) else ""
        console.print(Text(f"    {shaded(line)}    {text}", style="bold" if row == above + 1 else ""))
