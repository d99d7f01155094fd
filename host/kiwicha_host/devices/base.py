"""What every device can do."""

import abc
from typing import Any

import ml_dtypes

from kiwicha import ChipConfig

from ..job import Job, Result
from ..memory_latency import MEMORY_LATENCY, check_memory_latency
from ..operands import FORMATS, gemm_request

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
        self.config = config
        self.memory_latency = check_memory_latency(memory_latency)
        self.last_result: Result | None = None

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
        """:meth:`execute`, remembered in `last_result`."""
        self.last_result = None
        self.last_result = self.execute(job)
        return self.last_result

    def gemm(self, a: Any, b: Any, **options: Any) -> Any:
        """C [M, N] = epilogue(A [M, K] . B [K, N]).

        Parameters
        ----------
        a, b : numpy or ml_dtypes arrays, whose types name the element formats
        block : elements along K that share a scale, 16, 32, 64 or 128; 0 (default) for an integer GEMM
        a_scale : uint8 E8M0 codes [M, ceil(K / block)]
        b_scale : uint8 E8M0 codes [ceil(K / block), N], or [ceil(K / block), ceil(N / block)] for square blocks
        bias : [N], int32 or, block-scaled, float32
        out : "int32", "fp32", "bf16", "int8", "e4m3" or "e2m1"; default int32 or, block-scaled, fp32
        out_scale : FP32 scalar or [N]; not for int32
        out_zero_point : for int8
        relu : negative results (before the zero point) become zero
        out_block, scale_rule : columns that share a scale, 32 or 128, and "rceil" (default) or "floor"; for
            e4m3 and e2m1

        Returns
        -------
        int32, float32, int8 or ml_dtypes [M, N]; for e4m3 and e2m1 a pair of that and its scales, uint8 E8M0
        codes [M, ceil(N / out_block)]

        Raises
        ------
        ValueError
            An operand or option has a wrong shape, type or value, or the chip cannot do it.
        DeviceError
            The program ended in an error.
        """
        # The compiler needs devices' jobs; devices need the compiler only here.
        from ..compiler import compile_gemm

        spec, arrays = gemm_request(self.config, a, b, **options)
        compiled = compile_gemm(self.config, spec, self.memory_limit, memory_latency=self.memory_latency)
        job = compiled.job(**arrays)
        self.run(job)
        c = compiled.output(job)
        if spec.out == "bf16":
            return c.view(ml_dtypes.bfloat16)
        if spec.out_block:
            return c.view(FORMATS[spec.out]), compiled.output_scales(job)
        return c
