"""The compiler's graph, and its passes, on graphs that a person can read."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kiwicha_host import models
from kiwicha_host.compiler.errors import CompileError
from kiwicha_host.compiler.frontend.onnx.reader import read_graph
from kiwicha_host.compiler.ir.graph import Graph, GraphError, Op, Type
from kiwicha_host.compiler.ir.onnx_op import from_node, to_node
from kiwicha_host.compiler.passes import PASSES, bind_dims
from kiwicha_host.compiler.passes.fold_constants import fold_constants
from kiwicha_host.compiler.passes.fold_shapes import fold_shapes
from kiwicha_host.compiler.passes.remove_dead import remove_dead
from kiwicha_host.compiler.passes.standard_codes import standard_codes
from kiwicha_host.compiler.passes.unsigned_codes import unsigned_codes
from kiwicha_host.compiler.passes.zero_points import zero_points

X = Type("int8", ("N", 4))


def graph(*ops, constants=None, outputs=("y",)):
    """From x to y."""
    return Graph(("x",), outputs, ops, constants or {}, {"x": X, "y": X}, {"": 18}).verify()


def limit(*inputs, kind="Max", name="limit", output="y", **attributes):
    return Op(name, kind, inputs, (output,), attributes)


def test_dump():
    two, many = np.int8(2), np.zeros((3, 4), np.float32)
    made = graph(limit("x", "", "two", "many", axis=1, mode="SAME", zero=two * np.ones(2, np.int8)),
                 constants={"two": np.asarray(two), "many": many})
    assert made.dump() == """\
graph(x: int8[N, 4]) -> (y: int8[N, 4])
  two: int8[] = 2
  many: float32[3, 4] = 48 bytes
  y: int8[N, 4] = Max 'limit' (x, _, two, many) {axis=1, mode=SAME, zero=[2, 2]}
"""


@pytest.mark.parametrize("change, message", [
    ({"ops": (limit("x", "z"),)}, "Max 'limit' takes 'z', which nothing before it makes"),
    ({"ops": (limit("z"), limit("x", name="b", output="z"))}, "Max 'limit' takes 'z', which nothing before it"),
    ({"ops": (limit("y"),)}, "Max 'limit' takes 'y', which nothing before it makes"),
    ({"ops": (replace(limit("x"), attributes={"ops": (limit("y"),)}),)},
     "Max 'limit' stands for Max 'limit', which takes 'y', but that is none of its inputs"),
    ({"ops": (limit("x"), limit("x", name="b"))}, "Max 'b' defines 'y', which is defined already"),
    ({"ops": (limit("x"), limit("x", output="z"))}, "two operators are called 'limit'"),
    ({"ops": (limit("x", output="x"),)}, "Max 'limit' defines 'x', which is defined already"),
    ({"constants": {"x": np.int8(1)}}, "the graph defines 'x', which is defined already"),
    ({"ops": ()}, "nothing makes the output 'y'")])
def test_verify(change, message):
    with pytest.raises(GraphError, match=message):
        replace(graph(limit("x")), **change).verify()


def test_same():
    """To the bits of all constants; NaN equals itself, and 0 is not -0."""
    def made(value, dtype=np.float32):
        return graph(limit("x", "c"), constants={"c": np.array(value, dtype)})

    assert made(np.nan).same(made(np.nan)) and not made(0).same(made(-0.0)) and not made(1).same(made([1]))
    assert not made(1).same(made(1, np.int32)) and not made(1).same(graph(limit("x")))


def test_remove_dead():
    """What nobody needs goes, with its constants and types; an operator with one needed output stays whole."""
    dead = Op("a", "Split", ("x", "c"), ("p", "q"))
    before = graph(dead, limit("q", output="unread", name="b"), limit("x", "d"),
                   constants={"c": np.int64(1), "d": np.int8(2)})
    before = replace(before, types={**before.types, "unread": X})
    assert remove_dead(before).same(graph(limit("x", "d"), constants={"d": np.int8(2)}))
    needed = graph(dead, limit("q"), constants={"c": np.int64(1)})
    assert remove_dead(needed).same(needed)
    assert len(before.ops) == 3 and len(before.constants) == 2, "a pass must not change its graph"


def test_fold_constants():
    before = graph(Op("add", "Add", ("two", "two"), ("four",)),
                   Op("c", "Constant", (), ("axes",), {"value_ints": [0]}),
                   Op("un", "Unsqueeze", ("four", "axes"), ("row",)), limit("x", "row"),
                   constants={"two": np.array(2, np.int8)})
    assert fold_constants(before).same(graph(limit("x", "row"), constants={"row": np.array([4], np.int8)}))
    assert fold_constants(fold_constants(before)).same(fold_constants(before))


def test_fold_numbers_of_constant_codes():
    """Whatever is done to them, if they become codes again: as the places of a detector's boxes."""
    before = graph(
        Op("d", "DequantizeLinear", ("w", "s"), ("numbers",)), Op("a", "Add", ("numbers", "one"), ("more",)),
        Op("e", "Expand", ("more", "shape"), ("wide",)), Op("q", "QuantizeLinear", ("wide", "s"), ("c",)),
        limit("x", "c"), constants={"w": np.array([3, 9], np.uint8), "s": np.float32(0.5), "one": np.float32(1),
                                    "shape": np.array([2, 2])})
    made = {"c": np.array([[5, 11], [5, 11]], np.uint8)}
    assert remove_dead(fold_constants(before)).same(graph(limit("x", "c"), constants=made))
    sums = graph(Op("a", "com.microsoft.QLinearAdd", ("w", "s", "z") * 2 + ("s", "z"), ("c",)), limit("x", "c"),
                 constants={"w": np.array([3, 9], np.uint8), "s": np.float32(0.5), "z": np.uint8(0)})
    sums = replace(sums, opsets={**sums.opsets, "com.microsoft": 1})
    assert fold_constants(sums).constants["c"].tolist() == [6, 18] and fold_constants(sums).ops == sums.ops[1:]


