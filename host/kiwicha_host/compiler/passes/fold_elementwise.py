"""What is computed element by element between DequantizeLinear and QuantizeLinear becomes one operator on codes.

A function of one code has 256 results, and one of two has 65,536: whoever runs the operator finds them by what it
stands for, its attribute ``ops``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Codes, Work, is_sound, read
from .fold_moves import moves_before
from .remove_dead import remove_dead

__all__ = ["ELEMENTWISE", "FUNCTIONS", "fold_elementwise"]

#: The operator. Its inputs are each operand's codes, scale and zero point, the result's scale and zero point, and
#: all other constants; ``ops`` are what it stands for, ``join`` is "" or which of `_JOINS` takes both operands.
ELEMENTWISE = "kiwicha.Elementwise"
#: Of two operands, at least one of which is computed.
_JOINS = ("Add", "Sub", "Mul", "Sum")
#: What may come after those: what follows from the limits of the codes.
_LIMITS = ("Relu", "Clip", "Identity")
#: Functions of numbers; their other operands are single constants.
FUNCTIONS = (
    *_JOINS, *_LIMITS, "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh",
    "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min",
    "Mish", "Neg", "PRelu", "Pow", "Reciprocal", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "com.microsoft.FastGelu",
    "com.microsoft.Gelu", "com.microsoft.QuickGelu")
#: Operators in one, and in a row.
_MOST = 64


def fold_elementwise(graph: Graph) -> Graph:
    """The graph with :data:`ELEMENTWISE` in the place of functions between codes.

    Between a function and its QuantizeLinear numbers may change places, or be chosen as the largest: codes are
    then, for quantizing keeps the order.
    """
    work = Work(graph)
    ops, made = list[Op](), dict[str, Op]()
    for op in graph.ops:
        first, *moves = _folded(work, op) if op.kind == "QuantizeLinear" else [op]
        if first.kind == ELEMENTWISE:
            first = _of_one(first, made, graph.outputs)
            made[first.outputs[0]] = first
        ops += [first, *moves]
    return with_unique_names(remove_dead(graph.with_ops(tuple(ops))))


@dataclass
class _Function:
    """How numbers are made of codes: the operators, in order, and the codes by name, but for single constants."""
    ops: list[Op] = field(default_factory=list)
    sources: dict[str, Codes] = field(default_factory=dict)

    def takes(self, work: Work, name: str, depth: int = 0) -> bool:
        """Whether the numbers `name` are single constants, or functions of codes, which are added then."""
        op = work.maker(name)
        if work.scalar(name) is not None or any(op is item for item in self.ops):
            return True
        if op is None or len(op.outputs) != 1 or op.captures or max(depth, len(self.ops)) >= _MOST:
            return False
        if op.kind == "DequantizeLinear":
            codes = read(op)
            if codes is None or not is_sound(work.scalar(codes.scale), work.scalar(codes.zero)):
                return False
            if work.scalar(codes.name) is None:
                self.sources.setdefault(codes.name, codes)
        elif op.kind not in FUNCTIONS or not all(
                self.takes(work, item, depth + 1) for item in filter(None, op.inputs)):
            return False
        self.ops.append(op)
        return True

    @property
    def join(self) -> str | None:
        """The operator that takes two operands, "" if there is one; None if the chip can do no such thing."""
        if len(self.sources) == 1:
            return ""
        first, second, join, *limits = [op.kind for op in self.ops] + [""] * 3
        pair = len(self.sources) == 2 and first == second == "DequantizeLinear" and join in _JOINS
        return join if pair and {*limits} <= {*_LIMITS, ""} else None


def _folded(work: Work, quantize: Op) -> list[Op]:
    """The function that makes the codes of `quantize`, and what puts these elsewhere; or `quantize`."""
    made, function = read(quantize), _Function()
    if made is None or not is_sound(work.scalar(made.scale), work.scalar(made.zero)):
        return [quantize]
    numbers, codes, moves = moves_before(work, quantize)
    if not function.takes(work, numbers) or function.join is None:
        return [quantize]
    last = replace(quantize, inputs=(numbers, *quantize.inputs[1:]), outputs=(codes,))
    ends = (name for item in function.sources.values() for name in (item.name, item.scale, item.zero))
    inputs = (*ends, made.scale, made.zero)
    others = dict.fromkeys(name for op in function.ops for name in op.reads
                           if name in work.constants and name not in inputs)
    root = function.ops[2 if function.join else -1]
    name = root.name if root.kind != "DequantizeLinear" else quantize.name
    return [Op(name, ELEMENTWISE, (*inputs, *others), last.outputs,
               {"ops": (*function.ops, last), "join": function.join}), *moves]


def _of_one(op: Op, made: Mapping[str, Op], outputs: Sequence[str]) -> Op:
    """`op` with the functions before it, if all are of the same codes: such as x * sigmoid(x).

    What else needs the codes in between makes them anew.
    """
    operands = [op.inputs[place] for place in ((0, 3) if op.attributes["join"] else (0,))]
    before = [made[name] for name in dict.fromkeys(operands)
              if name in made and not made[name].attributes["join"] and name not in outputs]
    inner = {item.outputs[0] for item in before}
    roots = {name for name in operands if name not in inner} | {item.inputs[0] for item in before}
    ops = {part.outputs[0]: part for item in (*before, op) for part in item.attributes["ops"]}
    if not before or len(roots) > 1 or len(ops) > _MOST:
        return op
    end = 6 if op.attributes["join"] else 3
    inputs = (*before[0].inputs[:3], *op.inputs[end:end + 2])
    others = dict.fromkeys(name for item in (*before, op) for name in item.inputs)
    return Op(op.name, ELEMENTWISE, (*inputs, *(name for name in others if name not in {*inputs, *inner})),
              op.outputs, {"ops": tuple(ops.values()), "join": ""})
