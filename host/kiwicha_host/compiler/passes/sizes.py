"""Integers that operators compute from shapes, where dimensions have no size yet."""

import numpy as np

from ..ir.graph import Graph, Op, Type
from .fold_constants import results_of

__all__ = ["Sizes"]

#: What dimensions without a size count as meanwhile; no size of a tensor is so large, or a multiple.
_PRIMES = (2_147_483_647, 2_147_483_629, 2_147_483_587, 2_147_483_579)
_LARGEST = 1 << 30
_MOST = 1 << 15
#: Operators that neither depend on a dimension's size nor make anything but multiples of it, and which of their
#: inputs such multiples may be.
_MOVES = {**dict.fromkeys(("Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"), (0,)),
          "Concat": None, "Equal": None, "Mul": None, "Where": (1, 2)}


class Sizes:
    """The integers in `graph` that follow from shapes, as far as they are known.

    Each is a number or, if a dimension of the graph's inputs has a name instead of a size, a multiple of that:
    meanwhile such a dimension counts as a large prime, so that one can be told from the other.

    Parameters
    ----------
    graph : its types are inferred

    Attributes
    ----------
    arrays : {tensor's name: integers}
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        names = dict.fromkeys(dim for name in graph.inputs for dim in _shape(graph.type_of(name))
                              if isinstance(dim, str))
        self._primes = dict(zip(names, _PRIMES, strict=False))
        self.arrays: dict[str, np.ndarray] = {}
        for op in graph.ops:
            self.arrays |= self._results(op)

    def is_known(self, name: str) -> bool:
        """Whether a tensor is of numbers alone."""
        return name in self.arrays and bool((np.abs(self.arrays[name]) < _LARGEST).all())

    def items(self, name: str) -> list[tuple[int, str]]:
        """Numbers, and names of the dimensions that they are to be multiplied with; "" for none."""
        found = []
        for item in map(int, self.arrays[name].reshape(-1)):
            dim = next((dim for dim, prime in self._primes.items() if item and item % prime == 0), "")
            found.append((item // self._primes[dim] if dim else item, dim))
        return found

    def _results(self, op: Op) -> dict[str, np.ndarray]:
        result = None
        if op.kind in ("Shape", "Size"):
            result = self._shape(op)
        elif op.kind in _MOVES and any(name in self.arrays for name in op.inputs) and all(
                name in self.arrays or name in self._graph.constants for name in op.inputs if name):
            result = self._moved(op)
        if result is None or not all(self._is_sound(int(item)) for item in result.reshape(-1)):
            return {}
        return {op.outputs[0]: result}

    def _shape(self, op: Op) -> np.ndarray | None:
        type_ = self._graph.type_of(op.inputs[0])
        if type_ is None or type_.shape is None:
            return None
        dims = [self._primes.get(dim, -1) if isinstance(dim, str) else dim for dim in type_.shape]
        if op.kind == "Shape":
            dims = dims[slice(op.attributes.get("start", 0), op.attributes.get("end"))]
        if -1 in dims:
            return None
        return np.array(dims, np.int64) if op.kind == "Shape" else self._product(dims)

    def _product(self, numbers: list[int]) -> np.ndarray | None:
        total = 1
        for item in numbers:
            total *= item
        return np.array(total, np.int64) if self._is_sound(total) else None

    def _moved(self, op: Op) -> np.ndarray | None:
        """What an operator makes of multiples, if that is so for all sizes."""
        places = _MOVES[op.kind]
        symbols = [index for index, name in enumerate(op.inputs)
                   if name in self.arrays and not self.is_known(name)]
        if places is not None and not set(symbols) <= {*places}:
            return None
        given = {**self._graph.constants, **self.arrays}
        if symbols and not self._may(op, [given[name] for name in op.inputs if name], symbols):
            return None
        made = results_of(self._graph, op, given) or {}
        result = made.get(op.outputs[0])
        return result if result is not None and result.dtype.kind in "ib" else None

    @staticmethod
    def _may(op: Op, given: list[np.ndarray], symbols: list[int]) -> bool:
        """Whether a kind that depends on more than places does what it would do with the size."""
        largest = [max((abs(int(item)) for item in array.reshape(-1)), default=0) for array in given]
        if op.kind == "Mul":
            return given[0].dtype == np.int64 and largest[0] * largest[1] < 1 << 62
        if op.kind == "Equal":      # no size is less than one
            return len(symbols) == 1 and bool((given[1 - symbols[0]] < 1).all())
        return op.kind != "Cast" or largest[0] < 1 << 31

    def _is_sound(self, item: int) -> bool:
        return abs(item) < _LARGEST or any(item % prime == 0 and abs(item) <= _MOST * prime
                                           for prime in self._primes.values())


def _shape(type_: Type | None) -> tuple[int | str, ...]:
    return (type_.shape or ()) if type_ is not None else ()
