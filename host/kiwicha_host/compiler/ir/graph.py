"""A model as a graph: operators in the order of their execution, and the tensors between them.

Every tensor has a name and is defined once: by the graph as an input or a constant, or by one operator (static
single assignment). Passes take a graph and return one; none changes what it was given.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

__all__ = ["Graph", "GraphError", "Op", "Type", "unique_names", "with_unique_names"]


class GraphError(ValueError):
    """A graph contradicts itself; one line that names operator and tensor."""


@dataclass(frozen=True)
class Type:
    """Of a tensor: its elements, by NumPy's name, and its shape.

    A dimension is its size, or the name that the model gives it, or "?". A shape of None is not known.
    """
    element: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        return f"{self.element}[{'...' if self.shape is None else ', '.join(map(str, self.shape))}]"

    @staticmethod
    def of(array: np.ndarray) -> "Type":
        return Type(array.dtype.name, array.shape)


_CODES = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Op:
    """One operator.

    Parameters
    ----------
    name : unique in its graph; what errors and reports call it
    kind : ONNX's name of the operator, after its domain and a full stop if that is not ONNX's own
    inputs, outputs : names of tensors, in ONNX's order; "" stands for one that is left out
    attributes : by name, as Python and NumPy values
    captures : names of further tensors, which graphs among the attributes take from around them

    One that passes have made may have operators that it stands for as its attribute ``ops``: they take its inputs,
    by these names, and what they make themselves.
    """
    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    captures: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """All tensors that it needs."""
        return (*filter(None, self.inputs), *self.captures)

    def renamed(self, names: Mapping[str, str]) -> "Op":
        """This operator with inputs of other names, by the old ones, also in what it stands for; not captures."""
        known = {name: names[name] for name in self.inputs if name in names}
        if not known:
            return self
        attributes = dict(self.attributes)
        if "ops" in attributes:
            attributes["ops"] = tuple(op.renamed(known) for op in attributes["ops"])
        return replace(self, inputs=tuple(known.get(name, name) for name in self.inputs), attributes=attributes)

    @property
    def label(self) -> str:
        """The kind as people know it: of one that passes have made, the operators that it stands for."""
        kinds = [op.kind for op in self.attributes.get("ops", ())] or [self.kind.removeprefix("kiwicha.")]
        return "+".join(kind for kind in kinds if kind not in _CODES) or kinds[-1]


@dataclass(frozen=True)
class Graph:
    """A model, or a part of one.

    Parameters
    ----------
    inputs, outputs : names of tensors
    ops : in an order in which they can be executed
    constants : arrays by name
    types : of tensors by name; those of constants are their arrays'
    opsets : version of each domain of operators; ONNX's own is ""
    """
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    types: Mapping[str, Type] = field(default_factory=dict)
    opsets: Mapping[str, int] = field(default_factory=dict)

    @property
    def fixed(self) -> set[str]:
        """Names that must stay: the outputs', and those by which graphs among attributes take something."""
        return {*self.outputs, *(name for op in self.ops for name in op.captures)}

    def with_ops(self, ops: tuple[Op, ...], constants: Mapping[str, np.ndarray] | None = None) -> "Graph":
        """This graph with other operators, and without the constants and types that nobody names any more."""
        known = self.constants if constants is None else constants
        read = {*self.outputs, *(name for op in ops for name in op.reads)}
        named = {*self.inputs, *read, *(name for op in ops for name in op.outputs)}
        return replace(self, ops=ops, constants={name: array for name, array in known.items() if name in read},
                       types={name: type_ for name, type_ in self.types.items() if name in named})

    def part(self, ops: tuple[Op, ...], outputs: tuple[str, ...]) -> "Graph":
        """A graph of some operators, whose inputs are what they need from the others."""
        made = {name for op in ops for name in op.outputs}
        read = dict.fromkeys(name for op in ops for name in op.reads)
        inputs = tuple(name for name in read if name not in made and name not in self.constants)
        return replace(self, inputs=inputs, outputs=outputs).with_ops(ops)

    def type_of(self, name: str) -> Type | None:
        """The type of a tensor, if it is known."""
        return Type.of(self.constants[name]) if name in self.constants else self.types.get(name)

    def verify(self) -> "Graph":
        """This graph.

        Raises
        ------
        GraphError
            A tensor is defined twice, or used before it is defined or without that; two operators share a name; or
            what one stands for takes something else than that does.
        """
        defined: set[str] = set()
        for name in (*self.inputs, *self.constants):
            _define(defined, name, "the graph")
        names: set[str] = set()
        for op in self.ops:
            if op.name in names:
                raise GraphError(f"two operators are called {op.name!r}")
            names.add(op.name)
            for name in op.reads:
                if name not in defined:
                    raise GraphError(f"{op.kind} {op.name!r} takes {name!r}, which nothing before it makes")
            _check_inside(op)
            for name in filter(None, op.outputs):
                _define(defined, name, f"{op.kind} {op.name!r}")
        for name in self.outputs:
            if name not in defined:
                raise GraphError(f"nothing makes the output {name!r}")
        return self

    def same(self, other: "Graph") -> bool:
        """Whether both are equal, to the bits of all constants (and NaN like NaN)."""
        return (self.inputs, self.outputs, self.ops, self.types, self.opsets) == (
            other.inputs, other.outputs, other.ops, other.types, other.opsets) and (
            _bits(self.constants) == _bits(other.constants))

    def dump(self) -> str:
        """The graph as text: a line for the graph, for each constant and for each operator.

        ::

            graph(x: int8[N, 4]) -> (y: int8[N, 4])
              two: int8[] = 2
              y: int8[N, 4] = Max 'limit' (x, two)
        """
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"graph({', '.join(map(self._typed, self.inputs))}) -> ({', '.join(map(self._typed, self.outputs))})"
        for name, array in self.constants.items():
            yield f"  {self._typed(name)} = {_short(array)}"
        for op in self.ops:
            attributes = ", ".join(f"{name}={_short(value)}" for name, value in op.attributes.items())
            made, taken = map(self._typed, op.outputs), (name or "_" for name in op.inputs)
            yield (f"  {', '.join(made)} = {op.kind} {op.name!r} ({', '.join(taken)})"
                   + (f" {{{attributes}}}" if attributes else ""))

    def _typed(self, name: str) -> str:
        known = self.type_of(name)
        return (name or "_") + (f": {known}" if known else "")


