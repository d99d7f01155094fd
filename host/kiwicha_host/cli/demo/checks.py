"""Results against those of others, value by value."""

from collections.abc import Mapping

import numpy as np

from ...extras import extra

__all__ = ["Mismatch", "check", "in_onnxruntime"]


class Mismatch(Exception):
    """The chip and a reference differ; the message says where."""


def check(name: str, expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> str:
    """`name`, whose values are `expected`, if those that we have `got`, by what they are, are the same.

    Raises
    ------
    Mismatch
        They are not.
    """
    for what, values in got.items():
        if expected[what].shape != values.shape:
            raise Mismatch(f"{what} have shape {list(values.shape)}, those of {name} {list(expected[what].shape)}")
        wrong = np.argwhere(expected[what] != values)
        if len(wrong):
            where = tuple(int(i) for i in wrong[0])
            raise Mismatch(f"{len(wrong)} of {values.size} {what} differ from {name}, the first at {list(where)}: "
                           f"{values[where]}, not {expected[what][where]}")
    return name


def in_onnxruntime(model: bytes, inputs: Mapping[str, np.ndarray], *, signed: bool = False
                   ) -> dict[str, np.ndarray]:
    """A model's outputs, on one thread of this computer; `signed` says that its activations are int8."""
    with extra("onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if not signed:
        # Otherwise, on an x86 with AVX2 but not VNNI, sums of uint8 times int8 saturate at 16 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
