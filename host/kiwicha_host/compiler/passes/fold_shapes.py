"""Shapes that are known, all but the batch, become constants."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op, Type, with_unique_names
from .codes import Work
from .fold_constants import fold_constants
from .infer_types import infer_types
from .remove_dead import remove_dead
from .repeats import repeats, type_of_repeated
from .sizes import Sizes

__all__ = ["fold_shapes"]


def fold_shapes(graph: Graph) -> Graph:
    """The graph with the types that follow from those of its inputs, and without operators that compute shapes.

    Exporters write a Reshape's shape as a computation of the input's. With all sizes known it is a constant; where
    the batch has none, ONNX has numbers that stand for it: 0 and -1. What needs the batch itself has it from an
    input of the graph, so that nothing waits for a tensor in between.
    """
    before: dict[str, Type] = {}
    while True:
        graph = infer_types(_without_made_up_names(graph))
        sizes, work = Sizes(graph), Work(graph)
        known = {name: array for name, array in sizes.arrays.items()
                 if sizes.is_known(name) and name not in graph.outputs}
        settled = {op.name: new for op in graph.ops if (new := _settled(op, work, sizes)) is not None}
        types = {op.outputs[0]: type_ for op in graph.ops if (type_ := type_of_repeated(op, graph, sizes))}
        if not known and not settled and types == before:
            break
        ops = tuple(settled.get(op.name, op) for op in graph.ops if not set(op.outputs) & set(known))
        before = types
        graph = replace(graph, types={**graph.types, **types}).with_ops(ops, {**work.constants, **known})
        graph = remove_dead(fold_constants(graph))
    return _from_inputs(repeats(graph, sizes), sizes)


def _without_made_up_names(graph: Graph) -> Graph:
    """The graph with the inputs' names of dimensions alone: those of an earlier inference would hide them."""
    names = {dim for name in graph.inputs if name in graph.types for dim in graph.types[name].shape or ()}
    return replace(graph, types={
        name: type_ if type_.shape is None else Type(type_.element, tuple(
            dim if isinstance(dim, int) or dim in names else "?" for dim in type_.shape))
        for name, type_ in graph.types.items()})


# Shapes with a batch in them, as constants.

def _settled(op: Op, work: Work, sizes: Sizes) -> Op | None:
    """The operator with a constant in the place of a shape that is a multiple of the batch somewhere."""
    rule, index = _RULES.get(op.kind, (None, 0))
    name = op.inputs[index] if index < len(op.inputs) else ""
    if rule is None or name not in sizes.arrays or sizes.is_known(name):
        return None
    return rule(op, work, sizes)


def _reshape(op: Op, work: Work, sizes: Sizes) -> Op | None:
    """A dimension that stays where it is, is 0; one that follows from the others, -1."""
    old, new = work.shape(op.inputs[0]) or (), []
    for axis, (number, dim) in enumerate(sizes.items(op.inputs[1])):
        stays = dim and number == 1 and axis < len(old) and old[axis] == dim
        new.append(0 if stays else -1 if dim else number)
    if op.attributes.get("allowzero", 0) or new.count(-1) > 1:
        return None
    return replace(op, inputs=(op.inputs[0], work.constant(f"{op.inputs[1]}:shape", np.array(new, np.int64))))


def _expand(op: Op, work: Work, sizes: Sizes) -> Op | None:
    """A dimension that stays as it is, is 1."""
    old, wanted = work.shape(op.inputs[0]), sizes.items(op.inputs[1])
    if old is None:
        return None
    beside = dict(zip(range(len(wanted))[::-1], reversed(old), strict=False))
    if any(dim and (number, beside.get(axis)) != (1, dim) for axis, (number, dim) in enumerate(wanted)):
        return None
    new = np.array([1 if dim else number for number, dim in wanted], np.int64)
    return replace(op, inputs=(op.inputs[0], work.constant(f"{op.inputs[1]}:shape", new)))


def _resize(op: Op, work: Work, sizes: Sizes) -> Op | None:
    """Whole multiples of what there is."""
    old, wanted = work.shape(op.inputs[0]), sizes.items(op.inputs[3])
    if old is None or len(old) != len(wanted) or op.attributes.get("axes") is not None or op.attributes.get(
            "keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    scales = []
    for size, (number, dim) in zip(old, wanted, strict=True):
        if (number, dim or number) == (1, size):
            scales.append(1)
        elif dim or not isinstance(size, int) or number % size:
            return None
        else:
            scales.append(number // size)
    name = work.constant(f"{op.inputs[3]}:scales", np.array(scales, np.float32))
    return replace(op, inputs=(*op.inputs[:2], name))


#: What takes a shape, and as which input.
_RULES = {"Reshape": (_reshape, 1), "Expand": (_expand, 1), "Resize": (_resize, 3)}


# Shapes with a batch in them, from the graph's inputs.

def _from_inputs(graph: Graph, sizes: Sizes) -> Graph:
    """The graph with what is left of multiples of the batch computed from an input that has it."""
    work, made, same = Work(graph), list[Op](), dict[str, str]()
    for op in graph.ops:
        for name in op.inputs if not set(op.outputs) & sizes.arrays.keys() else ():
            if name in sizes.arrays and name not in same and (found := _computed(name, graph, work, sizes)):
                made += found
                same[name] = found[-1].outputs[0]
    if not same or work.opset < 7:      # before, numbers and lists do not go together
        return infer_types(remove_dead(graph))
    ops = tuple(op if set(op.outputs) & sizes.arrays.keys() else
                replace(op, inputs=tuple(same.get(name, name) for name in op.inputs)) for op in graph.ops)
    return infer_types(with_unique_names(remove_dead(graph.with_ops((*made, *ops), work.constants))))


def _computed(name: str, graph: Graph, work: Work, sizes: Sizes) -> list[Op]:
    """What makes the integers `name` of an input's batch; [] if they are no multiples of one."""
    items, shape = sizes.items(name), sizes.arrays[name].shape
    dims = {dim for _, dim in items if dim}
    source = next((item for item in graph.inputs if dims == {*((work.shape(item) or ())[:1])}), None)
    if source is None or sizes.arrays[name].dtype != np.int64:
        return []
    parts = {"factors": [number if dim else 0 for number, dim in items],
             "numbers": [0 if dim else number for number, dim in items]}
    factors, numbers = (work.constant(f"{name}:{what}", np.array(part, np.int64).reshape(shape))
                        for what, part in parts.items())
    first = work.constant(f"{name}:first", np.array(0, np.int64))
    steps = (("Shape", source), ("Gather", first), ("Mul", factors), ("Add", numbers))
    ops: list[Op] = []
    for kind, operand in steps:
        made = work.fresh(f"{name}:{kind}")
        taken = (operand,) if not ops else (*ops[-1].outputs, operand)
        ops.append(Op(made, kind, taken, (made,)))
    return ops
