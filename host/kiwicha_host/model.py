"""Models that stay loaded: compiled once, run many times."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from kiwicha import ChipConfig

from . import arguments
from .compiler.host import HostPart
from .compiler.model import ChipPart, CompiledModel, Placement, compile_model
from .compiler.network import LayerInfo
from .compiler.products import ProductPart
from .devices import Device, memory_latency_of, open_device
from .inference import infer
from .job import Result
from .metrics import Work

__all__ = ["Model", "ModelRun", "load_model"]


@dataclass(frozen=True)
class ModelRun:
    """One run of a model.

    Parameters
    ----------
    outputs : arrays by name
    result : how the chip's programs went together
    layers, works : what the chip was asked to do, in order; a product that is a GEMM of its own is a layer
    of_instruction : int [instructions], the layer of each that ran, if the device recorded that; else None
    host_macs : multiply-accumulates of the host's products
    host_s : seconds that the host's operators took
    images : of the first of the model's inputs
    """
    outputs: Mapping[str, Any]
    result: Result
    layers: Sequence[LayerInfo]
    works: Sequence[Work]
    of_instruction: np.ndarray | None
    host_macs: int
    host_s: float
    images: int

    @property
    def work(self) -> Work:
        """All that the chip was asked to do."""
        return Work(sum(work.macs for work in self.works), sum(work.compulsory_bytes for work in self.works))


class _Chip:
    """The chip's part of a run, as it goes on."""

    def __init__(self, device: Device):
        self._device = device
        self.result: Result | None = None
        self.layers: list[LayerInfo] = []
        self.works: list[Work] = []
        self.owners: list[np.ndarray] = []

    def run(self, part: ChipPart | ProductPart, values: dict[str, Any]) -> None:
        first = len(self.layers)
        if isinstance(part, ChipPart):
            network = part.network
            inputs = {name: values[name] for name in network.inputs}
            outputs, result = infer(self._device, network, inputs)
            values |= outputs
            images = len(inputs[network.inputs[0]])
            self.layers += network.layers
            self.works += network.layer_works(images)
            # A device that records has room for all images at once.
            owners = network.instruction_layers(images) if result.trace else None
        else:
            values[part.output], result, work = part.run(self._device, values)
            shape = values[part.output].shape
            self.layers.append(LayerInfo(part.op.name, part.op.kind, work.macs, shape, 0))
            self.works.append(work)
            owners = np.zeros(result.trace.program_count, np.intp) if result.trace else None
        self.result = result if self.result is None else self.result + result
        self.owners += [] if owners is None else [owners + first]


def run_model(device: Device, model: CompiledModel, inputs: Mapping[str, Any]) -> ModelRun:
    """Run `model` on `device`, and its other parts here.

    Raises
    ------
    CompileError
        An input is missing, unknown, or of a wrong shape, type or value; or one image does not fit the device's
        memory.
    DeviceError
        A program ended in an error.
    """
    sizes = model.check(inputs)
    for network in model.networks:      # before anything runs
        network.images_per_job(1, device.memory_limit)
    # A number by itself is an array without dimensions; lists are ONNX's sequences.
    values: dict[str, Any] = {name: np.asarray(value) if isinstance(value, np.generic) else value
                              for name, value in inputs.items()} | dict(model.constants)
    first = next((value.shape for value in values.values() if isinstance(value, np.ndarray)), ())
    chip, host_s = _Chip(device), 0.0
    for part in model.parts:
        if isinstance(part, HostPart):
            began = time.perf_counter()
            values |= part.run(values)
            host_s += time.perf_counter() - began
        else:
            chip.run(part, values)
    device.last_result = result = chip.result or Result(0)
    return ModelRun({name: values[name] for name in model.outputs}, result, chip.layers, chip.works,
                    np.concatenate(chip.owners) if chip.owners else None, model.host_macs(sizes), host_s,
                    first[0] if first else 1)


class Model:
    """A compiled model on a device. Close it, or use it in a ``with`` statement.

    Attributes
    ----------
    compiled : CompiledModel
    device : Device
    last_run : ModelRun or None
    """

    def __init__(self, compiled: CompiledModel, device: Device, *, owns: bool = False):
        self.compiled = arguments.instance("compiled", compiled, CompiledModel)
        self.device = arguments.instance("device", device, Device)
        self.last_run: ModelRun | None = None
        self._owns = owns
        self._worker: ThreadPoolExecutor | None = None

    @property
    def placement(self) -> Sequence[Placement]:
        """Where each operator runs: rows of (node, op, "chip" or "host", macs, why)."""
        return self.compiled.placement

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's outputs by name, from its inputs by name.

        Raises
        ------
        CompileError
            An input is missing, unknown, or of a wrong shape, type or value.
        DeviceError
            A program ended in an error.
        """
        arguments.instance("inputs", inputs, Mapping)
        self.last_run = run = run_model(self.device, self.compiled, inputs)
        return dict(run.outputs)

    def submit(self, inputs: Mapping[str, Any]) -> "Future[dict[str, np.ndarray]]":
        """Begin a :meth:`run`; the future's ``result()`` waits for the outputs, or raises what the run raised.

        A model's runs go one after the other, in the order in which they were submitted; those of several models
        on one device share it.

        Raises
        ------
        CompileError
            An input is missing, unknown, or of a wrong shape, type or value: at once.
        """
        self.compiled.check(arguments.instance("inputs", inputs, Mapping))
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "kiwicha")
        return self._worker.submit(self.run, dict(inputs))

    def close(self) -> None:
        """End what was submitted, and close the device, if it was opened for this model alone."""
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None
        if self._owns:
            self.device.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def load_model(model: Any, config: Any = "ulx3s_85f", device: str | Device = "verilated", *,
               dims: Mapping[str, int] | None = None, strict: bool = False) -> Model:
    """Compile a model and open a device for it.

    Parameters
    ----------
    model : an ONNX file, its bytes, or an ``onnx.ModelProto``
    config : a ChipConfig, a preset's name or a file; what an open `device` has
    device : golden, verilated or serial:PORT, or an open device, on which several models can run
    dims : sizes of dimensions that have a name in the model
    strict : refuse a model of which the host would have to run something

    Raises
    ------
    CompileError
        The model is unreadable, a dimension has no size, or a layer does not fit.
    """
    if dims is not None:
        dims = {name: arguments.integer(f"dims[{name!r}]", size, 1)
                for name, size in arguments.instance("dims", dims, Mapping).items()}
    arguments.boolean("strict", strict)
    if not isinstance(device, str | Device):
        raise TypeError(f"device must be a device or the name of one, not {arguments.shown(device)}")
    if isinstance(device, Device):
        compiled = compile_model(device.config, model, dims=dims, strict=strict,
                                 memory_latency=device.memory_latency)
        return Model(compiled, device)
    chip = config if isinstance(config, ChipConfig) else ChipConfig.load(config)
    compiled = compile_model(chip, model, dims=dims, strict=strict, memory_latency=memory_latency_of(device))
    return Model(compiled, open_device(device, chip), owns=True)
