"""Biases of products of codes: int32, in steps of input scale times weight scale, as the sums are."""

from math import prod

import numpy as np

from .codes import Codes, Work

__all__ = ["bias_of", "exact_bias"]

_MOST = np.iinfo(np.int32).max


def bias_of(work: Work, name: str, x: Codes, w: Codes, axis: int) -> str | None:
    """The name of the bias in steps of the sums; "" for none.

    One that has them already is taken as it is. Numbers, and codes of other steps, are rounded to the nearest, at
    halves to the even one, as ONNX Runtime's quantizer does.

    Parameters
    ----------
    name : the bias as numbers, one or [..., outputs]; "" for none
    axis : that of the weights' outputs

    Returns
    -------
    None if it is not constant, of another form, or such that a sum may leave int32.
    """
    if not name:
        return ""
    weights, scales = work.constants[w.name], work.constants[w.scale].reshape(-1)
    wanted = work.constants[x.scale].reshape(()) * scales
    if exact := exact_bias(work, name, wanted):
        return exact
    numbers, outputs = work.numbers(name), weights.shape[axis]
    if numbers is None or numbers.dtype != np.float32 or numbers.size not in (1, outputs) or (
            prod(numbers.shape[:-1]) != 1):
        return None
    with np.errstate(all="ignore"):
        steps = np.rint(numbers.reshape(-1).astype(np.float64) / wanted.astype(np.float64))
    steps = np.broadcast_to(steps, outputs)
    # Codes less their zero point are 255 at most.
    sums = 255 * np.abs(_centred(work, w, axis)).sum(tuple(set(range(weights.ndim)) - {axis % weights.ndim}))
    if not (np.abs(steps) + sums <= _MOST).all():       # NaN neither
        return None
    return work.constant(f"{name}:steps", steps.astype(np.int32))


def exact_bias(work: Work, name: str, wanted: np.ndarray) -> str:
    """The name of the int32 codes in the steps `wanted` that the bias `name` is made of; "" for another bias."""
    maker = work.maker(name)
    if maker is None or maker.kind != "DequantizeLinear":
        return ""
    codes, scale, *zero = maker.inputs
    bias, steps, zeros = work.array(codes), work.array(scale), work.array(zero[0]) if zero and zero[0] else None
    same = (bias is not None and bias.dtype == np.int32 and steps is not None and steps.dtype == np.float32
            and not (zeros is not None and zeros.any()) and steps.size in (1, wanted.size)
            and np.allclose(steps.reshape(-1), wanted, rtol=1e-5, atol=0))
    return codes if same else ""


def _centred(work: Work, w: Codes, axis: int) -> np.ndarray:
    """The weights less their zero points."""
    weights, zero = work.constants[w.name], work.array(w.zero)
    shape = [1] * weights.ndim
    shape[axis] = -1
    return weights.astype(np.int64) - (0 if zero is None else zero.astype(np.int64).reshape(shape))
