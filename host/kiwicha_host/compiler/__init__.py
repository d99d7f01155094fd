"""From GEMMs and networks to programs."""

from .errors import CompileError
from .lower.gemm.compiled import CompiledGemm, GemmSpec, compile_gemm

__all__ = ["CompileError", "CompiledGemm", "GemmSpec", "compile_gemm", "compile_onnx"]


def __getattr__(name: str):
    # Reading networks needs the onnx package; a plain GEMM does not.
    if name == "compile_onnx":
        from .network import compile_onnx
        return compile_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
