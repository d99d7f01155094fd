"""As many operators as can be layers at once."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

from ..errors import CompileError
from ..ir.graph import Graph, Op
from ..ir.layers import LayerCheck, LayerGraph
from ..passes.codes import Work
from ..passes.fold_elementwise import FUNCTIONS
from ..passes.fold_qdq import ON_CODES
from ..passes.integer_products import OF_SUMS
from ..passes.repeats import REPEAT
from .floating import why_floating, why_of_sums
from .to_layers import NUMBERS, OF_NUMBERS, SUPPORTED, LayerBuilder, TooSmall

__all__ = ["Growth", "is_cause"]

#: What the chip runs in another form.
_FLOATS = frozenset((*ON_CODES, *FUNCTIONS))
#: Why the host has operators for the sake of others of its own.
_USELESS = "nothing that it leads to is for the chip"
_NEEDED, _CONSTANT = "the host needs its result too", "takes constants alone"


def is_cause(why: str) -> bool:
    """Whether a reason for the host is of the operator itself, and not of what is around it."""
    return why not in (_USELESS, _NEEDED, _CONSTANT) and not why.startswith(NUMBERS)


class Growth:
    """The layers that operators make of the tensors `done`.

    Parameters
    ----------
    graph : what they are of
    ops : those that may be layers, in the graph's order
    done : names of tensors
    others : names of operators that are not to be tried
    check : raises :exc:`CompileError` for a layer that the chip is too small for

    Attributes
    ----------
    why : {operator's name: reason}
        Of operators that can be no layers, whatever is there.
    """

    def __init__(self, graph: Graph, ops: Sequence[Op], done: Set[str], others: Set[str],
                 check: LayerCheck):
        self._graph, self._done, self._others, self._check = graph, done, others, check
        self.why: dict[str, str] = {}
        self._later = set[str]()    # what joins an operator that cannot run yet
        self._sizeless, self._work = _sizeless(graph), Work(graph)
        self._makers = {name: op for op in graph.ops for name in op.outputs}
        self._readers: dict[str, list[Op]] = {}
        for op in graph.ops:
            for name in dict.fromkeys(op.reads):
                self._readers.setdefault(name, []).append(op)
        while True:
            self._grow(ops)
            if not self._prune():
                break

    def _grow(self, ops: Sequence[Op]) -> None:
        self._builder, self._ops = LayerBuilder(self._graph, self._check), dict[str, Op]()
        for op in ops:
            if op.name in self._others or op.name in self.why or op.name in self._later:
                continue
            if op.name in self._sizeless:
                self.why[op.name] = self._sizeless[op.name]
                continue
            if op.kind not in SUPPORTED:
                self.why[op.name] = self._reason(op) or f"the chip does not run {op.kind}"
                continue
            if not all(name in self._done or name in self._builder.values for name in op.reads):
                self._foresee(op)
                continue
            try:
                if all(name in self._graph.constants for name in op.reads):
                    raise CompileError(_USELESS if op.kind == "DequantizeLinear" else _CONSTANT)
                self._builder.add(op)
                self._ops[op.name] = op
            except CompileError as error:
                # What is not where it should be may be, if the host has it first; numbers may not.
                if set(op.reads) <= self._done or op.kind in OF_NUMBERS or self._takes_numbers(op):
                    self.why[op.name] = self._reason(op, error) or str(error)

    def _takes_numbers(self, op: Op) -> bool:
        return any(value.element == "float32" for name in op.reads if (value := self._builder.values.get(name)))

    def _reason(self, op: Op, error: CompileError | None = None) -> str:
        """Why an operator that the chip has for codes is left with numbers; "" if it is the host's for another
        reason."""
        if isinstance(error, TooSmall):
            return ""
        if op.kind == OF_SUMS:
            return why_of_sums(self._work, op)
        known = op.kind in _FLOATS and (op.kind not in SUPPORTED or op.kind in OF_NUMBERS)
        return why_floating(self._work, op) if known else ""

    def _foresee(self, op: Op) -> None:
        """Find out that an operator is for the host before it can run, lest it be in another subgraph than what it
        takes.

        Numbers that the host computes, and codes of it that become numbers, lead to no layer.
        """
        for name in op.reads:
            maker = self._makers.get(name)
            if maker is not None and (maker.name in self.why or maker.name in self._others):
                try:
                    self._builder.start(name)
                except CompileError as error:
                    self.why[op.name] = self._reason(op) or str(error)
                if op.kind == "DequantizeLinear":
                    self.why[op.name] = _USELESS

    def _prune(self) -> bool:
        """Leave to the host what it does better; whether what is left has to be grown anew."""
        for op in reversed(self._ops.values()):
            # All of an operator's outputs are of one kind.
            names = [name for name in op.outputs if name]
            value = self._builder.values[names[0]]
            readers = [reader for name in names for reader in self._readers.get(name, [])]
            inside = [reader for reader in readers if reader.name in self._ops and reader.name not in self.why]
            whole = bool(readers) and len(inside) == len(readers)
            is_output = any(name in self._graph.outputs for name in names)
            # Numbers are for the host's own operators, which know best what to do before they are codes again; but
            # those of a product's sums are the chip's, with the product, and what makes codes of these.
            if value.element == "float32" and op.kind != OF_SUMS and self._builder.is_of_numbers(value):
                if not inside:
                    self.why[op.name] = _USELESS
            elif value.dequantized and not is_output and not inside:
                self.why[op.name] = _USELESS
            elif value.view is None and (is_output or not whole):
                if op.kind == REPEAT and self._waits(op):
                    self._later.add(op.name)
                    continue
                self.why[op.name] = _NEEDED if inside else _USELESS
        dropped = self._ops.keys() & (self.why.keys() | self._later)
        made = {output for name in dropped for output in self._ops[name].outputs}
        # What is left may have had such as a part of its layer.
        joined = any(self._builder.values[name].element == "float32" for name in made if name)
        for name in dropped:
            del self._ops[name]
        return joined or any(made & set(op.reads) for op in self._ops.values())

    def _waits(self, op: Op) -> bool:
        """Whether something takes its constant that has to wait for another operand."""
        return any(reader.name not in self.why and reader.name not in self._others and any(
            name not in self._done and self._makers[name].kind != REPEAT for name in reader.reads
            if name in self._makers) for reader in self._readers.get(op.outputs[0], []))

    def subgraphs(self) -> Iterator[tuple[tuple[Op, ...], LayerGraph]]:
        """Operators that share tensors, and their layers."""
        for ops in self._components():
            names = {op.name for op in ops}
            layers = self._layers(names)
            if layers.layers:
                yield ops, layers
            else:
                self.why |= dict.fromkeys(names, _USELESS)

    def _components(self) -> list[tuple[Op, ...]]:
        of_tensor: dict[str, set[str]] = {}
        members: dict[str, set[str]] = {}
        for op in self._ops.values():
            tensors = [name for name in (*op.reads, *op.outputs) if name and name not in self._graph.constants]
            joined = {op.name}.union(*(of_tensor.get(name, set()) for name in tensors))
            for name in joined:
                members[name] = joined
            of_tensor |= dict.fromkeys(tensors, joined)
            for name, known in of_tensor.items():
                if known is not joined and known & joined:
                    of_tensor[name] = joined
        found = {id(names): names for names in members.values()}
        return [tuple(op for op in self._ops.values() if op.name in names) for names in found.values()]

    def _layers(self, names: Set[str]) -> LayerGraph:
        """The layers of some operators, and the tensors that others take from them."""
        made = [output for name in names for output in self._ops[name].outputs if output]
        wanted = [name for op in self._graph.ops for name in op.outputs if name in made and (
            name in self._graph.outputs
            or any(reader.name not in names for reader in self._readers.get(name, [])))]
        taken = {name for op in names for name in self._ops[op].reads}
        whole = self._builder.finished(wanted)
        kept = [number for number, layer in enumerate(whole.layers) if layer.name in names]
        return replace(whole, layers=[whole.layers[number] for number in kept],
                       sources=[whole.sources[number] for number in kept],
                       targets=[whole.targets[number] for number in kept],
                       seconds=[whole.seconds[number] for number in kept],
                       inputs=[item for item in whole.inputs if item.name in taken])


def _sizeless(graph: Graph) -> dict[str, str]:
    """Why operators are the host's that compute with, or take, sizes which the model does not have, by name."""
    dim = next((dim for name in graph.inputs if (type_ := graph.type_of(name)) and type_.shape
                for dim in type_.shape if isinstance(dim, str)), None)
    if dim is None:
        return {}
    found, computed = dict[str, str](), set[str]()
    why = f"dimension {dim!r}, which has no size; try --dim {dim}=1"
    for op in graph.ops:
        type_ = graph.type_of(op.outputs[0])
        if op.kind in ("Shape", "Size") or (
                computed & {*op.reads} and type_ is not None and type_.element in ("int64", "int32", "bool")):
            computed.update(op.outputs)
            found[op.name] = f"computes with {why}"
        elif taken := [name for name in op.reads if name in computed]:
            found[op.name] = f"takes {taken[0]!r}, which depends on {why}"
    return found
