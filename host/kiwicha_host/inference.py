"""A compiled network on a device: as many jobs as the device's memory makes necessary."""

from collections.abc import Mapping
from typing import Any, overload

import numpy as np

from . import arguments
from .compiler.network import CompiledNetwork
from .devices.base import Device
from .job import Result

__all__ = ["infer"]


@overload
def infer(device: Device, network: CompiledNetwork, images: np.ndarray) -> tuple[np.ndarray, Result]: ...


@overload
def infer(device: Device, network: CompiledNetwork, images: Mapping[str, np.ndarray]
          ) -> tuple[dict[str, np.ndarray], Result]: ...


def infer(device: Device, network: CompiledNetwork, images: Any) -> tuple[Any, Result]:
    """The network's outputs for all `images`, and how the runs went together.

    Inputs and outputs are arrays by name; or the only input, for the only output.

    Raises
    ------
    CompileError
        `images` are not what the network takes, or one image does not fit the device's memory.
    DeviceError
        A program ended in an error.
    """
    arguments.instance("device", device, Device)
    arguments.instance("network", network, CompiledNetwork)
    if not isinstance(images, Mapping):
        name = network.only_output.name
        outputs, result = infer(device, network, {network.inputs[0]: arguments.array("images", images)})
        return outputs[name], result
    network.check(images)
    count = len(images[network.inputs[0]])
    part = network.images_per_job(count, device.memory_limit)
    parts, total = [], None
    for start in range(0, count, part):
        job = network.batch_job({name: images[name][start:start + part] for name in network.inputs})
        result = device.run(job)
        total = result if total is None else total + result
        parts.append(network.results(job))
    assert total is not None        # the network takes no empty batch
    device.last_result = total
    return {name: np.concatenate([item[name] for item in parts]) for name in parts[0]}, total
