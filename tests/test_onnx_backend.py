"""ONNX's own node tests, by its own runner, on the golden machine and the host."""

import re
import unittest
import warnings
from collections import Counter

import numpy as np
import onnx.backend.test
import pytest

from kiwicha_host import models, onnx_backend
from kiwicha_host.onnx_backend import BackendIsNotSupposedToImplementIt

#: At least so many pass; the rest say why they cannot.
PASSED = 1500


class Recorded(onnx_backend.KiwichaBackend):
    """What was skipped, and why: the runner passes over it in silence."""

    skipped: list[str] = []
    chip: Counter = Counter()

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        try:
            made = super().prepare(model, device, **kwargs)
        except BackendIsNotSupposedToImplementIt as error:
            cls.skipped.append(str(error))
            raise
        cls.chip.update(row.op for row in made.model.placement if row.place == "chip" and row.macs)
        return _Recorded(made.model)


class _Recorded(onnx_backend.KiwichaRep):
    def run(self, inputs, **kwargs):
        try:
            return super().run(inputs, **kwargs)
        except BackendIsNotSupposedToImplementIt as error:
            Recorded.skipped.append(str(error))
            raise


def test_the_nodes_of_onnx():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # onnx's, about the numbers in its tests
        cases = onnx.backend.test.BackendTest(Recorded, __name__).test_cases["OnnxBackendNodeModelTest"]
        names = [name for name in dir(cases) if re.fullmatch(r"test_\w+_cpu", name)]
        result = unittest.TestResult()
        unittest.TestSuite(map(cases, names)).run(result)
    problems = [(str(test), text.strip().splitlines()[-1]) for test, text in result.failures + result.errors]
    assert not problems
    assert result.testsRun == len(names) and len(names) - len(Recorded.skipped) >= PASSED
    assert len(Recorded.skipped) <= 80 and all(Recorded.skipped)
    assert Recorded.chip["QLinearMatMul"] > 0


def test_the_interface():
    assert onnx_backend.supports_device("CPU") and onnx_backend.supports_device("verilated")
    assert not onnx_backend.supports_device("CUDA")
    model, images = onnx.load(models.DIGITS_MLP), models.digits_test()[0][:3]
    prepared = onnx_backend.prepare(model, "golden", config="tiny")
    [by_order], by_name = prepared.run([images]), prepared.run({"image": images})
    np.testing.assert_array_equal(by_order, by_name.logits)
    np.testing.assert_array_equal(onnx_backend.run_model(model, images, config="tiny")[0], by_order)
    with pytest.raises(BackendIsNotSupposedToImplementIt, match="the model takes float32, not float64"):
        prepared.run([images.astype(np.float64)])
    with pytest.raises(ValueError, match="the model takes 1 inputs, not 2"):
        prepared.run([images, images])
    with pytest.raises(NotImplementedError, match="put it into a model"):
        onnx_backend.KiwichaBackend.run_node(model.graph.node[0], [images])
