"""Float networks in well-known shapes, with random weights, and what ONNX Runtime's quantizer makes of them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static


class Net:
    """A graph that is built operator by operator; arrays among the inputs become constants."""

    def __init__(self, seed, **shapes):
        self.rng = np.random.default_rng(seed)
        self.shapes = shapes
        self._nodes, self._constants, self._outputs = [], [], []

    def __call__(self, op, *inputs, outputs=1, **attributes):
        """The name of the operator's output; a list, if there are several."""
        name = f"{op}{len(self._nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        named = [self._named(item) for item in inputs]
        self._nodes.append(helper.make_node(op, named, names, name=name, **attributes))
        return name if outputs == 1 else names

    def _named(self, item):
        if isinstance(item, str):
            return item
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(item), name))
        return name

    def weights(self, *shape):
        return self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

    def conv(self, x, outputs, channels, kernel=3, stride=1, act="Relu", group=1, pad=None):
        y = self("Conv", x, self.weights(outputs, channels // group, kernel, kernel), 0.1 * self.weights(outputs),
                 strides=[stride] * 2, pads=[kernel // 2 if pad is None else pad] * 4, group=group)
        return self.act(y, act)

    def act(self, y, act):
        if act == "Clip":
            return self("Clip", y, np.float32(0), np.float32(6))
        return self(act, y) if act else y

    def linear(self, x, inputs, outputs, act=None):
        return self.act(self("Gemm", x, self.weights(inputs, outputs), 0.1 * self.weights(outputs)), act)

    def model(self, *outputs, opset=17):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(self._nodes, "net", [value(name, TensorProto.FLOAT, shape)
                                                       for name, shape in self.shapes.items()],
                                  [value(name, TensorProto.FLOAT, None) for name in outputs], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
        return onnx.shape_inference.infer_shapes(model)


def lenet(matmul=False):
    net = Net(1, x=["N", 1, 12, 12])
    x = net("MaxPool", net.conv("x", 6, 1, 5), kernel_shape=[2, 2], strides=[2, 2])
    x = net("Flatten", net("MaxPool", net.conv(x, 8, 6), kernel_shape=[2, 2], strides=[2, 2]))
    if matmul:
        x = net("Relu", net("Add", net("MatMul", x, net.weights(72, 20)), net.weights(20)))
        return net.model(net("Add", net("MatMul", x, net.weights(20, 10)), net.weights(10)))
    return net.model(net.linear(net.linear(x, 72, 20, "Relu"), 20, 10))


def vgg(size=8, widths=(4, 8), convolutions=(2, 2), features=16, softmax=True):
    net, x, channels = Net(2, x=["N", 3, size, size]), "x", 3
    for outputs, count in zip(widths, convolutions, strict=True):
        for _ in range(count):
            x, channels = net.conv(x, outputs, channels), outputs
        x, size = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), size // 2
    x = net.linear(net("Flatten", x), channels * size * size, features, "Relu")
    x = net.linear(x, features, 10)
    return net.model(net("Softmax", x) if softmax else x)


def resnet(size=8, widths=(4, 8), blocks=1):
    """Residual blocks, of which the first of each width but the first halves the size."""
    net = Net(3, x=["N", 3, size, size])
    x, channels = net.conv("x", widths[0], 3), widths[0]
    for outputs in widths:
        for _ in range(blocks):
            stride = 1 if outputs == channels else 2
            y = net.conv(net.conv(x, outputs, channels, stride=stride), outputs, outputs, act=None)
            if outputs != channels:
                x = net.conv(x, outputs, channels, kernel=1, stride=stride, act=None)
            x, channels = net("Relu", net("Add", x, y)), outputs
    x = net("Flatten", net("GlobalAveragePool", x))
    return net.model(net.linear(x, channels, 5))


def separable(channels=128, size=28):
    """A 1x1 and a depthwise 3x3 convolution."""
    net = Net(10, x=["N", channels, size, size])
    return net.model(net.conv(net.conv("x", channels, channels, kernel=1), channels, channels, group=channels))


def mobilenet_v1(size=96, alpha=0.25):
    net = Net(4, x=["N", 3, size, size])
    channels = int(32 * alpha)
    x = net.conv("x", channels, 3, stride=2, act="Clip")
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
                          (1024, 1)):
        outputs = int(width * alpha)
        x = net.conv(x, channels, channels, group=channels, stride=stride, act="Clip")
        x, channels = net.conv(x, outputs, channels, kernel=1, act="Clip"), outputs
    return net.model(net.linear(net("Flatten", net("GlobalAveragePool", x)), channels, 10))


def mobilenet(version=1, size=8):
    net = Net(4, x=["N", 3, size, size])
    x, channels = net.conv("x", 8, 3, stride=2, act="Clip"), 8
    for outputs in (12, 12):
        y, inner = x, channels
        if version == 2:
            y, inner = net.conv(x, 2 * channels, channels, kernel=1, act="Clip"), 2 * channels
        y = net.conv(y, inner, inner, group=inner, act="Clip")
        y = net.conv(y, outputs, inner, kernel=1, act=None if version == 2 else "Clip")
        x = net("Add", x, y) if version == 2 and outputs == channels else y
        channels = outputs
    return net.model(net.linear(net("Flatten", net("GlobalAveragePool", x)), channels, 5))


def swish():
    """Squeeze and excitation, h-swish, LeakyRelu, Resize and Split."""
    net = Net(5, x=["N", 3, 8, 8])
    x = net.conv("x", 8, 3, act=None)
    x = net("Mul", x, net("HardSigmoid", x))
    scale = net("Relu", net("Conv", net("GlobalAveragePool", x), net.weights(4, 8, 1, 1)))
    x = net("Mul", x, net("Sigmoid", net("Conv", scale, net.weights(8, 4, 1, 1))))
    first, second = net("Split", net.conv(x, 8, 8, act="LeakyRelu"), outputs=2, axis=1)
    x = net("Concat", net("Resize", first, "", np.array([1, 1, 2, 2], np.float32)),
            net("Resize", second, "", np.array([1, 1, 2, 2], np.float32)), axis=1)
    return net.model(net.conv(x, 3, 8, act=None))


def unet(size=8):
    net = Net(6, x=["N", 3, size, size])
    outer = net.conv("x", 6, 3)
    inner = net.conv(net("MaxPool", outer, kernel_shape=[2, 2], strides=[2, 2]), 8, 6)
    up = net("ConvTranspose", inner, net.weights(8, 6, 2, 2), 0.1 * net.weights(6), strides=[2, 2])
    x = net.conv(net("Concat", outer, up, axis=1), 6, 12)
    return net.model(net.conv(x, 2, 6, kernel=1, act=None))


def fire(size=8):
    """As SqueezeNet: narrow, then two kernels side by side, whose channels are joined."""
    net = Net(21, x=["N", 3, size, size])
    x, channels = net.conv("x", 8, 3), 8
    for squeezed, wide in ((3, 5), (4, 8)):
        x = net.conv(x, squeezed, channels, 1)
        x = net("Concat", net.conv(x, wide, squeezed, 1), net.conv(x, wide, squeezed), axis=1)
        x, channels = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 2 * wide
    x = net.conv(x, 10, channels, 1, act=None)
    return net.model(net("Flatten", x))


def dense(size=6, growth=3, layers=3):
    """As DenseNet without normalization: each convolution takes what all before it made."""
    net = Net(22, x=["N", 3, size, size])
    x, channels = net.conv("x", 5, 3), 5
    for _ in range(layers):
        x, channels = net("Concat", x, net.conv(x, growth, channels), axis=1), channels + growth
    return net.model(net.conv(x, 7, channels, 1))


def shuffled(size=8):
    """Halves that go different ways, cut, padded and put together, along channels and along height."""
    net = Net(23, x=["N", 3, size, size])
    x = net.conv("x", 8, 3)
    left, right = net("Split", x, np.array([3, 5]), outputs=2, axis=1)
    right = net.conv(right, 3, 5)
    left = net("Pad", left, np.array([0, 0, 1, 2, 0, 0, 1, 0]), np.float32(0))
    left = net.conv(left, 3, 3, pad=0, stride=1, act=None)
    right = net("Slice", right, np.array([0, 1]), np.array([size, size - 1]), np.array([2, 3]), np.array([1, 1]))
    left = net("Slice", left, np.array([1]), np.array([size - 1]), np.array([3]))
    x = net("Concat", left, right, axis=2)
    return net.model(net.conv(x, 6, 3, stride=2), net("Slice", x, np.array([-1]), np.array([-9]), np.array([2]),
                                                     np.array([-2])))


def vit(tokens=4, width=8, heads=2):
    """One transformer layer on patches of a picture."""
    net = Net(7, x=[1, 3, 8, 8])
    x = net("Conv", "x", net.weights(width, 3, 4, 4), net.weights(width), strides=[4, 4])
    x = net("Transpose", net("Reshape", x, np.array([1, width, tokens])), perm=[0, 2, 1])

    def norm(x):
        return net("LayerNormalization", x, np.ones(width, np.float32), np.zeros(width, np.float32))

    def split(x, perm):
        return net("Transpose", net("Reshape", x, np.array([1, tokens, heads, width // heads])), perm=perm)

    y = norm(x)
    q, k, v = (net("Add", net("MatMul", y, net.weights(width, width)), net.weights(width)) for _ in range(3))
    scores = net("Softmax", net("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1])))
    y = net("Transpose", net("MatMul", scores, split(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    x = net("Add", x, net("MatMul", net("Reshape", y, np.array([1, tokens, width])), net.weights(width, width)))
    y = net("MatMul", norm(x), net.weights(width, 2 * width))
    y = net("Mul", y, net("Sigmoid", y))
    return net.model(net("Add", x, net("MatMul", y, net.weights(2 * width, width))))


def class_token(size=16, patch=4, width=12, heads=3, layers=1, classes=5):
    """A transformer that classifies pictures: a first token of its own, places, Gelu as exporters write it."""
    net, tokens = Net(11, x=[1, 3, size, size]), (size // patch) ** 2 + 1
    x = net("Conv", "x", net.weights(width, 3, patch, patch), net.weights(width), strides=[patch, patch])
    x = net("Transpose", net("Reshape", x, np.array([1, width, tokens - 1])), perm=[0, 2, 1])
    x = net("Add", net("Concat", net.weights(1, 1, width), x, axis=1), net.weights(1, tokens, width))

    def norm(x):
        return net("LayerNormalization", x, np.abs(net.weights(width)) + np.float32(0.5), net.weights(width))

    def linear(x, outputs, inputs=width):
        return net("Add", net("MatMul", x, net.weights(inputs, outputs)), net.weights(outputs))

    def split(x, perm):
        return net("Transpose", net("Reshape", x, np.array([1, tokens, heads, width // heads])), perm=perm)

    for _ in range(layers):
        y = norm(x)
        q, k, v = (linear(y, width) for _ in range(3))
        scores = net("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
        scores = net("Softmax", net("Mul", scores, np.float32((width / heads) ** -0.5)), axis=-1)
        y = net("Transpose", net("MatMul", scores, split(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        x = net("Add", x, linear(net("Reshape", y, np.array([1, tokens, width])), width))
        y = linear(norm(x), 4 * width)
        gate = net("Add", net("Erf", net("Div", y, np.float32(2 ** 0.5))), np.float32(1))
        y = net("Mul", net("Mul", y, gate), np.float32(0.5))
        x = net("Add", x, linear(y, width, 4 * width))
    x = net("Gather", norm(x), np.array(0), axis=1)
    return net.model(net("Gemm", x, net.weights(width, classes), net.weights(classes)))


def keywords():
    """One-dimensional convolutions over time, as for sounds."""
    net = Net(8, x=["N", 4, 20])
    x = net("Relu", net("Conv", "x", net.weights(6, 4, 5), net.weights(6), strides=[2], pads=[2, 2]))
    x = net("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net("Relu", net("Conv", x, net.weights(6, 1, 3), group=6, dilations=[2]))
    return net.model(net("Sigmoid", net.linear(net("Flatten", x), 6, 3)))


def two_and_two():
    """Two inputs and two outputs."""
    net = Net(9, left=["N", 5], right=["N", 7])
    both = net("Concat", net.linear("left", 5, 6, "Relu"), net.linear("right", 7, 6, "Relu"), axis=1)
    return net.model(net.linear(both, 12, 4), net("Tanh", net.linear(both, 12, 3)))


NETS = {"lenet": lenet, "lenet_matmul": lambda: lenet(matmul=True), "vgg": vgg, "resnet": resnet,
        "mobilenet1": mobilenet, "mobilenet2": lambda: mobilenet(2), "swish": swish, "unet": unet, "vit": vit,
        "class_token": class_token,
        "keywords": keywords, "two_and_two": two_and_two, "fire": fire, "dense": dense, "shuffled": shuffled}


class Calibration(CalibrationDataReader):
    def __init__(self, batches):
        self._batches = iter(batches)

    def get_next(self):
        return next(self._batches, None)


def random_inputs(model, rng, count=1):
    """Arrays for the inputs of a float model; `count` in the place of a dimension that is only a name."""
    return {item.name: rng.normal(0, 1, [dim.dim_value or count for dim in item.type.tensor_type.shape.dim]
                                  ).astype(np.float32) for item in model.graph.input}


def quantized(model, folder, seed=0, weight_type=QuantType.QInt8, **options):
    """The path of `model` after ONNX Runtime's own tool."""
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    rng = np.random.default_rng(seed)
    quantize_static(source, target, Calibration([random_inputs(model, rng, 8) for _ in range(3)]),
                    weight_type=weight_type, **options)
    return target


def quantized_before_products(model, folder, **options):
    """As :func:`quantized`, with a QuantizeLinear nowhere but before products."""
    return quantized(model, folder, op_types_to_quantize=["Conv", "Gemm", "MatMul"], extra_options={
        "OpTypesToExcludeOutputQuantization": sorted({node.op_type for node in model.graph.node})}, **options)
