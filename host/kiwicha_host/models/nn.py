"""A minimal numpy trainer: the layers, the loss and the optimiser the example models need.

Images are NHWC, convolution kernels HWIO; everything is float32. A layer has ``forward(x)``
and ``backward(dy)``, which returns the gradient for its input and leaves those of ``params``
in ``grads``. ``backward`` belongs to the latest ``forward``.
"""

import numpy as np

__all__ = ["Adam", "Conv", "Dense", "Flatten", "MaxPool", "Relu", "Residual", "backward", "cross_entropy",
           "forward"]


def _he_normal(rng, shape):
    fan_in = np.prod(shape[:-1])
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


class Relu:
    """max(x, 0)."""

    params = grads = ()

    def forward(self, x):
        self._mask = x > 0
        return x * self._mask

    def backward(self, dy):
        return dy * self._mask


class Flatten:
    """[N, ...] to [N, everything else]."""

    params = grads = ()

    def forward(self, x):
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self._shape)


class MaxPool:
    """Maximum over 2x2 windows, stride 2; height and width must be even.

    Equal maxima each receive the whole gradient.
    """

    params = grads = ()

    def forward(self, x):
        n, h, w, c = x.shape
        self._x = x.reshape(n, h // 2, 2, w // 2, 2, c)
        self._y = self._x.max(axis=(2, 4), keepdims=True)
        return self._y.reshape(n, h // 2, w // 2, c)

    def backward(self, dy):
        n, h, _, w, _, c = self._x.shape
        dx = dy[:, :, None, :, None, :] * (self._x == self._y)
        return dx.reshape(n, 2 * h, 2 * w, c)


class Dense:
    """y = x . w, without a bias; w is [inputs, outputs]."""

    def __init__(self, rng, inputs, outputs):
        self.params = [_he_normal(rng, (inputs, outputs))]

    def forward(self, x):
        self._x = x
        return x @ self.params[0]

    def backward(self, dy):
        self.grads = [self._x.T @ dy]
        return dy @ self.params[0].T


class Conv:
    """Stride-1 convolution, ``pad`` zeros on each side; ``params`` are w [k, k, in, out], b [out]."""

    def __init__(self, rng, inputs, outputs, *, kernel, pad):
        self.kernel = kernel
        self.pad = pad
        self.params = [_he_normal(rng, (kernel, kernel, inputs, outputs)),
                       np.zeros(outputs, np.float32)]

    def _taps(self, x):
        """One view of ``x`` a kernel position, each as large as the output."""
        k = self.kernel
        h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
        return [x[:, i:i + h, j:j + w] for i in range(k) for j in range(k)]

    def forward(self, x):
        w, b = self.params
        p = self.pad
        padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        self._padded_shape = padded.shape
        self._cols = np.concatenate(self._taps(padded), axis=-1)
        return self._cols @ w.reshape(-1, w.shape[-1]) + b

    def backward(self, dy):
        w = self.params[0]
        rows = dy.reshape(-1, dy.shape[-1])
        cols = self._cols.reshape(len(rows), -1)
        self.grads = [(cols.T @ rows).reshape(w.shape), rows.sum(axis=0)]
        dcols = dy @ w.reshape(-1, w.shape[-1]).T
        dx: np.ndarray = np.zeros(self._padded_shape, np.float32)
        for tap, d in zip(self._taps(dx), np.split(dcols, self.kernel ** 2, axis=-1), strict=True):
            tap += d
        p = self.pad
        return dx[:, p:dx.shape[1] - p, p:dx.shape[2] - p]


class Residual:
    """Layers whose output is added to their input, or to what other layers (``shortcut``) make of it."""

    def __init__(self, layers, shortcut=()):
        self.layers, self.shortcut = list(layers), list(shortcut)

    @property
    def params(self):
        return [p for layer in self.layers + self.shortcut for p in layer.params]

    @property
    def grads(self):
        return [g for layer in self.layers + self.shortcut for g in layer.grads]

    def forward(self, x):
        return forward(self.layers, x) + forward(self.shortcut, x)

    def backward(self, dy):
        return backward(self.layers, dy) + backward(self.shortcut, dy)


def forward(layers, x):
    """The logits of ``layers``, a list in order of execution, for the batch ``x``."""
    for layer in layers:
        x = layer.forward(x)
    return x


def backward(layers, dy):
    """The gradient for the input of ``layers`` from that for their output; leaves those of their params."""
    for layer in reversed(layers):
        dy = layer.backward(dy)
    return dy


def cross_entropy(logits, labels, *, smoothing):
    """Gradient for ``logits`` [N, classes] of the mean cross-entropy with smoothed labels."""
    n, classes = logits.shape
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    target = np.full((n, classes), smoothing / classes, np.float32)
    target[np.arange(n), labels] += 1 - smoothing
    return (p - target) / n


class Adam:
    """Adam with decoupled weight decay; ``step(lr)`` updates the layers' params in place."""

    def __init__(self, layers, *, decay, betas=(0.9, 0.999), eps=1e-8):
        self._layers = [layer for layer in layers if layer.params]
        self._decay, self._betas, self._eps = decay, betas, eps
        self._moments = [[(np.zeros_like(p), np.zeros_like(p)) for p in layer.params]
                         for layer in self._layers]
        self._t = 0

    def step(self, lr):
        self._t += 1
        b1, b2 = self._betas
        for layer, moments in zip(self._layers, self._moments, strict=True):
            for p, g, (m, v) in zip(layer.params, layer.grads, moments, strict=True):
                m += (1 - b1) * (g - m)
                v += (1 - b2) * (g * g - v)
                update = m / (1 - b1 ** self._t) / (np.sqrt(v / (1 - b2 ** self._t)) + self._eps)
                p -= np.float32(lr) * (update + self._decay * p)
