"""Train and quantize the digits networks; write the .onnx files and the test images beside this.

Run as ``python -m kiwicha_host.models.train_digits [DIRECTORY]``; needs scikit-learn, onnx and ONNX Runtime.
One core, half a minute. On one machine the files are the same bytes each time; on another the last
bits of its BLAS may change the weights.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from ..compiler.frontend.onnx.quantizer import quantize_model
from . import DIGITS_CONV, DIGITS_MLP, DIGITS_RESIDUAL, DIGITS_TEST, nn, reference
from .export import export
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


def residual_net(rng):
    """Two residual blocks between a convolution and a dense layer; the second one doubles the channels."""
    return [nn.Conv(rng, 1, 16, kernel=3, pad=1), nn.Relu(),
            residual_block(rng, 16, 16), nn.Relu(), nn.MaxPool(),
            residual_block(rng, 16, 32), nn.Relu(), nn.MaxPool(),
            nn.Conv(rng, 32, 10, kernel=2, pad=0), nn.Flatten()]


def residual_block(rng, inputs, outputs):
    """Two 3x3 convolutions, which add nothing before they are trained; a 1x1 beside them for other channels."""
    last = nn.Conv(rng, outputs, outputs, kernel=3, pad=1)
    last.params[0][:] = 0
    return nn.Residual([nn.Conv(rng, inputs, outputs, kernel=3, pad=1), nn.Relu(), last],
                       [] if inputs == outputs else [nn.Conv(rng, inputs, outputs, kernel=1, pad=0)])


def shifted(images, rng):
    """Each of the images moved by up to a pixel, up or down and left or right, with black coming in."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = images.shape[1:3]
    return np.stack([image[y:y + h, x:x + w]
                     for image, (y, x) in zip(padded, rng.integers(0, 3, (len(images), 2)), strict=True)])


def train(layers, images, labels, rng, *, epochs, lr=3e-3, decay=0.01, shift=False):
    """Fit ``layers`` in place; the learning rate falls from ``lr`` to 0 along a cosine."""
    optimiser = nn.Adam(layers, decay=decay)
    steps = len(images) // BATCH
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        for step in range(steps):
            batch = order[step * BATCH:(step + 1) * BATCH]
            x = shifted(images[batch], rng) if shift else images[batch]
            nn.backward(layers, nn.cross_entropy(nn.forward(layers, x), labels[batch], smoothing=0.1))
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
        quantized = reference.run(model, test_images.transpose(0, 3, 1, 2))["logits"]
        show_accuracy(file, nn.forward(layers, test_images), quantized, test_labels)
    train_residual(directory, images, labels, test_images, test_labels)


def train_residual(directory, images, labels, test_images, test_labels):
    """The residual network goes the way of anyone's float model: through ONNX Runtime's quantizer."""
    rng = np.random.default_rng(SEED)
    layers = residual_net(rng)
    train(layers, images, labels, rng, epochs=30, decay=0.05, shift=True)
    model = export(layers, name=DIGITS_RESIDUAL.stem, shape=images.shape[1:], classes=10)
    path = directory / DIGITS_RESIDUAL.name
    path.write_bytes(quantize_model(model, {"image": images.transpose(0, 3, 1, 2)}))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    quantized, = session.run(["logits"], {"image": test_images.transpose(0, 3, 1, 2)})
    show_accuracy(path.name, nn.forward(layers, test_images), quantized, test_labels)


def show_accuracy(file, exact, quantized, labels):
    for kind, logits in (("float32", exact), ("quantized", quantized)):
        print(f"{file}: {kind} accuracy {np.mean(logits.argmax(1) == labels):.1%}")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
