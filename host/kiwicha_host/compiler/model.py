"""Models: parts for the chip and parts for the host, and the tensors between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from kiwicha import ChipConfig

from .. import arguments
from ..memory_latency import MEMORY_LATENCY
from .errors import CompileError
from .frontend.onnx.model_file import read_model
from .frontend.onnx.reader import graph_of
from .host import HostPart
from .ir.graph import Graph, Type
from .ir.layers import Layer, VectorLayer
from .ir.macs import macs
from .legalize.growth import is_cause
from .lower.autotune import BUDGET
from .lower.emitter import TooLarge
from .lower.segments import check_layer
from .network import CompiledNetwork
from .optimize import improve_graph
from .partition import HostSubgraph, LayerSubgraph, ProductSubgraph, Subgraph, partition
from .products import ProductPart

__all__ = ["ChipPart", "CompiledModel", "Placement", "compile_model", "first_cause"]

#: Instructions that are simulated for the choice of all programs of a model, a few seconds at most.
_SIMULATED = 10_000


class Placement(NamedTuple):
    """Where an operator runs.

    Parameters
    ----------
    node, op : its name and kind
    place : "chip" or "host"
    macs : multiply-accumulates of its products; for one image, where the model takes any number
    why : what keeps it from the chip
    """
    node: str
    op: str
    place: str
    macs: int
    why: str = ""

    @property
    def cause(self) -> str:
        """`why`, without the operator's own name."""
        return self.why.removeprefix(f"{self.op} {self.node!r}: ")


def first_cause(rows: Sequence[Placement]) -> Placement:
    """The first of the host's operators `rows` that has a reason of its own."""
    return min(rows, key=lambda row: not is_cause(row.why))


@dataclass(frozen=True)
class ChipPart:
    """Operators that are one program for the chip."""
    network: CompiledNetwork


