"""What every device can do."""

import abc
import threading
from typing import Any, Literal, Unpack, overload

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from kiwicha import ChipConfig

from .. import arguments
from ..compiler import compile_gemm
from ..job import Job, Result
from ..memory_latency import MEMORY_LATENCY
from ..operands import FORMATS
from ..request import BlockScaled, GemmOptions, GemmRequest, GemmResult

__all__ = ["Device"]


class Device(abc.ABC):
    """A chip, or something that behaves like one. Close it, or use it in a ``with`` statement.

    Attributes
    ----------
    name : str
        What :func:`kiwicha_host.open_device` calls it.
    config : ChipConfig
    last_result : Result or None
        How the last program ran.
    memory_limit : int or None
        Bytes of memory that a job may use; None where that is this computer's business.
    memory_latency : int
        Clock cycles from a read's address to its first data; programs are compiled for it.
    """

    name = ""
    memory_limit: int | None = None

    def __init__(self, config: ChipConfig, memory_latency: int = MEMORY_LATENCY):
        self.config = arguments.chip(config)
        self.memory_latency = arguments.integer("memory_latency", memory_latency, 0)
        self.last_result: Result | None = None
        self._turn = threading.Lock()

    @abc.abstractmethod
    def execute(self, job: Job) -> Result:
        """Run the job's program to its end; changes ``job.memory`` in place.

        Raises
        ------
        DeviceError
            The program ended in an error; the next job runs normally.
        """

    def close(self) -> None:  # noqa: B027 (a device without resources has nothing to do here)
        """Give back what the device holds; calling it again does nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def run(self, job: Job) -> Result:
        """:meth:`execute`, remembered in `last_result`; of several threads, one after the other."""
        arguments.instance("job", job, Job)
        with self._turn:
            self.last_result = None
            self.last_result = result = self.execute(job)
        return result

    @overload
    def gemm(self, a: ArrayLike, b: ArrayLike, *, out: Literal["int32", "fp32", "bf16", "int8"] | None = None,
             **options: Unpack[GemmOptions]) -> np.ndarray: ...

    @overload
    def gemm(self, a: ArrayLike, b: ArrayLike, *, out: Literal["e4m3", "e2m1", "mxint8"],
             **options: Unpack[GemmOptions]) -> BlockScaled: ...

    @overload
    def gemm(self, a: ArrayLike, b: ArrayLike, *, out: str | None,
             **options: Unpack[GemmOptions]) -> np.ndarray | BlockScaled: ...

    def gemm(self, a: Any, b: Any, *, out: str | None = None, **options: Any) -> np.ndarray | BlockScaled:
        """C [M, N] = epilogue(A [M, K] . B [K, N]); arguments as :class:`kiwicha_host.GemmRequest` documents them.

        Returns
        -------
        int32, float32, int8 or ml_dtypes [M, N]; for e4m3, e2m1 and mxint8 a pair of that and its scales, uint8
        E8M0 codes [M, ceil(N / out_block)]; mxint8 is int8, in sixty-fourths of its scale

        Raises
        ------
        TypeError, ValueError
            An operand or option has a wrong shape, type or value, or the chip cannot do it.
        DeviceError
            The program ended in an error.
        """
        return self.compute(GemmRequest(a, b, out=out, **options)).value

    def compute(self, request: GemmRequest) -> GemmResult:
        """Compile and run `request`.

        Raises
        ------
        CompileError
            The chip cannot do it.
        DeviceError
            The program ended in an error.
        """
        spec = arguments.instance("request", request, GemmRequest).spec
        compiled = compile_gemm(self.config, spec, memory_limit=self.memory_limit,
                                memory_latency=self.memory_latency)
        job = compiled.job(**request.arrays())
        result = self.run(job)
        c = compiled.output(job)
        if spec.out == "bf16":
            c = c.view(ml_dtypes.bfloat16)
        if spec.element_format is None:
            return GemmResult(c, None, result)
        return GemmResult(c.view(FORMATS[spec.element_format]), compiled.output_scales(job), result)
