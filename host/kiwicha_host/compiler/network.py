"""Networks: layers to programs.

A network is cut into segments. A segment's layers run with all their weights and activations in the
scratchpad, each layer's epilogue writing into the next layer's padded input, and several groups of images are
under way at once, each one layer ahead of the next group. A layer whose result several others need ends a segment;
one that does not fit that way is a segment of its own, "streamed": tiles of its input and its weights come from
memory as they are needed. Layers of the vector unit join products where each place is made of the same place,
"pointwise": groups of places go through all of them. Otherwise one is a segment, too, and tiles of its operands
come from memory. Between segments the feature maps of the whole batch are in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES

from .. import arguments
from ..job import Job
from ..memory_latency import MEMORY_LATENCY
from ..metrics import Work
from .errors import CompileError
from .ir.layers import Input, LayerGraph, Output
from .legalize.to_layers import to_layers
from .lower.autotune import BUDGET
from .lower.feature_maps import FeatureMaps
from .lower.network_program import NetworkProgram, arranged_inputs, network_program
from .lower.schedule import scheduled
from .lower.segments import packed_weights, plans_of, segments_of
from .optimize import optimize
from .program.memory_map import Region, ceil_div

__all__ = ["CompiledNetwork", "LayerInfo", "NetworkJob", "compile_onnx"]


@dataclass(frozen=True)
class LayerInfo:
    """What a report says of a layer; macs and shape [H, W, C] are for one image.

    Of a product that is a GEMM of its own: for all that it computed.
    """
    name: str
    op: str
    macs: int
    shape: tuple[int, ...]
    weight_bytes: int


@dataclass
class NetworkJob(Job):
    """A job that knows how many images it computes."""
    images: int = 0


def compile_onnx(config: ChipConfig, model: Any, *, memory_latency: int = MEMORY_LATENCY) -> "CompiledNetwork":
    """Compile a model that is all for the chip, in one program: for other models, there is
    :func:`.compile_model`.

    Parameters
    ----------
    model : an ONNX file, its bytes, or an ``onnx.ModelProto``

    Raises
    ------
    TypeError
        `config` or `model` is something else.
    CompileError
        The model is unreadable, has something the chip cannot do, or a layer does not fit; in one line.
    """
    arguments.chip(config)
    return CompiledNetwork(config, to_layers(optimize(model)), memory_latency=memory_latency)


class CompiledNetwork:
    """A network for one configuration; takes any number of images.

    For the choice of a layer's program, `budget` instructions are simulated.

    Attributes
    ----------
    graph : LayerGraph
        In the order in which the layers run.
    layers : list of LayerInfo
    segments : list of (first layer, layers, images in a group; 0 where not resident)
    """

    def __init__(self, config: ChipConfig, graph: LayerGraph, *, memory_latency: int = MEMORY_LATENCY,
                 budget: int = BUDGET):
        self.config = arguments.chip(config)
        self.graph = scheduled(arguments.instance("graph", graph, LayerGraph))
        memory_latency = arguments.integer("memory_latency", memory_latency, 0)
        self._maps = FeatureMaps(self.graph)
        self.plans = plans_of(config, self.graph, self._maps)
        self._segments = segments_of(config, self.plans, self._maps, memory_latency, budget)
        self.layers = [LayerInfo(layer.name, layer.op, layer.real_macs, (*layer.out_size, layer.out_channels),
                                 plan.weight_bytes)
                       for layer, plan in zip(self.graph.layers, self.plans, strict=True)]
        self._weights = packed_weights(self.plans)
        self._arranged = arranged_inputs(self.graph, self.plans, self._maps)
        self._built = lru_cache(maxsize=4)(partial(
            network_program, config, self._segments, self._maps, self._weights.size, self._arranged))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it takes."""
        return tuple(dict.fromkeys(item.name for item in self.graph.inputs))

    @property
    def segments(self) -> list[tuple[int, int, int]]:
        return [(item.first, len(item.plans), getattr(item, "group", 0)) for item in self._segments]

    def macs(self, images: int) -> int:
        """Multiply-accumulates that the model asks for."""
        arguments.integer("images", images, 1)
        return images * sum(layer.macs for layer in self.layers)

    def compulsory_bytes(self, images: int) -> int:
        """Bytes that any chip has to move: input and output codes, weights, biases and scales, once each."""
        return sum(work.compulsory_bytes for work in self.layer_works(images))

    def layer_works(self, images: int) -> list[Work]:
        """Each layer's part of the work: an input's bytes are the first's that takes them, an output's the last's
        that makes them."""
        arguments.integer("images", images, 1)
        traffic = [plan.constant_bytes for plan in self.plans]
        for number, size in self._maps.traffic():
            traffic[number] += images * size
        return [Work(images * layer.real_macs, count)
                for layer, count in zip(self.graph.layers, traffic, strict=True)]

    def instructions(self, images: int) -> int:
        return len(self._program(images).code) // INSTRUCTION_BYTES

    def instruction_layers(self, images: int) -> np.ndarray:
        """The layer of each instruction of the program for so many images."""
        return self._program(images).layers

    def memory_bytes(self, images: int) -> int:
        """Memory that a job of so many images takes."""
        return self._program(images).memory_bytes

    def output_region(self, images: int) -> Region:
        """Where all that the chip makes for the host is, in the memory of a job of so many images."""
        return self._program(images).outputs

    def output_layouts(self, images: int) -> dict[str, tuple[int, str, tuple[int, ...], tuple[int, ...]]]:
        """Of each output, by name: its address in the memory of a job of so many images, what it is of, its shape
        [images, height, width, channels] and its strides, in bytes."""
        memory, program = np.zeros(self.memory_bytes(images), np.uint8), self._program(images)
        boxes = {item.name: self._box(memory, program, item.view, images) for item in self.graph.outputs}
        return {name: (box.__array_interface__["data"][0] - memory.__array_interface__["data"][0], box.dtype.name,
                       box.shape, box.strides) for name, box in boxes.items()}

    def images_per_job(self, images: int, memory_limit: int | None) -> int:
        """The largest part of `images` that a job can hold in `memory_limit` bytes.

        Raises
        ------
        CompileError
            Not even one image fits.
        """
        part = arguments.integer("images", images, 1)
        if memory_limit is None:
            return part
        arguments.integer("memory_limit", memory_limit, 0)
        while self.memory_bytes(part) > memory_limit:
            if part == 1:
                raise CompileError(f"the network needs {self.memory_bytes(1)} bytes of memory for one image; "
                                   f"the device has {memory_limit}")
            part = ceil_div(part, 2)
        return part

    def batch_job(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> NetworkJob:
        """Memory image and program for a batch: arrays by name as the model takes them, or the only one.

        Raises
        ------
        CompileError
            `inputs` has a wrong shape, type or value, or the program would be too long.
        """
        arrays = self._arrays(inputs)
        self.check_inputs(arrays)
        images = len(arrays[self.inputs[0]])
        program = self._program(images)
        memory = np.zeros(program.memory_bytes, np.uint8)
        memory[:self._weights.size] = self._weights
        for item in self.graph.inputs:
            self._put(memory, program, item, self.graph.encode(item, arrays[item.name]))
        memory[program.address:program.address + len(program.code)] = np.frombuffer(program.code, np.uint8)
        return NetworkJob(memory=memory, program_address=program.address,
                          program_count=len(program.code) // INSTRUCTION_BYTES,
                          window=(0, program.memory_bytes - 1), constant=self._weights.size, images=images)

    def _arrays(self, inputs: Any) -> Mapping[str, np.ndarray]:
        if isinstance(inputs, Mapping):
            if missing := [name for name in self.inputs if name not in inputs]:
                raise CompileError(f"input {missing[0]!r} is missing; the network takes {', '.join(self.inputs)}")
            return {name: arguments.array(name, inputs[name]) for name in self.inputs}
        if len(self.inputs) != 1:
            raise CompileError(f"the model takes {len(self.inputs)} inputs by name, {', '.join(self.inputs)}")
        return {self.inputs[0]: arguments.array("inputs", inputs)}

    def check(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> None:
        """Raise :exc:`CompileError` unless the network takes `inputs`."""
        self.check_inputs(self._arrays(inputs))

    def check_inputs(self, arrays: Mapping[str, np.ndarray]) -> None:
        """As :meth:`check`, of as many of the inputs as there are."""
        for item in self.graph.inputs:
            if item.name in arrays:
                item.check(arrays[item.name])
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) > 1:
            raise CompileError("the inputs must be for as many images each, not "
                               + ", ".join(f"{name!r} for {size}" for name, size in sizes.items()))

    def _put(self, memory: np.ndarray, program: NetworkProgram, item: Input, images: np.ndarray) -> None:
        """An input's codes, [N, H, W, C], to where the chip takes them."""
        plan = self._arranged.get(item.map)
        if plan is None:
            self._box(memory, program, self.graph.whole(item.map), len(images))[:] = images
            return
        codes, base = plan.arrange(images), program.bases[item.map]
        memory[base:base + codes.size] = codes.view(np.uint8).reshape(-1)

    def _box(self, memory: np.ndarray, program: NetworkProgram, view: Any, images: int) -> np.ndarray:
        """What of the memory a view is, of its map's elements [images, H, W, C]."""
        view = self.graph.rooted(view)
        whole, base = self.graph.maps[view.map], program.bases[view.map]
        data = memory[base:base + images * whole.image_bytes].view(whole.dtype)
        (y, x), (dy, dx), (h, w) = view.origin, view.step, view.size
        return data.reshape(images, *whole.size, whole.channels)[
            :, y:y + h * dy:dy, x:x + w * dx:dx, view.channel:view.channel + view.channels]

    def codes(self, job: NetworkJob) -> np.ndarray:
        """The int8 (or uint8) codes of the only output after the run."""
        return self.only_output.codes(self._results(job, self.only_output))

    def outputs(self, job: NetworkJob) -> np.ndarray:
        """The model's only output after the run."""
        return self.only_output.decode(self._results(job, self.only_output))

    def results(self, job: NetworkJob) -> dict[str, np.ndarray]:
        """All outputs after the run, by name."""
        return {item.name: item.decode(self._results(job, item)) for item in self.graph.outputs}

    @property
    def only_output(self) -> Output:
        """The output of a network that has one; :exc:`CompileError` if it has several."""
        if len(self.graph.outputs) != 1:
            raise CompileError(f"the network has {len(self.graph.outputs)} outputs; ask for them by name")
        return self.graph.outputs[0]

    def _results(self, job: NetworkJob, item: Output) -> np.ndarray:
        arguments.instance("job", job, NetworkJob)
        return self._box(job.memory, self._program(job.images), item.view, job.images)

    def _program(self, images: int) -> NetworkProgram:
        return self._built(arguments.integer("images", images, 1))
