"""The operators of ONNX that those in the domain "kiwicha", which only the chip knows, stand for."""

from dataclasses import replace

from ..ir.graph import Op

__all__ = ["unfold"]


def unfold(op: Op) -> list[Op]:
    """What `op` stands for, or itself.

    Most have it as their attribute ``ops``; what is inside gets names of its own.
    """
    if not op.kind.startswith("kiwicha."):
        return [op]
    if "ops" not in op.attributes:
        return _transposed_convolution(op)
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
