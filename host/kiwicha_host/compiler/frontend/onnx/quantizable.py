"""Models that ONNX Runtime's quantizer takes: what it fails on, or would leave in numbers, in another form."""

from collections import Counter

import numpy as np

from ....extras import extra

with extra("onnx"):
    import onnx
    from onnx import helper, numpy_helper

from ...ir.onnx_op import from_node, to_model
from ...passes.infer_types import infer_types
from ...passes.own_operators import own_operators
from .reader import graph_of

__all__ = ["in_order", "quantizable"]


def quantizable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A float model that computes the same, but is easier on the quantizer; `proto` may change."""
    return _with_own_biases(_with_plain_biases(_with_adds(_with_whole_norms(_of_onnx(proto)))))


def in_order(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, each node behind those that make what it takes, also for graphs inside of it, which the
    quantizer does not look at."""
    made = {name for node in proto.graph.node for name in node.output}      # but not yet
    ready, waiting = list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in proto.graph.node:
        waiting.append(node)
        while free := [item for item in waiting if not made.intersection(from_node(item, "").reads)]:
            waiting = [item for item in waiting if item not in free]
            ready += free
            made -= {name for item in free for name in item.output}
    del proto.graph.node[:]
    proto.graph.node.extend(ready)
    return proto


def _of_onnx(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with as few operators of ONNX Runtime's own as can be, and all types.

    Its tool quantizes neither these nor, without their results' types, what takes them.
    """
    if not any(node.domain == "com.microsoft" for node in proto.graph.node):
        return proto
    return to_model(infer_types(own_operators(graph_of(proto))))


def _with_whole_norms(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, each Transpose of numbers less their mean before these.

    ONNX Runtime moves a Transpose that comes before a normalization in single operators into it.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    reads = Counter(name for node in proto.graph.node for name in from_node(node, "").reads)
    reads.update(item.name for item in proto.graph.output)
    known = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer if list(item.dims) == [1]}
    for transpose in [node for node in proto.graph.node if node.op_type == "Transpose" and node.attribute]:
        centered = makers.get(transpose.input[0])
        mean = None if centered is None or centered.op_type != "Sub" else makers.get(centered.input[1])
        if centered is None or mean is None or mean.op_type != "ReduceMean" or (
                mean.input[0] != centered.input[0] or {reads[node.output[0]] for node in (mean, centered)} != {1}):
            continue
        attributes = from_node(mean, "").attributes
        axes = known.get(mean.input[1]) if len(mean.input) > 1 else attributes.get("axes")
        if axes is not None and len(axes) == 1 and attributes.get("keepdims", 1):
            _move_before(proto, transpose, mean, centered, int(axes[0]))
    return proto


def _move_before(proto: onnx.ModelProto, transpose: onnx.NodeProto, mean: onnx.NodeProto, centered: onnx.NodeProto,
                 axis: int) -> None:
    """Make the mean, along `axis`, and what it is taken from of transposed numbers."""
    perm, [result] = list(transpose.attribute[0].ints), transpose.output
    made, axes = f"kiwicha:{result}:source", f"kiwicha:{result}:axes"
    outputs = [node.output[0] for node in proto.graph.node]
    proto.graph.node.remove(transpose)
    proto.graph.node.insert(outputs.index(mean.output[0]), helper.make_node(
        "Transpose", [mean.input[0]], [made], made, perm=perm))
    mean.input[0] = centered.input[0] = made
    centered.output[0] = result
    axis = perm.index(axis % len(perm)) - len(perm)
    if len(mean.input) > 1:
        mean.input[1] = axes
        proto.graph.initializer.append(numpy_helper.from_array(np.array([axis]), axes))
    else:
        next(item for item in mean.attribute if item.name == "axes").ints[:] = [axis]


def _with_adds(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with Add in the place of Sum: it quantizes no Sum."""
    for index, node in reversed([*enumerate(proto.graph.node)]):
        if node.op_type != "Sum" or len(node.input) < 2:
            continue
        first, *others = node.input
        for number, other in enumerate(others[:-1]):
            part = f"kiwicha:{node.output[0]}:{number}"
            proto.graph.node.insert(index, helper.make_node("Add", [first, other], [part], part))
            proto.graph.value_info.append(helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, None))
            first, index = part, index + 1
        node.op_type = "Add"
        node.input[:] = [first, others[-1]]
    return proto


def _with_own_biases(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, each bias of a product taken by this alone: it gives others names that may be in use."""
    known, taken = {item.name: item for item in proto.graph.initializer}, set[str]()
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
            continue
        name = node.input[2]
        if name in known and name in taken:
            copy = proto.graph.initializer.add()
            copy.CopyFrom(known[name])
            copy.name = node.input[2] = f"kiwicha:{node.output[0]}:bias"
        taken.add(name)
    return proto


def _with_plain_biases(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, each constant bias of a Gemm as [N] without a factor; or, if it is no single row, as a sum.

    ONNX Runtime's tool fails on other shapes, and gets the factor `beta` wrong.
    """
    known = {item.name: item for item in proto.graph.initializer}
    for index, node in reversed([*enumerate(proto.graph.node)]):
        if node.op_type != "Gemm" or len(node.input) < 3 or not {*node.input[1:]} <= known.keys():
            continue
        attributes = {item.name: item for item in node.attribute}
        transposed = "transB" in attributes and attributes["transB"].i
        bias, name = numpy_helper.to_array(known[node.input[2]]), f"kiwicha:{node.output[0]}:bias"
        if "beta" in attributes:
            bias = bias * bias.dtype.type(attributes["beta"].f)
            node.attribute.remove(attributes["beta"])
        if bias.shape[-1:] in ((), (bias.size,)):
            bias = np.broadcast_to(bias.reshape(-1), known[node.input[1]].dims[0 if transposed else 1])
            node.input[2] = name
        else:
            product = f"kiwicha:{node.output[0]}:product"
            proto.graph.node.insert(index + 1, onnx.helper.make_node("Add", [product, name], node.output, name))
            del node.input[2]
            node.output[0] = product
        proto.graph.initializer.append(numpy_helper.from_array(bias, name))
    read = {name for node in proto.graph.node for name in from_node(node, "").reads}
    for name in known.keys() - read - {item.name for item in (*proto.graph.input, *proto.graph.output)}:
        proto.graph.initializer.remove(known[name])
    return proto
