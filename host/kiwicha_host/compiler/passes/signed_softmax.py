"""A Softmax of codes that ONNX Runtime leaves signed, on one side at least, on x86.

It makes signed codes unsigned where one QuantizeLinear hands them to one operator. If it does so on one side of
the Softmax alone, no integer operator takes both types, and it computes in numbers; which matters, for its integer
operator rounds the reciprocal of the result's scale down.
"""

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Work, read
from .fold_averages import OF_MANY
from .remove_dead import remove_dead

__all__ = ["SOFTMAX", "signed_softmax"]

#: The operator of numbers. It has the inputs of com.microsoft.QLinearSoftmax.
SOFTMAX = "kiwicha.QLinearSoftmax"


def signed_softmax(graph: Graph) -> Graph:
    """The graph with operators on codes in the place of such; the next pass makes more codes unsigned."""
    work = Work(graph)
    ops = tuple(_folded(work, op) or op for op in graph.ops)
    return with_unique_names(remove_dead(graph.with_ops(ops, work.constants))) if ops != graph.ops else graph


def _folded(work: Work, quantize: Op) -> Op | None:
    op = work.maker(quantize.inputs[0]) if quantize.kind == "QuantizeLinear" else None
    if op is None or op.kind != "Softmax":
        return None
    made, codes = read(quantize), work.codes(op, 0)
    zero, source = None if made is None else work.scalar(made.zero), work.maker(op.inputs[0])
    if made is None or codes is None or source is None or zero is None or zero.dtype.kind == "u":
        return None
    unsigned = {work.is_pair(name) for name in (codes.name, quantize.outputs[0])}
    folded = None if unsigned == {True} else OF_MANY["Softmax"](work, op, made, quantize.outputs[0])
    if folded is None or unsigned == {False}:
        return folded
    ops = source, op, Op(f"{op.name}:codes", "QuantizeLinear", quantize.inputs, quantize.outputs)
    return Op(op.name, SOFTMAX, folded.inputs, folded.outputs, {**folded.attributes, "ops": ops})
