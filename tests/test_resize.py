"""Resize to whole multiples, by scales or sizes, of all axes or some."""

import numpy as np
import pytest
from code_nets import Between, check

from kiwicha_host.compiler.errors import CompileError
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize

FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def resized(batch, scales=None, sizes=None, **attributes):
    """A Resize of [batch, 4, 5, 6]."""
    net = Between(np.uint8, x=[batch, 4, 5, 6])
    given = [""] * 2 if sizes is None else ["", "", np.array(sizes)]
    if scales is not None:
        given = ["", np.array(scales, np.float32)]
    made = net("Resize", net.numbers("x"), *given, **{**FLOOR, **attributes})
    return net.model(net.codes(made, 0.05, 3))


@pytest.mark.parametrize("batch, options", [
    (2, {"sizes": [2, 4, 10, 18]}), ("N", {"scales": [1, 1, 3, 1]}), ("N", {"sizes": [10, 12], "axes": [2, 3]}),
    ("N", {"sizes": [18, 5], "axes": [-1, 2]}), ("N", {"scales": [3], "axes": [3]}),
    (2, {"sizes": [2, 4, 5, 6], "keep_aspect_ratio_policy": "stretch"})])
def test_whole_multiples(batch, options):
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6)).astype(np.uint8)
    check(resized(batch, **options), {"x": x})


@pytest.mark.parametrize("batch, options, message", [
    ("N", {"sizes": [2, 4, 10, 18]}, "its sizes say 2 images, where the model takes any number: .* --dim N=2"),
    (2, {"sizes": [4, 4, 5, 6]}, r"whole factors, and nothing else, not \[2.0, 1.0, 1.0, 1.0\]"),
    (2, {"sizes": [2, 4, 7, 6]}, r"whole factors, and nothing else, not \[1.0, 1.0, 1.4, 1.0\]"),
    ("N", {"scales": [1, 1, 1, 0.5]}, "must enlarge height and width by whole factors"),
    ("N", {"scales": [2, 2], "axes": [1, 2]}, "must enlarge height and width by whole factors"),
    (2, {"sizes": [15, 12], "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, "must be 'stretch'")])
def test_what_is_refused(batch, options, message):
    with pytest.raises(CompileError, match=f"^Resize '.*': .*{message}"):
        to_layers(optimize(resized(batch, **options)))