@pytest.mark.parametrize("op", [
    Op("r", "RandomNormal", (), ("c",), {"shape": [1]}), Op("d", "DequantizeLinear", ("w", "s"), ("c",)),
    Op("q", "com.microsoft.QuantizeLinear", ("s", "s"), ("c",)),
    Op("o", "Dropout", ("s", "s", "b"), ("c",)), Op("l", "SequenceConstruct", ("s", "s"), ("c",)),
    Op("i", "If", ("b",), ("c",), {"then_branch": helper.make_graph([], "g", [], [])})], ids=lambda op: op.kind)
def test_what_is_not_folded(op):
    before = graph(op, limit("x", "c"), constants={"w": np.int8(1), "s": np.float32(1), "b": np.bool_(True)})
    assert fold_constants(before).ops == before.ops


def test_a_constant_that_cannot_be_computed():
    before = graph(Op("r", "Reshape", ("ten", "two"), ("c",)), limit("x", "c"),
                   constants={"ten": np.zeros(10), "two": np.array([2, 2])})
    with pytest.raises(CompileError, match=r"^Reshape 'r': cannot be computed from its constants: .*$"):
        fold_constants(before)


@pytest.mark.parametrize("number", [1e12, np.inf, -np.inf, np.nan])
def test_constants_too_large_to_quantize(number):
    """The reference would wrap them to the other end."""
    before = graph(Op("q", "QuantizeLinear", ("w", "s", "z"), ("c",)), limit("x", "c"), constants={
        "w": np.array([1, number], np.float32), "s": np.float32(0.01), "z": np.int8(0)})
    with pytest.raises(CompileError, match="^QuantizeLinear 'q': cannot be computed .*: numbers up to .* large"):
        fold_constants(before)


STANDARD = {"s": np.float32(1), "two": np.ones(2, np.float32), "half": np.float16(1), "z": np.int8(0),
            "u": np.uint16(0), "i": np.int32(0), "w": np.int8([1, 2])}


def own_codes(kind, *inputs, opset=18, **attributes):
    """The operator that becomes of ONNX Runtime's own one."""
    before = graph(Op("q", f"com.microsoft.{kind}", inputs, ("y",), attributes), constants=STANDARD)
    return standard_codes(replace(before, opsets={"": opset, "com.microsoft": 1})).ops[0]


@pytest.mark.parametrize("kind, inputs, opset, attributes", [
    ("QuantizeLinear", ("x", "s", "z"), 18, {}), ("QuantizeLinear", ("x", "s"), 18, {}),
    ("QuantizeLinear", ("x", "two", "z"), 13, {"axis": 0}), ("DequantizeLinear", ("x", "s"), 18, {}),
    ("DequantizeLinear", ("w", "s", "i"), 10, {}), ("DequantizeLinear", ("w", "s", ""), 10, {"axis": 0})])
