"""Integer products: any size, with an epilogue, and what the chip's counters say.

    .venv/bin/python docs/examples/gemm.py [golden|verilated|serial:PORT] [CONFIG]
"""

import sys

import numpy as np

from kiwicha_host import open_device

device_name, config = (*sys.argv[1:], *("golden", "tiny")[len(sys.argv) - 1:])
rng = np.random.default_rng(0)
a = rng.integers(-128, 128, (33, 65), dtype=np.int8)
b = rng.integers(-128, 128, (65, 20), dtype=np.int8)

with open_device(device_name, config) as device:
    # Sums are int32, and equal to numpy's in every bit.
    c = device.gemm(a, b)
    assert (c == a.astype(np.int32) @ b.astype(np.int32)).all()

    cycles = device.last_result.cycles
    used = a.size * b.shape[1] / (cycles * device.config.peak_macs_per_cycle)
    print(f"{cycles} cycles; {used:.0%} of the array used")
    for unit, counts in device.last_result.counters.items():
        print(f"  {unit:9}", ", ".join(f"{name} {count}" for name, count in counts.items() if count))

    # A quantized layer: bias, ReLU and a scale per column on the way out, int8 again.
    bias = rng.integers(-1000, 1000, 20, dtype=np.int32)
    scale = np.linspace(0.001, 0.003, 20, dtype=np.float32)
    layer = device.gemm(a, b, bias=bias, out="int8", out_scale=scale, out_zero_point=-5, relu=True)
    print("a layer's first row:", layer[0].tolist())
    assert layer.dtype == np.int8 and layer.min() >= -5
