"""Which operators run on the chip, and which on the host."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import CompileError
from .ir.graph import Graph, Op
from .ir.layers import LayerChain
from .legalize.chain import Chain
from .legalize.to_layers import SUPPORTED, extend, finished, start
from .passes.fold_qdq import unfold
from .products import PRODUCTS, ProductPart, check_product

__all__ = ["ChainSubgraph", "HostSubgraph", "ProductSubgraph", "Subgraph", "partition"]

#: What the chip runs in another form.
_FLOATS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class ChainSubgraph:
    """A path of operators that are one chain of layers: of one tensor it makes another."""
    ops: tuple[Op, ...]
    chain: LayerChain
    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


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
    def output(self) -> str:
        return self.part.output


@dataclass(frozen=True)
class HostSubgraph:
    """Operators for the host, and why, by the operators' names."""
    graph: Graph
    why: dict[str, str]


Subgraph = ChainSubgraph | ProductSubgraph | HostSubgraph


def partition(graph: Graph) -> list[Subgraph]:
    """The parts of `graph`, in an order in which they can run.

    Each subgraph of the chip is a path, of whose tensors nothing else needs any but the last: so it can be
    replaced by one operator. All operators of the host that need nothing from subgraphs which have not run are one
    subgraph. Codes become numbers in each subgraph that needs these, for ONNX Runtime makes one operator of a
    DequantizeLinear and what follows it.
    """
    finder = _Finder(graph)
    subgraphs = list(finder.subgraphs())
    member = {op.name for subgraph in subgraphs for op in subgraph.ops}
    left = [op for op in graph.ops if op.name not in member]
    others = {name for op in left if op.kind != "DequantizeLinear" for name in op.reads}
    decoders = {op.outputs[0]: op for op in left if op.kind == "DequantizeLinear" and op.outputs[0] in others
                and op.outputs[0] not in graph.outputs and not set(op.reads) & {
                    name for other in left if other.kind == "DequantizeLinear" for name in other.outputs}}
    left = [op for op in left if op.outputs[0] not in decoders]
    done = {*graph.inputs, *graph.constants}
    parts: list[Subgraph] = []
    while left or subgraphs:
        done.update(name for name, op in decoders.items() if set(op.reads) <= done)
        now, later = [], []
        for op in left:
            if set(op.reads) <= done:
                now.append(op)
                done.update(name for name in op.outputs if name)
                done.update(name for name, decoder in decoders.items()
                            if name not in done and set(decoder.reads) <= done)
            else:
                later.append(op)
        if now:
            parts.append(_host_subgraph(graph, now, decoders, finder.why))
        ready = [subgraph for subgraph in subgraphs if done.issuperset(subgraph.inputs)]
        assert now or ready, "subgraphs wait for one another"
        left, subgraphs = later, [subgraph for subgraph in subgraphs if not done.issuperset(subgraph.inputs)]
        done.update(subgraph.output for subgraph in ready)
        parts += ready
    return parts


def _host_subgraph(graph: Graph, ops: list[Op], decoders: dict[str, Op], why: dict[str, str]) -> HostSubgraph:
    """`ops`, with the decoders that they need."""
    names = {op.name for op in ops} | {decoders[name].name for op in ops for name in op.reads if name in decoders}
    kept = [op for op in graph.ops if op.name in names]
    inside = tuple(part for op in kept for part in unfold(op))
    elsewhere = (op for op in graph.ops if op.name not in names)
    wanted = {*graph.outputs, *(name for op in elsewhere for name in op.reads)}
    wanted.update(*(decoders[name].reads for name in wanted & decoders.keys()))
    outputs = tuple(name for op in ops for name in op.outputs if name in wanted)
    return HostSubgraph(graph.part(inside, outputs), {op.name: why[op.name] for op in kept})


class _Finder:
    """Subgraphs for the chip, and why each other operator is in none."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.why: dict[str, str] = {}
        self._taken: set[str] = set()
        readers: dict[str, list[Op]] = {}
        for op in graph.ops:
            for name in dict.fromkeys(op.reads):
                readers.setdefault(name, []).append(op)
        self._readers = readers
        self._reads = Counter(name for op in graph.ops for name in op.reads)

    def subgraphs(self) -> Iterator[ChainSubgraph | ProductSubgraph]:
        for op in self.graph.ops:
            if op.name in self._taken:
                continue
            subgraph = self._grown(op) or self._product(op)
            if subgraph is not None:
                self._taken.update(item.name for item in subgraph.ops)
                yield subgraph

    def _grown(self, op: Op) -> ChainSubgraph | None:
        """The longest subgraph that starts with `op`; None, and the reason noted, if there is none."""
        graph = self.graph
        if op.kind not in SUPPORTED:
            self.why[op.name] = "computes in floating point; the chip needs codes" if op.kind in _FLOATS else (
                f"the chip does not run {op.kind}")
            return None
        source = next((name for name in op.inputs if name and name not in graph.constants), "")
        if not source:
            self.why[op.name] = "takes constants alone"
            return None
        try:
            chain = self._start(source)
            extend(chain, op, graph)
        except CompileError as error:
            self.why[op.name] = str(error)
            return None
        ops: list[Op] = []
        best: ChainSubgraph | None = None
        following: Op | None = op
        while following is not None:
            ops.append(following)
            if self._may_end(chain):
                best = ChainSubgraph(tuple(ops), finished(chain), source, chain.last)
            following, chain = self._next(chain), chain.copy()
            try:
                if following is not None:
                    extend(chain, following, graph)
            except CompileError:
                break
        if best is None:
            self.why[op.name] = "nothing that it leads to is for the chip"
        return best

    def _product(self, op: Op) -> ProductSubgraph | None:
        """A subgraph of `op` alone; None, and the reason noted, if it is no product of codes."""
        if op.kind not in PRODUCTS:
            return None
        try:
            check_product(op, self.graph)
        except CompileError as error:
            self.why[op.name] = str(error)
            return None
        here = {name: self.graph.constants[name] for name in op.inputs if name in self.graph.constants}
        return ProductSubgraph(ProductPart(op, here))

    def _start(self, source: str) -> Chain:
        chain = start(source, self.graph.types.get(source))
        if not chain.quantized and source not in self.graph.inputs:
            raise CompileError(f"takes numbers, {source!r}, that the host computes")
        return chain

    def _may_end(self, chain: Chain) -> bool:
        """Numbers are for the host's own operators, which know best what to do before they are codes again."""
        useful = any(layer.real_macs or layer.pool for layer in chain.result.layers)
        return useful and (not chain.dequantized or chain.last in self.graph.outputs)

    def _next(self, chain: Chain) -> Op | None:
        """The only operator that takes the result, if nothing else needs that."""
        readers = self._readers.get(chain.last, [])
        if len(readers) != 1 or self._reads[chain.last] != 1 or chain.last in self.graph.outputs:
            return None
        op = readers[0]
        return op if op.kind in SUPPORTED and op.name not in self._taken else None