def unique_names(names: Iterable[str]) -> list[str]:
    """`names`, those that were there before with a number."""
    found: dict[str, None] = {}
    for name in names:
        number, unique = 1, name
        while unique in found:
            number += 1
            unique = f"{name} ({number})"
        found[unique] = None
    return list(found)


def with_unique_names(graph: Graph) -> Graph:
    """`graph` with a name of its own for each operator.

    One that was put into the place of several is called as one of them, which something else may need too.
    """
    names = unique_names(op.name for op in graph.ops)
    return graph.with_ops(tuple(map(lambda op, name: replace(op, name=name), graph.ops, names)))


def _check_inside(op: Op) -> None:
    known = {*op.inputs}
    for part in op.attributes.get("ops", ()):
        for name in part.reads:
            if name not in known:
                raise GraphError(f"{op.kind} {op.name!r} stands for {part.kind} {part.name!r}, which takes "
                                 f"{name!r}, but that is none of its inputs")
        known.update(part.outputs)


def _define(defined: set[str], name: str, where: str) -> None:
    if name in defined:
        raise GraphError(f"{where} defines {name!r}, which is defined already")
    defined.add(name)


def _bits(constants: Mapping[str, np.ndarray]) -> dict[str, tuple[Type, bytes]]:
    return {name: (Type.of(array), array.tobytes()) for name, array in constants.items()}


def _short(value: Any) -> str:
    """A value, or the size of one that fills lines."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return str(value.tolist()) if value.size <= 8 else f"{value.nbytes} bytes"
    text = str(value)
    return text if len(text) <= 60 and "\n" not in text else f"<{type(value).__name__}>"
