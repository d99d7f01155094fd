"""The operators of ONNX that those in the domain "kiwicha", which only the chip knows, stand for."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Op

__all__ = ["unfold"]


def unfold(op: Op) -> list[Op]:
    """What `op` stands for, or itself.

    Most have it as their attribute ``ops``; what is inside gets names of its own.
    """
    if not op.kind.startswith("kiwicha."):
        return [op]
    if "ops" not in op.attributes:
        return _transposed_convolution(op) if op.kind.endswith("ConvTranspose") else _gemm(op)
    prefix, ops = f"kiwicha:{op.name}:", op.attributes["ops"]
    inside = {name: prefix + name for item in ops for name in item.outputs if name and name not in op.outputs}
    return [replace(item.renamed(inside), name=prefix + item.name,
                    outputs=tuple(inside.get(name, name) for name in item.outputs)) for item in ops]


def _transposed_convolution(op: Op) -> list[Op]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = op.inputs
    inner = {part: f"kiwicha:{op.name}:{part}" for part in ("x", "w", "steps", "b", "y", "q")}
    parts = [Op(inner["x"], "DequantizeLinear", (x, x_scale, x_zero), (inner["x"],)),
             Op(inner["w"], "DequantizeLinear", (w, w_scale, w_zero), (inner["w"],), {"axis": 1})]
    if bias:
        parts += [Op(inner["steps"], "Mul", (x_scale, w_scale), (inner["steps"],)),
                  Op(inner["b"], "DequantizeLinear", (bias[0], inner["steps"]), (inner["b"],), {"axis": 0})]
    names = (inner["x"], inner["w"], *([inner["b"]] if bias else []))
    return [*parts, Op(op.name, "ConvTranspose", names, (inner["y"],), op.attributes),
            Op(inner["q"], "QuantizeLinear", (inner["y"], y_scale, y_zero), op.outputs)]


def _gemm(op: Op) -> list[Op]:
    """ONNX Runtime's takes and makes two dimensions."""
    rows, made, sizes = (f"kiwicha:{op.name}:{part}" for part in ("rows", "y", "sizes"))
    attributes = {name: value for name, value in op.attributes.items() if name != "shape"}
    return [Op(rows, "Flatten", op.inputs[:1], (rows,), {"axis": -1}),
            Op(op.name, "com.microsoft.QGemm", (rows, *op.inputs[1:]), (made,), attributes),
            Op(sizes, "Constant", (), (sizes,), {"value": np.array(op.attributes["shape"], np.int64)}),
            Op(f"kiwicha:{op.name}", "Reshape", (made, sizes), op.outputs)]
