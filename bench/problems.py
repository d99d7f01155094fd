"""What the roofline benchmark computes: GEMMs and convolutions, their work, and whether a result is right."""

from dataclasses import dataclass

import numpy as np

from kiwicha.formats import FORMATS
from kiwicha_host.compiler.ir.layers import Input, Layer, LayerGraph, Output
from kiwicha_host.compiler.network import CompiledNetwork
from kiwicha_host.devices import Device
from kiwicha_host.golden import gemm_block
from kiwicha_host.inference import infer
from kiwicha_host.job import Result
from kiwicha_host.metrics import Work, gemm_work
from kiwicha_host.models.reference import requantize

from .campaign import random_elements, random_scales

__all__ = ["CONVOLUTIONS", "Convolution", "GEMMS", "Gemm", "Problem", "SCALED"]


@dataclass(frozen=True)
class Gemm:
    """C[m, n] = A[m, k] . B[k, n], row-major in memory, INT8 to int32 or, with a scale `block`, to FP32."""
    m: int
    n: int
    k: int
    source: str = ""
    a_format: str = "int8"
    b_format: str = "int8"
    block: int = 0

    @property
    def name(self) -> str:
        formats = f" {self.a_format} x {self.b_format}, block {self.block}" if self.block else ""
        return f"{self.m}x{self.n}x{self.k}{formats}"

    @property
    def mnk(self) -> tuple[int, int, int]:
        return self.m, self.n, self.k

    @property
    def work(self) -> Work:
        scales = (self.m + self.n) * -(-self.k // self.block) if self.block else 0
        return gemm_work(self.m, self.n, self.k, scale_bytes=scales, a_per_byte=FORMATS[self.a_format].per_byte,
                         b_per_byte=FORMATS[self.b_format].per_byte)

    def run(self, device: Device) -> tuple[Result, bool]:
        """Cycles and counters, and whether every bit of the result is right."""
        rng = np.random.default_rng(self.m * self.n * self.k)
        a = random_elements(rng, (self.m, self.k), self.a_format)
        b = random_elements(rng, (self.k, self.n), self.b_format)
        if self.block:
            blocks = -(-self.k // self.block)
            scales = [random_scales(rng, shape) for shape in ((self.m, blocks), (blocks, self.n))]
            got = device.gemm(a, b, block=self.block, a_scale=scales[0], b_scale=scales[1])
            want = gemm_block(a, b, *scales, self.block)
        else:
            got, want = device.gemm(a, b), _product(a, b)
        assert device.last_result is not None
        return device.last_result, bool((got.view(np.uint32) == want.view(np.uint32)).all())


@dataclass(frozen=True)
class Convolution:
    """A 3 x 3 convolution with padding 1 of a `size` x `size` image, INT8 to INT8; patches are not copied."""
    size: int
    channels: int
    outputs: int
    source: str = ""
    kernel: int = 3

    @property
    def name(self) -> str:
        return f"conv {self.size}x{self.size}x{self.channels} to {self.outputs}, 3x3"

    @property
    def mnk(self) -> tuple[int, int, int]:
        return self.size ** 2, self.outputs, self.kernel ** 2 * self.channels

    @property
    def work(self) -> Work:
        m, n, k = self.mnk
        return Work(m * n * k, m * self.channels + n * k + 8 * n + m * n)

    def run(self, device: Device) -> tuple[Result, bool]:
        rng = np.random.default_rng(self.size)
        weights = rng.integers(-128, 128, (self.outputs, self.channels, self.kernel, self.kernel), np.int8)
        bias = rng.integers(-20000, 20000, self.outputs, dtype=np.int32)
        scale = rng.uniform(0.2, 1, self.outputs).astype(np.float32) / np.float32(150 * np.sqrt(self.mnk[2]))
        size = (self.size, self.size)
        layer = Layer("conv", "QLinearConv", weights, bias, scale, 0, 0, size, size,
                      pads=(self.kernel // 2, self.kernel // 2), real_macs=self.work.macs)
        graph = LayerGraph()
        source, target = graph.new_map(self.channels, size), graph.new_map(self.outputs, size)
        graph.add(layer, source, target)
        graph.inputs.append(Input("x", (self.channels, *size), np.dtype(np.int8), (), source.map))
        graph.outputs.append(Output("y", target, (), (), unsigned=False))
        image = rng.integers(-128, 128, (1, self.channels, *size), np.int8)
        network = CompiledNetwork(device.config, graph, memory_latency=device.memory_latency)
        got, result = infer(device, network, {"x": image})
        return result, bool((got["y"] == self._expected(image, weights, bias, scale)).all())

    def _expected(self, image: np.ndarray, weights: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
        pad = self.kernel // 2
        padded = np.pad(image[0], ((0, 0), (pad, pad), (pad, pad)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, (self.kernel, self.kernel), axis=(1, 2))
        rows = patches.transpose(1, 2, 0, 3, 4).reshape(self.mnk[0], -1)
        codes = requantize(_product(rows, weights.reshape(self.outputs, -1).T) + bias, scale, 0)
        return codes.T.reshape(1, self.outputs, self.size, self.size)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The exact integer product as int32; float64 holds these sums exactly, and is much faster."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64).astype(np.int32)


Problem = Gemm | Convolution

#: DeepSeek's K of 7168 is divided by 8, and the GEMV's of 4096 by 4, to keep the runs short.
GEMMS = (
    Gemm(512, 512, 512, "cube"),
    Gemm(197, 768, 768, "ViT, projection"),
    Gemm(197, 3072, 768, "ViT, MLP"),
    Gemm(128, 2112, 896, "DeepSeek, K / 8"),
    Gemm(64, 4096, 896, "DeepSeek, K / 8"),
    Gemm(16, 2048, 896, "DeepSeek, K / 8"),
    Gemm(1, 4096, 1024, "matrix times vector"),
    Gemm(4, 2048, 2048, "decoding, four at once"),
    Gemm(3136, 64, 576, "ResNet, im2col"),
    Gemm(784, 128, 1152, "ResNet, im2col"),
    Gemm(49, 512, 4608, "ResNet, im2col"),
    Gemm(1000, 37, 211, "ragged"),
    Gemm(33, 65, 127, "ragged, small"),
)
CONVOLUTIONS = (
    Convolution(56, 64, 64, "ResNet"),
    Convolution(28, 128, 128, "ResNet"),
    Convolution(7, 512, 512, "ResNet"),
)
#: Block-scaled GEMMs, to be compared with INT8 on the same chip.
SCALED = tuple(Gemm(m, n, k, source, a, b, block)
               for m, n, k, source in ((197, 768, 768, "ViT, projection"), (128, 2112, 896, "DeepSeek, K / 8"))
               for a, b, block in (("e4m3", "e4m3", 128), ("e4m3", "e4m3", 32), ("e4m3", "e2m1", 32),
                                   ("e2m1", "e2m1", 32), ("int8", "int8", 32)))
