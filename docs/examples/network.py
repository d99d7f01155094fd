"""A quantized ONNX network on the chip: digits, image by image the same as ONNX Runtime says.

    .venv/bin/python docs/examples/network.py [golden|verilated|serial:PORT] [CONFIG]
"""

import sys

from kiwicha import ChipConfig
from kiwicha_host import models, open_device
from kiwicha_host.compiler import compile_onnx
from kiwicha_host.inference import infer

device_name, config = (*sys.argv[1:], *("golden", "tiny")[len(sys.argv) - 1:])
images, labels = models.digits_test()
images, labels = images[:20], labels[:20]

network = compile_onnx(ChipConfig.load(config), models.DIGITS_MLP)
for layer in network.layers:
    print(layer)
with open_device(device_name, config) as device:
    logits, result = infer(device, network, images)

right = int((logits.argmax(1) == labels).sum())
print(f"{right} of {len(labels)} right, {result.cycles // len(labels)} cycles an image")
assert right >= 18
