"""Small quantized networks, trained on scikit-learn's handwritten digits, and their test images; and a language
model.

``train_digits.py`` and ``language/deepseek/train.py`` wrote the files; using them needs no training, nor what
that needs.
"""

from pathlib import Path

import numpy as np

__all__ = ["DEEPSEEK", "DEEPSEEK_VOCABULARY", "DIGITS_CONV", "DIGITS_MLP", "DIGITS_RESIDUAL", "DIGITS_TEST",
           "digits_test"]

DEEPSEEK = Path(__file__).with_name("deepseek.npz")
DEEPSEEK_VOCABULARY = Path(__file__).with_name("deepseek_vocabulary.json")
DIGITS_CONV = Path(__file__).with_name("digits_conv.onnx")
DIGITS_MLP = Path(__file__).with_name("digits_mlp.onnx")
DIGITS_RESIDUAL = Path(__file__).with_name("digits_residual.onnx")
DIGITS_TEST = Path(__file__).with_name("digits_test.npz")


def digits_test():
    """The 500 test images, float32 [500, 1, 8, 8] in 0..1 as the models take them, and their
    labels, uint8 [500]."""
    with np.load(DIGITS_TEST) as data:
        return data["images"][:, None].astype(np.float32) / 16, data["labels"]
