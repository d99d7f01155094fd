"""Why the host has what the chip would have, but for a detail."""

import numpy as np
import pytest
from code_nets import Between
from onnx import TensorProto

from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError


class Cases(Between):
    """An operator between codes, all but one thing."""

    def __init__(self):
        super().__init__(np.uint8, x=["N", 4, 6, 5], y=["N", 5])

    def weights(self, *shape):
        return self("DequantizeLinear", self.rng.integers(-9, 9, shape, np.int8), np.float32(0.01), np.int8(0))

    def uneven(self, *shape):
        """Of zero points that differ."""
        return self("DequantizeLinear", self.rng.integers(-9, 9, shape, np.int8), np.full(4, 0.01, np.float32),
                    np.arange(4, dtype=np.int8), axis=0)

    def stack(self, *shape):
        """Of matrices, each with a scale for each of its rows."""
        codes = self.rng.integers(-9, 9, (1, *shape), np.int8)
        return self("DequantizeLinear", codes, self.rng.uniform(1, 2, shape[0]).astype(np.float32),
                    np.zeros(shape[0], np.int8), axis=1)

    def image(self):
        return self.numbers("x")

    def row(self):
        return self.numbers("y")


def wide(net):
    codes = net("QuantizeLinear", net.row(), np.float32(0.01), np.uint16(7))
    return net("MatMul", net("DequantizeLinear", codes, np.float32(0.01), np.uint16(7)), net.weights(5, 3))


TOO_LARGE = np.float32([0, 1, 2, 1e10])
SUMS = "makes numbers of the chip's sums: "
BIAS = f"{SUMS}its bias is not constant, beside a factor, or too large for int32 in steps of its sums"
#: An operator and its operands, what of it the host has, and why; of numbers, or of codes that are made of them.
NUMBERS = {
    "transposed": (lambda net: net("ConvTranspose", net.image(), net.weights(4, 2, 3, 3), dilations=[2, 2]),
                   "ConvTranspose", "its dilations must be 1, and its pads be given as such"),
    "floats": (lambda net: net("Gemm", net.row(), np.zeros((5, 2), np.float32)), "Gemm",
               "its weights 'c2' are numbers, which no DequantizeLinear makes"),
    "sums": (lambda net: net("MatMul", net.row(), net("Transpose", net.row(), perm=[1, 0])),
             "Cast+Mul", f"{SUMS}no QuantizeLinear stands behind the product"),
    "function": (lambda net: net("HardSwish", net.row()), "HardSwish", "no QuantizeLinear stands behind it"),
    "between": (lambda net: net("Sigmoid", net("LpNormalization", net.row())),
                "Sigmoid", "computes in floating point; the chip needs codes"),
}
CODES = {
    "transposed": (lambda net: net("ConvTranspose", net.image(), net.weights(4, 4, 3, 3), auto_pad="VALID"),
                   "ConvTranspose", "its dilations must be 1, and its pads be given as such"),
    "uneven": (lambda net: net("Conv", net.image(), net.uneven(4, 4, 3, 3), TOO_LARGE), "Conv",
               "its bias 'c5' has another form than its outputs, or is too large for int32 in steps of its sums"),
    "factor": (lambda net: net("Gemm", net.row(), net.weights(5, 3), np.zeros(3, np.float32), alpha=0.5),
               "Cast+Mul+Add", BIAS),
    "scales": (lambda net: net("MatMul", net.row(), net.stack(5, 3)), "MatMul",
               "'DequantizeLinear1' has several scales, along axis 1, which is not that of the results"),
    "rows": (lambda net: net("MatMul", net.stack(2, 5), net("Transpose", net.row(), perm=[1, 0])), "MatMul",
             "'DequantizeLinear0' has several scales, along axis 1, which is not that of the results"),
    "transA": (lambda net: net("Gemm", net.row(), net.weights(2, 3), transA=1), "Gemm",
               "transA must be 0: the batch comes first"),
    "limit": (lambda net: net("Relu", net("Conv", net.image(), net.weights(4, 4, 3, 3), TOO_LARGE)),
              "Cast+Mul+Add", BIAS),
    "computed": (lambda net: net("Gemm", net.row(), net.weights(5, 5), net("Neg", net.row())), "Cast+Mul+Add",
                 BIAS),
    "wide": (wide, "MatMul", "the codes of 'DequantizeLinear2' are uint16; the chip takes int8 and uint8"),
    "weights": (lambda net: net("MatMul", net.row(), net("Softmax", net.weights(5, 3))), "MatMul",
                "its input 'Softmax2' comes from no DequantizeLinear"),
    "operand": (lambda net: net("Add", net.row(), net("LpNormalization", net.row())), "Add",
                "its input 'LpNormalization2' comes from no DequantizeLinear"),
}


def check(net, name, kind, why, dtype):
    """`kind` is the host's in a model that ends in the tensor `name`, because of `why`."""
    model = net.model(name, opset=21)
    model.graph.output[0].type.tensor_type.elem_type = dtype
    with load_model(model, "tiny", "golden") as loaded:
        assert {row.op: row.why for row in loaded.placement if row.place == "host"}[kind] == why
    with pytest.raises(CompileError) as refused:
        load_model(model, "tiny", "golden", strict=True)
    assert any(row.why in str(refused.value) for row in loaded.placement if row.why)


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers(case):
    net, (made, kind, why) = Cases(), NUMBERS[case]
    check(net, made(net), kind, why, TensorProto.FLOAT)


@pytest.mark.parametrize("case", CODES)
def test_codes(case):
    net, (made, kind, why) = Cases(), CODES[case]
    check(net, net.codes(made(net)), kind, why, TensorProto.UINT8)


def test_weights_of_the_hosts_products():
    """They are not what keeps it from the chip."""
    net, (made, *_) = Cases(), NUMBERS["transposed"]
    model = net.model(made(net))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with load_model(model, "tiny", "golden") as loaded:
        assert {row.why for row in loaded.placement if row.op == "DequantizeLinear"} == {
            "nothing that it leads to is for the chip"}
    with pytest.raises(CompileError, match="'ConvTranspose2': its dilations must be 1"):
        load_model(model, "tiny", "golden", strict=True)
