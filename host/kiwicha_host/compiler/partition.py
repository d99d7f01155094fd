"""Which operators run on the chip, and which on the host."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from .errors import CompileError
from .ir.graph import Graph, Op
from .ir.layers import LayerCheck, LayerGraph
from .legalize.growth import Growth
from .passes.unfold import unfold
from .products import PRODUCTS, ProductPart, check_product
from .shared_weights import shared_weights

__all__ = ["HostSubgraph", "LayerSubgraph", "ProductSubgraph", "Subgraph", "partition"]


@dataclass(frozen=True)
class LayerSubgraph:
    """Operators that are layers of one program."""
    ops: tuple[Op, ...]
    layers: LayerGraph

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item.name for item in self.layers.inputs))

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.layers.outputs)


@dataclass(frozen=True)
class ProductSubgraph:
    """One product, whose operands need not be constant."""
    part: ProductPart

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.part.op,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.part.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.part.output,)


@dataclass(frozen=True)
class HostSubgraph:
    """Operators for the host, and why, by the operators' names.

    `shared` are constants that count as inputs with a default, as :func:`.shared_weights` says.
    """
    graph: Graph
    why: dict[str, str]
    shared: frozenset[str] = frozenset()


Subgraph = LayerSubgraph | ProductSubgraph | HostSubgraph


def partition(graph: Graph, check: LayerCheck = lambda layer: None) -> list[Subgraph]:
    """The parts of `graph`, in an order in which they can run.

    `check` raises :exc:`CompileError` for a layer that the chip is too small for; its operator is the host's then.

    In turn, as many operators as the chip can run, with what is there by then, and as many as the host has to.
    Of the chip's, those that share a tensor are one subgraph, if they are layers; other products are one each.
    Codes become numbers in each of the host's subgraphs that needs these, for ONNX Runtime makes one operator of a
    DequantizeLinear and what follows it.
    """
    finder = _Finder(graph, check)
    parts: list[LayerSubgraph | ProductSubgraph | list[Op]] = []    # lists are for the host
    while finder.left:
        waiting = len(finder.left)
        parts += [*finder.layers(), *finder.products()]
        host = finder.host()
        assert len(finder.left) < waiting, "operators wait for one another"
        if parts and isinstance(parts[-1], list):
            parts[-1] += host
        elif host:
            parts.append(host)
    return [finder.host_subgraph(part) if isinstance(part, list) else part for part in parts]


def _host_subgraph(graph: Graph, ops: list[Op], decoders: dict[str, Op], why: dict[str, str], shared: Set[str]
                   ) -> HostSubgraph:
    names = {op.name for op in ops} | {decoders[name].name for op in ops for name in op.reads if name in decoders}
    kept = [op for op in graph.ops if op.name in names]
    inside = tuple(part for op in kept for part in unfold(op))
    elsewhere = (op for op in graph.ops if op.name not in names)
    wanted = {*graph.outputs, *(name for op in elsewhere for name in op.reads)}
    wanted.update(*(decoders[name].reads for name in wanted & decoders.keys()))
    outputs = tuple(name for op in ops for name in op.outputs if name in wanted)
    part = graph.part(inside, outputs)
    return HostSubgraph(part, {op.name: why[op.name] for op in kept}, frozenset(shared & part.constants.keys()))


class _Finder:
    """What of `graph` is in no subgraph yet, and what is there for the next one.

    Attributes
    ----------
    left : list of Op
        Operators in no subgraph, in the graph's order; without the host's decoders.
    """

    def __init__(self, graph: Graph, check: LayerCheck):
        self._graph, self._check = graph, check
        self.left = list(graph.ops)
        self._why: dict[str, str] = {}      # of the operators that are for the host
        self._refused = dict[str, str]()    # why products are none of the chip's
        self._products = {op.name for op in graph.ops if op.kind in PRODUCTS and self._is_product(op)}
        self._decoders: dict[str, Op] = {}  # for the host, by what they make; each of its subgraphs has its own
        self._shared = shared_weights(graph)
        self._done = {*graph.inputs, *graph.constants}

    def _is_product(self, op: Op) -> bool:
        try:
            check_product(op, self._graph)
        except CompileError as error:
            self._refused[op.name] = str(error)
            return False
        return True

    def layers(self) -> list[LayerSubgraph]:
        """As many operators as can be layers now."""
        decoded = {name for name, op in self._decoders.items() if set(op.reads) <= self._done}
        growth = Growth(self._graph, self.left, self._done | decoded, self._why.keys(), self._check)
        subgraphs = [LayerSubgraph(ops, layers) for ops, layers in growth.subgraphs()]
        self._why |= {name: self._refused.get(name, why) for name, why in growth.why.items()
                      if name not in self._products}
        self._take(subgraphs)
        return subgraphs

    def products(self) -> list[ProductSubgraph]:
        """Products whose operands are there."""
        subgraphs = []
        for op in self.left:
            if op.name in self._products and set(op.reads) <= self._done:
                here = {name: self._graph.constants[name] for name in op.inputs if name in self._graph.constants}
                subgraphs.append(ProductSubgraph(ProductPart(op, here)))
        self._take(subgraphs)
        return subgraphs

    def _take(self, subgraphs: Sequence[LayerSubgraph | ProductSubgraph]) -> None:
        names = {op.name for subgraph in subgraphs for op in subgraph.ops}
        self.left = [op for op in self.left if op.name not in names]
        self._done.update(name for subgraph in subgraphs for name in subgraph.outputs)

    def host(self) -> list[Op]:
        """All that the host has to run and can now, but for decoders."""
        self._find_decoders()
        done = set(self._done)
        now: list[Op] = []
        for op in self.left:
            done.update(name for name, decoder in self._decoders.items() if set(decoder.reads) <= done)
            if op.name in self._why and set(op.reads) <= done:
                now.append(op)
                done.update(filter(None, op.outputs))
        names = {op.name for op in now}
        self.left = [op for op in self.left if op.name not in names]
        self._done.update(name for op in now for name in op.outputs if name)
        return now

    def host_subgraph(self, ops: list[Op]) -> HostSubgraph:
        """`ops`, with the decoders that they need."""
        return _host_subgraph(self._graph, ops, self._decoders, self._why, self._shared)

    def _find_decoders(self) -> None:
        """The host's operators that make numbers of codes, for others of the host's."""
        decoded = {name for op in self._graph.ops if op.kind == "DequantizeLinear" for name in op.outputs}
        others = {name for op in self.left if op.kind != "DequantizeLinear" for name in op.reads}
        found = {op.outputs[0]: op for op in self.left
                 if op.kind == "DequantizeLinear" and op.name in self._why and op.outputs[0] in others
                 and op.outputs[0] not in self._graph.outputs and not decoded & set(op.reads)}
        self._decoders |= found
        self.left = [op for op in self.left if op.outputs[0] not in found]
