"""The reference: what results are (`numerics`, `block`, `functions`), and a `machine` that runs programs."""

from . import block, functions, numerics
from .block import gemm_block, quantize_block
from .machine import Machine
from .numerics import epilogue, gemm_int, to_bf16

__all__ = ["Machine", "block", "epilogue", "functions", "gemm_block", "gemm_int", "numerics", "quantize_block",
           "to_bf16"]