def test_standard_codes(kind, inputs, opset, attributes):
    """The axis is 1 by default in both domains, but the first versions of ONNX's have none."""
    op = own_codes(kind, *inputs, opset=opset, **attributes)
    assert (op.kind, op.inputs, op.attributes) == (kind, inputs, attributes if opset >= 13 else {})


@pytest.mark.parametrize("kind, inputs, opset", [
    ("QuantizeLinear", ("x", "s", "u"), 18), ("DequantizeLinear", ("x", "s", "u"), 18),
    ("DequantizeLinear", ("x", "half", "z"), 18), ("QuantizeLinear", ("x", "x", "z"), 18),
    ("QuantizeLinear", ("x", "two", "z"), 12), ("QuantizeLinear", ("x", "s", "z"), 9),
    ("QuantizeLinear", ("x", "s", "i"), 18)])
def test_codes_that_onnx_does_not_have(kind, inputs, opset):
    """16 bits, half precision, scales that are computed or along an axis: where ONNX had none of these."""
    assert own_codes(kind, *inputs, opset=opset).kind == f"com.microsoft.{kind}"


ATTRIBUTES = {"kernel_shape": [3, 3], "pads": [], "group": 2, "auto_pad": "SAME_UPPER"}


@pytest.mark.parametrize("op", [
    Op("a", "Conv", ("x", "w", ""), ("y",), ATTRIBUTES),
    Op("c", "com.microsoft.QGemm", ("x", "", "w"), ("y",), {"transB": 1, "alpha": 1.0}),
    Op("d", "Unknown", ("x",), ("y", "z"), {"names": ["a", "b"]})], ids=lambda op: op.kind)
def test_to_onnx_and_back(op):
    node = to_node(op, {"": 17, "com.microsoft": 1})
    assert from_node(onnx.NodeProto.FromString(node.SerializeToString()), op.name) == op


def test_empty_lists_have_their_type():
    kinds = onnx.AttributeProto
    for kind, name, wanted in (("Conv", "pads", kinds.INTS), ("Constant", "value_floats", kinds.FLOATS),
                               ("Constant", "value_strings", kinds.STRINGS), ("Unknown", "some", kinds.INTS)):
        assert to_node(Op("a", kind, (), ("y",), {name: []}), {"": 17}).attribute[0].type == wanted


def test_the_nodes_of_onnx():
    """Every node of the digits' networks comes back as it was."""
    for file in (models.DIGITS_CONV, models.DIGITS_MLP):
        for node in onnx.load(file).graph.node:
            assert to_node(from_node(node, node.name), {"": 17}) == node


def test_reading():
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [node("Relu", ["x"], ["a"], name="same"), node("Relu", ["a"], ["b"], name="same"),
             node("Split", ["b", "sizes"], ["", "c"], axis=1), node("Relu", ["c"], ["y"])]
    inputs = [value("x", TensorProto.BFLOAT16, ["N", None, 0, -1, 4])]
    model = helper.make_model(helper.make_graph(
        nodes, "g", inputs, [value("y", TensorProto.BFLOAT16, None)],
        [onnx.numpy_helper.from_array(np.array([1, 1]), "sizes")]), opset_imports=[helper.make_opsetid("", 17)])
    read = read_graph(model)
    assert read.dump() == """\
graph(x: bfloat16[N, x[1], 0, x[3], 4]) -> (y: bfloat16[...])
  sizes: int64[2] = [1, 1]
  a = Relu 'same' (x)
  b = Relu 'same (2)' (a)
  _, c = Split 'c' (b, sizes) {axis=1}
  y: bfloat16[...] = Relu 'y' (c)
"""
    assert read.opsets == {"": 17}


def test_passes_keep_good_graphs():
    for file in (models.DIGITS_CONV, models.DIGITS_MLP):
        read = read_graph(file)
        for improve in PASSES:
            same = improve(read).verify()
            # What is known of the tensors may grow.
            assert same.types.items() >= read.types.items()
            assert replace(same, types=read.types).same(read)


# Passes.

