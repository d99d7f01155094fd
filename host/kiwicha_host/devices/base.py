"""What every device can do."""

import abc
from typing import Any

import numpy as np

from kiwicha import ChipConfig

from ..job import Job, Result
from ..operands import check_gemm

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
    """

    name = ""
    memory_limit: int | None = None

    def __init__(self, config: ChipConfig):
        self.config = config
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

    def gemm(self, a: np.ndarray, b: np.ndarray, *, bias: np.ndarray | None = None, out: str = "int32",
             out_scale: Any = None, out_zero_point: int = 0, relu: bool = False) -> np.ndarray:
        """C [M, N] = epilogue(A [M, K] . B [K, N]).

        Parameters
        ----------
        a, b : numpy or ml_dtypes arrays, whose types name the element formats
        bias : int32 [N]
        out : "int32", "fp32" or "int8"
        out_scale : FP32 scalar or [N]; for fp32 and int8
        out_zero_point : for int8
        relu : negative results (before the zero point) become zero

        Returns
        -------
        int32, float32 or int8 [M, N]

        Raises
        ------
        ValueError
            An operand has a wrong shape, type or value, or its format is not in the hardware.
        DeviceError
            The program ended in an error.
        """
        # The compiler needs devices' jobs; devices need the compiler only here.
        from ..compiler import GemmSpec, compile_gemm

        arrays = check_gemm(self.config, a, b, bias=bias, out=out, out_scale=out_scale,
                            out_zero_point=out_zero_point)
        scale = arrays["scale"]
        if not isinstance(scale, np.ndarray):
            del arrays["scale"]
        (m, k), n = arrays["a"].shape, arrays["b"].shape[1]
        spec = GemmSpec(m=m, n=n, k=k, out=out, bias=bias is not None, zero_point=int(out_zero_point), relu=relu,
                        scale="column" if isinstance(scale, np.ndarray) else scale)
        compiled = compile_gemm(self.config, spec, memory_limit=self.memory_limit)
        job = compiled.job(**arrays)
        self.run(job)
        return compiled.output(job)
