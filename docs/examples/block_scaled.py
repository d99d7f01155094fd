"""FP8 times FP4 with a scale per 32 elements, and what that costs in accuracy.

    .venv/bin/python docs/examples/block_scaled.py [golden|verilated|serial:PORT] [CONFIG]
"""

import sys

import numpy as np

from kiwicha_host import open_device
from kiwicha_host.quantize import quantize, quantize_weights

device_name, config = (*sys.argv[1:], *("golden", "small")[len(sys.argv) - 1:])
rng = np.random.default_rng(0)
x = rng.standard_normal((24, 100)).astype(np.float32)
w = rng.standard_normal((100, 32)).astype(np.float32)
exact = x @ w

with open_device(device_name, config) as device:
    for a_format, b_format in (("e4m3", "e4m3"), ("e4m3", "e2m1"), ("int8", "e2m3"), ("e2m1", "e2m1")):
        a, a_scale = quantize(x, a_format, 32)
        b, b_scale = quantize_weights(w, b_format, 32)
        c = device.gemm(a, b, block=32, a_scale=a_scale, b_scale=b_scale)
        error = np.linalg.norm(c - exact) / np.linalg.norm(exact)
        print(f"{a_format} x {b_format}: relative error {error:.2%}, {device.last_result.cycles} cycles")
        assert error < 0.3

    # The chip finds a result's scales itself: C is the next layer's operand.
    a, a_scale = quantize(x, "e4m3", 32)
    b, b_scale = quantize_weights(w, "e4m3", 32)
    c, c_scale = device.gemm(a, b, block=32, a_scale=a_scale, b_scale=b_scale, relu=True, out="e4m3", out_block=32)
    print(f"a layer's result: {c.dtype} {c.shape} with scales {c_scale.dtype} {c_scale.shape}")
