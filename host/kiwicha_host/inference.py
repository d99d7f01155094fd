"""A compiled network on a device: as many jobs as the device's memory makes necessary."""

import numpy as np

from . import arguments
from .compiler.network import CompiledNetwork
from .devices.base import Device
from .job import Result

__all__ = ["infer"]


def infer(device: Device, network: CompiledNetwork, images: np.ndarray) -> tuple[np.ndarray, Result]:
    """The model's output for all `images`, and how the runs went together.

    Raises
    ------
    CompileError
        `images` is not what the model takes, or one image does not fit the device's memory.
    DeviceError
        A program ended in an error.
    """
    arguments.instance("device", device, Device)
    images = arguments.array("images", images)
    arguments.instance("network", network, CompiledNetwork).check(images)
    part = network.images_per_job(len(images), device.memory_limit)
    outputs, total = [], None
    for start in range(0, len(images), part):
        job = network.batch_job(images[start:start + part])
        result = device.run(job)
        total = result if total is None else total + result
        outputs.append(network.outputs(job))
    assert total is not None        # the network takes no empty batch
    device.last_result = total
    return np.concatenate(outputs), total
