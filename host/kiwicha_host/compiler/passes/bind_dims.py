"""Give symbolic dimensions their sizes."""

from collections.abc import Mapping
from dataclasses import replace

from ..errors import CompileError
from ..ir.graph import Graph, Type

__all__ = ["bind_dims"]


def bind_dims(graph: Graph, dims: Mapping[str, int]) -> Graph:
    """The graph with the dimensions that `dims` names as numbers.

    All dimensions of the inputs must have a size then, but for the first, which may be any number of images. One
    that the model gives no name is called by input and axis, ``x[2]``.

    Raises
    ------
    CompileError
        A dimension has no size, or `dims` names one that the model has not.
    """
    known = {dim for name in graph.inputs if (type_ := graph.types.get(name)) and type_.shape
             for dim in type_.shape if isinstance(dim, str)}
    for name in dims:
        if name not in known:
            raise CompileError(f"the model has no dimension {name!r}; " + (
                f"those without a size are {', '.join(map(repr, sorted(known)))}" if known
                else "all its dimensions have sizes"))
    types = {name: _bound(type_, dims) for name, type_ in graph.types.items()}
    for name in graph.inputs:
        for dim in (types[name].shape or ())[1:] if name in types else ():
            if isinstance(dim, str):
                raise CompileError(f"input {name!r}: its dimension {dim!r} has no size; give it one, "
                                   f"for instance --dim {dim}=64")
    return replace(graph, types=types)


def _bound(type_: Type, dims: Mapping[str, int]) -> Type:
    if type_.shape is None:
        return type_
    return Type(type_.element, tuple(dims.get(dim, dim) if isinstance(dim, str) else dim for dim in type_.shape))