@dataclass(frozen=True)
class CompiledModel:
    """A model for one configuration.

    Attributes
    ----------
    config : ChipConfig
    inputs : types by name; a dimension that may have any size is a name
    outputs : names
    parts : in an order in which they can run
    placement : Placement of each operator, in the model's order
    outline : of each part, "chip" or "host", its operators, and the tensors that it takes and makes, by name
    """
    config: ChipConfig
    inputs: Mapping[str, Type]
    outputs: tuple[str, ...]
    parts: Sequence[ChipPart | ProductPart | HostPart]
    placement: Sequence[Placement]
    graph: Graph
    constants: Mapping[str, np.ndarray]
    outline: Sequence[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = ()

    @property
    def networks(self) -> list[CompiledNetwork]:
        """The chip's parts."""
        return [part.network for part in self.parts if isinstance(part, ChipPart)]

    def host_macs(self, sizes: Mapping[str, int]) -> int:
        """Multiply-accumulates of the host's products; `sizes` are those of dimensions without one."""
        host = {row.node for row in self.placement if row.place == "host"}
        return sum(macs(op, self.graph, sizes) for op in self.graph.ops if op.name in host)

    def check(self, values: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The sizes of dimensions that have none in the model, by name.

        Raises
        ------
        CompileError
            An input is missing, unknown, or of a wrong shape or type.
        """
        for name in values:
            if name not in self.inputs:
                raise CompileError(f"the model has no input {name!r}; it takes "
                                   f"{', '.join(map(repr, self.inputs))}")
        sizes: dict[str, int] = {}
        for name, type_ in self.inputs.items():
            if name not in values:
                raise CompileError(f"the input {name!r} is missing; the model takes {type_}")
            _check_input(name, type_, values[name], sizes)
        for part in self.parts:
            if isinstance(part, ChipPart):
                part.network.check_inputs({name: values[name] for name in part.network.inputs if name in values})
        return sizes


def _check_input(name: str, type_: Type, value: Any, sizes: dict[str, int]) -> None:
    if type_.element == "object":       # strings
        value = np.asarray(value)
    elif type_.element != "?":          # no tensor
        value = arguments.array(name, value)
    else:
        return
    element = "object" if value.dtype.kind in "OUS" else value.dtype.name
    if element != type_.element:
        raise CompileError(f"input {name!r}: the model takes {type_.element}, not {value.dtype}")
    shape = type_.shape
    fits = shape is None or (len(shape) == value.ndim and all(
        sizes.setdefault(dim, size) == size if isinstance(dim, str) else dim == size
        for dim, size in zip(shape, value.shape, strict=True)))
    if not fits:
        known = ", ".join(f"{dim} is {sizes[dim]}" for dim in dict.fromkeys(shape or ()) if dim in sizes)
        raise CompileError(f"input {name!r}: the model takes {type_}, not {list(value.shape)}"
                           + (f"; {known}" if known else ""))


def compile_model(config: ChipConfig, model: Any, *, dims: Mapping[str, int] | None = None, strict: bool = False,
                  memory_latency: int = MEMORY_LATENCY,
                  watch: Callable[[str, Graph], None] = lambda name, graph: None) -> CompiledModel:
    """Compile an ONNX file, its bytes, or an ``onnx.ModelProto``, for memory of `memory_latency` cycles.

    Parameters
    ----------
    dims : sizes of dimensions that have a name in the model
    strict : refuse a model of which the host would have to run something
    watch : called with the graph after each of :data:`STAGES`

    Raises
    ------
    TypeError
        `config` or `model` is something else.
    CompileError
        The model is unreadable, a dimension has no size, or a layer does not fit; in one line.
    """
    arguments.chip(config)
    # The model as it came is large, and mostly of no more use.
    graph = improve_graph(graph_of(read_model(model)), dims, watch)
    subgraphs, networks = _subgraphs(config, graph, strict, memory_latency)
    whole = read_model(model) if len(subgraphs) == 1 and isinstance(subgraphs[0], HostSubgraph) else None
    parts: list[ChipPart | ProductPart | HostPart] = []
    types: dict[str, Type] = {}
    for subgraph in subgraphs:
        part: ChipPart | ProductPart | HostPart
        if isinstance(subgraph, LayerSubgraph):
            part = ChipPart(networks.pop(0))
            types |= {item.name: Type(item.dtype.name, None) for item in subgraph.layers.outputs}
        elif isinstance(subgraph, ProductSubgraph):
            part = subgraph.part
        else:
            # The whole model as it came, if nothing of it is the chip's: it may have more than tensors.
            part = HostPart(whole or subgraph.graph, types, whole=whole is not None, shared=subgraph.shared)
            types |= part.types
        parts.append(part)
    inputs = {name: graph.types.get(name, Type("?", None)) for name in graph.inputs}
    constants = {name: graph.constants[name] for name in graph.outputs if name in graph.constants}
    # Of the constants, their types are enough from here on.
    types = {**graph.types, **{name: Type.of(array) for name, array in graph.constants.items()}}
    return CompiledModel(config, inputs, graph.outputs, parts, _placement(graph, subgraphs),
                         replace(graph, constants={}, types=types), constants, list(map(_outline, subgraphs)))


def _subgraphs(config: ChipConfig, graph: Graph, strict: bool, memory_latency: int
               ) -> tuple[list[Subgraph], list[CompiledNetwork]]:
    """The parts of `graph`, and the programs of those that are layers, in the same order.

    Whether a convolution fits is known when it is settled where its feature maps are: one that does not is the
    host's.
    """
    refused = dict[str, TooLarge]()

    def check(layer: Layer | VectorLayer) -> None:
        if layer.name in refused:
            raise refused[layer.name]
        check_layer(config, layer)

    while True:
        subgraphs = partition(graph, check)
        if strict:
            _check_strictly(graph, subgraphs)
        try:
            return subgraphs, _networks(config, subgraphs, memory_latency)
        except TooLarge as error:
            if error.layer in refused:
                raise
            refused[error.layer] = error


def _check_strictly(graph: Graph, subgraphs: Sequence[Subgraph]) -> None:
    """Raise :exc:`CompileError` if anything is the host's."""
    hosts = [subgraph for subgraph in subgraphs if isinstance(subgraph, HostSubgraph)]
    whys = {name: why for subgraph in hosts for name, why in subgraph.why.items()}
    if hosts:
        first = first_cause([Placement(op.name, op.label, "host", 0, whys[op.name])
                             for op in graph.ops if op.name in whys])
        raise CompileError(f"{len(whys)} of {len(graph.ops)} operators would run on the host, the first of them "
                           f"{first.op} {first.node!r}: {first.cause}")


def _networks(config: ChipConfig, subgraphs: Sequence[Subgraph], memory_latency: int) -> list[CompiledNetwork]:
    """Programs for the layers; :exc:`.TooLarge` if one does not fit."""
    graphs = [subgraph.layers for subgraph in subgraphs if isinstance(subgraph, LayerSubgraph)]
    budget = min(BUDGET, _SIMULATED // max(1, sum(len(graph.layers) for graph in graphs)))
    return [CompiledNetwork(config, graph, memory_latency=memory_latency, budget=budget) for graph in graphs]


def _outline(subgraph: Subgraph) -> tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    if isinstance(subgraph, HostSubgraph):
        graph = subgraph.graph
        return "host", tuple(f"{op.label} {op.name}" for op in graph.ops), graph.inputs, graph.outputs
    return "chip", tuple(f"{op.label} {op.name}" for op in subgraph.ops), subgraph.inputs, subgraph.outputs


def _placement(graph: Graph, subgraphs: Sequence[Subgraph]) -> list[Placement]:
    why: dict[str, str] = {}
    chip: dict[str, int] = {}
    for subgraph in subgraphs:
        if isinstance(subgraph, HostSubgraph):
            why |= subgraph.why
        elif isinstance(subgraph, ProductSubgraph):
            chip |= {op.name: macs(op, graph, {}) for op in subgraph.ops}
        else:
            chip |= {op.name: sum(layer.real_macs for layer in subgraph.layers.layers if layer.name == op.name)
                     for op in subgraph.ops}
    return [Placement(op.name, op.label, "chip", chip[op.name]) if op.name in chip else
            Placement(op.name, op.label, "host", macs(op, graph, {}), why[op.name]) for op in graph.ops]
