"""Networks: layers to programs.

A network is cut into segments. A segment's layers run with all their weights and activations in the
scratchpad, each layer's epilogue writing into the next layer's padded input, and several groups of images are
under way at once, each one layer ahead of the next group. A layer that does not fit that way is a segment of
its own, "streamed": tiles of its input and its weights come from memory as they are needed. Between segments
the activations of the whole batch are in memory, NHWC.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES

from .. import arguments
from ..job import Job
from ..memory_latency import MEMORY_LATENCY
from ..metrics import Work
from .errors import CompileError
from .ir.layers import LayerChain
from .legalize.to_layers import to_layers
from .lower.autotune import BUDGET
from .lower.conv.emitter import Emitter
from .lower.conv.plan import ConvPlan, plan_layer
from .lower.conv.resident import Resident
from .lower.conv.streamed import Streamed
from .optimize import optimize
from .program.memory_map import MemoryMap, Region, ceil_div

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


@dataclass(frozen=True)
class _Program:
    """A program for some number of images, the layer of each instruction, and where its data are."""
    code: bytes
    layers: np.ndarray
    address: int
    inputs: Region
    outputs: Region
    memory_bytes: int


def compile_onnx(config: ChipConfig, model: Any, *, memory_latency: int = MEMORY_LATENCY) -> "CompiledNetwork":
    """Compile a model that is one chain of layers, all of it for the chip: for other models, there is
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
    layers : list of LayerInfo
    segments : list of (first layer, layers, images in a group; 0 where streamed)
    """

    def __init__(self, config: ChipConfig, chain: LayerChain, *, memory_latency: int = MEMORY_LATENCY,
                 budget: int = BUDGET):
        self.config = arguments.chip(config)
        self.chain = arguments.instance("chain", chain, LayerChain)
        memory_latency = arguments.integer("memory_latency", memory_latency, 0)
        self.plans = [plan_layer(config, layer, from_host=i == 0) for i, layer in enumerate(chain.layers)]
        self._segments = _cut(config, self.plans, memory_latency, budget)
        self.layers = [LayerInfo(layer.name, layer.op, layer.real_macs, (*layer.out_size, layer.out_channels),
                                 layer.weights.size) for layer in chain.layers]
        self._weights = _packed(self.plans)
        self._built = lru_cache(maxsize=4)(self._build)

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
        """Each layer's part of the work: the first has the input's bytes, the last the output's."""
        arguments.integer("images", images, 1)
        layers = self.chain.layers
        traffic = [layer.weights.size + 8 * layer.out_channels for layer in layers]
        first, last = layers[0], layers[-1]
        traffic[0] += images * first.size[0] * first.size[1] * first.channels
        traffic[-1] += images * last.out_size[0] * last.out_size[1] * last.out_channels
        return [Work(images * layer.real_macs, count) for layer, count in zip(layers, traffic, strict=True)]

    def instructions(self, images: int) -> int:
        return len(self._program(images).code) // INSTRUCTION_BYTES

    def instruction_layers(self, images: int) -> np.ndarray:
        """The layer of each instruction of the program for so many images."""
        return self._program(images).layers

    def memory_bytes(self, images: int) -> int:
        """Memory that a job of so many images takes."""
        return self._program(images).memory_bytes

    def output_region(self, images: int) -> Region:
        """Where the last layer's codes are in the memory of a job of so many images, int8 [images, H, W, C]."""
        return self._program(images).outputs

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

    def batch_job(self, inputs: np.ndarray) -> NetworkJob:
        """Memory image and program for a batch, as the model takes it.

        Raises
        ------
        CompileError
            `inputs` has a wrong shape, type or value, or the program would be too long.
        """
        codes = self.plans[0].arrange(self.chain.encode(arguments.array("inputs", inputs)))
        program = self._program(len(codes))
        memory = np.zeros(program.memory_bytes, np.uint8)
        memory[:self._weights.size] = self._weights
        memory[program.inputs.base:program.inputs.end] = codes.view(np.uint8).reshape(-1)
        memory[program.address:program.address + len(program.code)] = np.frombuffer(program.code, np.uint8)
        return NetworkJob(memory=memory, program_address=program.address,
                          program_count=len(program.code) // INSTRUCTION_BYTES,
                          window=(0, program.memory_bytes - 1), images=len(codes))

    def check(self, inputs: np.ndarray) -> None:
        """Raise :exc:`CompileError` unless the model takes `inputs`."""
        self.chain.check(arguments.array("inputs", inputs))

    def codes(self, job: NetworkJob) -> np.ndarray:
        """The last layer's int8 (or uint8) codes after the run."""
        return self.chain.codes(self._results(job))

    def outputs(self, job: NetworkJob) -> np.ndarray:
        """The model's output after the run."""
        return self.chain.decode(self._results(job))

    def _results(self, job: NetworkJob) -> np.ndarray:
        arguments.instance("job", job, NetworkJob)
        region, last = self._program(job.images).outputs, self.chain.layers[-1]
        data = job.memory[region.base:region.end].view(np.int8)
        return data.reshape(job.images, *last.out_size, last.out_channels)

    def _program(self, images: int) -> _Program:
        return self._built(arguments.integer("images", images, 1))

    def _build(self, images: int) -> _Program:
        memory = MemoryMap()
        weights = memory.region(self._weights.size)
        sizes = [self.plans[0].image_bytes] + [
            plan.layer.out_size[0] * plan.layer.out_size[1] * plan.layer.out_channels
            for plan in (segment.plans[-1] for segment in self._segments)]
        between = [memory.region(images * size) for size in sizes]
        emitter, base = Emitter(), weights.base
        for i, segment in enumerate(self._segments):
            segment.emit(emitter, images, base, between[i].base, between[i + 1].base)
            emitter.barrier()
            base += sum(plan.weight_lines for plan in segment.plans) * self.config.line_bytes
        try:
            code = emitter.builder.assemble()
        except CompileError:
            raise
        except ValueError as error:
            raise CompileError(f"the network does not fit an instruction's fields: {error}") from None
        program, layers = memory.region(len(code)), np.array(emitter.layers, np.intp)
        return _Program(code, layers, program.base, between[0], between[-1], memory.size)


def _packed(plans: list[ConvPlan]) -> np.ndarray:
    """All weights and parameters, as bytes; one layer at a time, for memory's sake."""
    sizes = [plan.weight_lines * plan.config.line_bytes for plan in plans]
    packed = np.empty(sum(sizes), np.uint8)
    for plan, size, end in zip(plans, sizes, accumulate(sizes), strict=True):
        packed[end - size:end] = plan.packed().reshape(-1)
    return packed


def _cut(config: ChipConfig, plans: list[ConvPlan], memory_latency: int, budget: int
         ) -> list["Resident | Streamed"]:
    """Segments: as many layers each as fit the scratchpad together."""
    segments: list[Resident | Streamed] = []
    first = 0
    while first < len(plans):
        best = None
        for last in range(first + 1, len(plans) + 1):
            # Output blocks are the next layer's input segments only if the array is square.
            if last - first > 1 and config.rows != config.columns:
                break
            fitting = Resident.of(config, first, plans[first:last])
            if fitting is None:
                break
            best = fitting
        segment = best or Streamed.best(config, first, plans[first], memory_latency, budget)
        segments.append(segment)
        first += len(segment.plans)
    return segments
