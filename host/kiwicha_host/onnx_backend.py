"""ONNX's own interface to backends (``onnx.backend.base``): ``prepare(model).run(inputs)``.

So the ONNX project's test runner can drive Kiwicha; devices are those of :func:`kiwicha_host.open_device`, and
"CPU", ONNX's name for what is always there, is the golden one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .extras import extra

with extra("onnx"):
    import onnx
    from onnx.backend.base import Backend, BackendRep, namedtupledict
    from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

from .compiler import CompileError
from .model import Model, load_model

__all__ = ["KiwichaBackend", "KiwichaRep", "prepare", "run_model", "supports_device"]

_NAMES = {"CPU": "golden", "CPU:0": "golden"}
#: Operators whose results no two runtimes share.
_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
#: Operators of which a node test of ONNX's asks more digits, or another rule, than ONNX Runtime's kernels have;
#: and with which attributes.
_INEXACT: dict[str, tuple[str, ...]] = {
    "DFT": (), "STFT": (), "Loop": (), "MaxUnpool": (), "Attention": ("qk_matmul_output_mode",),
    "Resize": ("align_corners",)}


def _why_not(graph: onnx.GraphProto) -> str | None:
    """What a comparison with the expected results of ONNX's own tests would fail by."""
    for node in graph.node:
        if node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.input) > 2):
            return f"{node.op_type} draws random numbers"
    [node, *others] = graph.node
    if others or node.op_type not in _INEXACT:
        return None
    said = {text for item in node.attribute for text in (item.name, item.s.decode(errors="replace"))}
    half = graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    if said.issuperset(_INEXACT[node.op_type]) or (node.op_type == "Attention" and half):
        return f"ONNX Runtime's {node.op_type} is not what ONNX's tests expect, digit for digit"
    return None


class KiwichaRep(BackendRep):
    """A model that is ready to run.

    Attributes
    ----------
    model : Model
    """

    def __init__(self, model: Model):
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Outputs in the model's order, as a tuple with names.

        Parameters
        ----------
        inputs : arrays in the model's order, or by name; or the only one
        """
        if kwargs:
            raise TypeError(f"run takes nothing but inputs, not {', '.join(kwargs)}")
        if not isinstance(inputs, Mapping):
            listed = list(inputs) if isinstance(inputs, Sequence) else [inputs]
            names = list(self.model.compiled.inputs)
            if len(listed) > len(names):
                raise ValueError(f"the model takes {len(names)} inputs, not {len(listed)}")
            inputs = dict(zip(names, listed, strict=False))
        try:
            outputs = self.model.run(inputs)
        except CompileError as error:
            raise BackendIsNotSupposedToImplementIt(str(error)) from None
        return namedtupledict("Outputs", list(outputs))(*outputs.values())


class KiwichaBackend(Backend):
    """Models on a device and in ONNX Runtime."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> KiwichaRep:
        """Compile `model`; `kwargs` are those of :func:`kiwicha_host.load_model`.

        Raises
        ------
        BackendIsNotSupposedToImplementIt
            Neither chip nor host can compute the model, or its results cannot be compared; the message says why.
        """
        if reason := _why_not(model.graph):
            raise BackendIsNotSupposedToImplementIt(reason)
        try:
            return KiwichaRep(load_model(model, device=_NAMES.get(device, device), **kwargs))
        except CompileError as error:
            raise BackendIsNotSupposedToImplementIt(str(error)) from None

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """:meth:`prepare` and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None,
                 **kwargs: Any) -> Any:
        """A node alone has no types and no version of its operators: wrap it in a model."""
        raise NotImplementedError("a node has no version of its operators: put it into a model for run_model")

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether there is such a device."""
        return _NAMES.get(device, device).partition(":")[0] in ("golden", "verilated", "serial")


prepare = KiwichaBackend.prepare
run_model = KiwichaBackend.run_model
supports_device = KiwichaBackend.supports_device
