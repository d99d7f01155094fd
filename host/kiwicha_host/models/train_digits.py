"""Train and quantize the digits networks; write the .onnx files and the test images beside this.

Run as ``python -m kiwicha_host.models.train_digits [DIRECTORY]``; needs scikit-learn and onnx.
One core, ten seconds. On one machine the files are the same bytes each time; on another the last
bits of its BLAS may change the weights.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from . import DIGITS_CONV, DIGITS_MLP, DIGITS_TEST, nn, reference
from .quantize import quantize

SEED = 0
BATCH = 64


def load_split():
    """Training images, test images (uint8 [N, 8, 8], 0..16), training labels, test labels."""
    digits = load_digits()
    return train_test_split(digits.images.astype(np.uint8), digits.target.astype(np.uint8),
                            test_size=500, stratify=digits.target, random_state=SEED)


def conv_net(rng):
    """Three 3x3 convolutions and a dense layer, which is a convolution as large as its input."""
    return [nn.Conv(rng, 1, 16, kernel=3, pad=1), nn.Relu(),
            nn.Conv(rng, 16, 32, kernel=3, pad=1), nn.Relu(), nn.MaxPool(),
            nn.Conv(rng, 32, 32, kernel=3, pad=1), nn.Relu(), nn.MaxPool(),
            nn.Conv(rng, 32, 10, kernel=2, pad=0), nn.Flatten()]


def mlp(rng):
    """64-64-32-10, without biases."""
    return [nn.Flatten(), nn.Dense(rng, 64, 64), nn.Relu(), nn.Dense(rng, 64, 32), nn.Relu(),
            nn.Dense(rng, 32, 10)]


def train(layers, images, labels, rng, *, epochs, lr=3e-3):
    """Fit ``layers`` in place; the learning rate falls from ``lr`` to 0 along a cosine."""
    optimiser = nn.Adam(layers, decay=0.01)
    steps = len(images) // BATCH
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        for step in range(steps):
            batch = order[step * BATCH:(step + 1) * BATCH]
            gradient = nn.cross_entropy(nn.forward(layers, images[batch]), labels[batch], smoothing=0.1)
            for layer in reversed(layers):
                gradient = layer.backward(gradient)
            progress = (epoch * steps + step) / (epochs * steps)
            optimiser.step(lr * (1 + np.cos(np.pi * progress)) / 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=DIGITS_TEST.parent,
                        help="where to write (default: beside this script)")
    directory = parser.parse_args().directory

    images, test_images, labels, test_labels = load_split()
    np.savez_compressed(directory / DIGITS_TEST.name, images=test_images, labels=test_labels)
    images, test_images = (x[..., None].astype(np.float32) / 16 for x in (images, test_images))

    for file, build, epochs, zero_point in ((DIGITS_CONV.name, conv_net, 30, 0),
                                            (DIGITS_MLP.name, mlp, 100, -128)):
        rng = np.random.default_rng(SEED)
        layers = build(rng)
        train(layers, images, labels, rng, epochs=epochs)
        # With this scale the input's codes are the pixels, 0 to 16, and lose nothing.
        model = quantize(layers, images, name=Path(file).stem, input_scale=1 / 16,
                         zero_point=zero_point)
        onnx.save(model, directory / file)
        exact = nn.forward(layers, test_images)
        quantized = reference.run(model, test_images.transpose(0, 3, 1, 2))["logits"]
        for kind, logits in (("float32", exact), ("int8", quantized)):
            print(f"{file}: {kind} accuracy {np.mean(logits.argmax(1) == test_labels):.1%}")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