def test_dimensions_get_their_sizes():
    made = Graph(("x",), ("y",), (Op("a", "Relu", ("x",), ("y",)),),
                 types={name: Type("float32", ("N", "H", 3)) for name in "xy"}, opsets={"": 17})
    assert bind_dims(made, {"H": 4}).dump() == """\
graph(x: float32[N, 4, 3]) -> (y: float32[N, 4, 3])
  y: float32[N, 4, 3] = Relu 'a' (x)
"""
    with pytest.raises(CompileError, match="input 'x': its dimension 'H' has no size"):
        bind_dims(made, {"N": 4})
    with pytest.raises(CompileError, match="all its dimensions have sizes"):
        bind_dims(bind_dims(made, {"H": 4, "N": 1}), {"H": 4})


def test_shapes_become_constants():
    """Of the shape's three operators nothing is left."""
    made = Graph(("x",), ("y",), (
        Op("shape", "Shape", ("x",), ("s",), {"start": 0, "end": 1}),
        Op("all", "Concat", ("s", "rest"), ("t",), {"axis": 0}),
        Op("flat", "Reshape", ("x", "t"), ("f",)), Op("again", "Shape", ("f",), ("u",)),
        Op("count", "Size", ("x",), ("c",)), Op("back", "Expand", ("f", "u"), ("g",)),
        Op("more", "Mul", ("c", "c"), ("d",)), Op("last", "Reshape", ("g", "d2"), ("y",)),
    ), {"rest": np.array([-1]), "d2": np.array([2, -1])}, {"x": Type("float32", (2, 3, 4))}, {"": 17})
    assert fold_shapes(made).dump() == """\
graph(x: float32[2, 3, 4]) -> (y: float32[2, 12])
  d2: int64[2] = [2, -1]
  t: int64[2] = [2, -1]
  u: int64[2] = [2, 12]
  f: float32[2, 12] = Reshape 'flat' (x, t)
  g: float32[2, 12] = Expand 'back' (f, u)
  y: float32[2, 12] = Reshape 'last' (g, d2)
"""
    unknown = replace(made, types={"x": Type("float32", None)})
    assert "Shape" in {op.kind for op in fold_shapes(unknown).ops}


def test_zero_points():
    """Of the type that the codes have: by the attribute, by the constant, or by who made them."""
    ops = (Op("q", "QuantizeLinear", ("x", "s"), ("c",), {"output_dtype": 3}),
           Op("d", "DequantizeLinear", ("c", "s"), ("y",)),
           Op("w", "DequantizeLinear", ("k", "t"), ("v",)), Op("b", "DequantizeLinear", ("i", "s"), ("u",)))
    made = Graph(("x",), ("y", "v", "u"), ops, {"s": np.float32(0.5), "k": np.zeros((2, 2), np.uint8),
                                                "t": np.ones(2, np.float32), "i": np.zeros(3, np.int32)},
                 {"x": Type("float32", (4,))}, {"": 19})
    graph = zero_points(made)
    zeros = [graph.type_of(op.inputs[2]) if len(op.inputs) > 2 else None for op in graph.ops]
    assert zeros == [Type("int8", ()), Type("int8", ()), Type("uint8", (2,)), None]
    assert not any(graph.constants[op.inputs[2]].any() for op in graph.ops[:3])
    assert zero_points(graph).same(graph)


def test_signed_codes_become_unsigned():
    quantize = Op("q", "QuantizeLinear", ("x", "s", "z"), ("c",))
    decode = Op("d", "DequantizeLinear", ("c", "s", "z"), ("y",))
    made = Graph(("x",), ("y",), (quantize, decode), {"s": np.float32(0.5), "z": np.int8(-3)},
                  {"x": Type("float32", (4,)), "c": Type("int8", (4,))}, {"": 17})
    assert unsigned_codes(made).dump() == """\
graph(x: float32[4]) -> (y)
  s: float32[] = 0.5
  z + 128: uint8[] = 125
  c: uint8[4] = QuantizeLinear 'q' (x, s, z + 128)
  y = DequantizeLinear 'd' (c, s, z + 128)
"""
    for other in (replace(made, outputs=("y", "c")),                       # the codes are seen
                  made.with_ops((quantize, replace(decode, kind="Cast"))),  # something else takes them
                  replace(made, constants={**made.constants, "z": np.uint8(3)}),
                  made.with_ops((replace(quantize, attributes={"output_dtype": 3}), decode))):
        assert unsigned_codes(other) is other
