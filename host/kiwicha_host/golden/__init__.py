"""The reference: what results are (`numerics`, `block`), and a machine that runs programs (`machine`)."""

from . import block, numerics
from .block import gemm_block, quantize_block
from .machine import Machine
from .numerics import epilogue, gemm_int, to_bf16

__all__ = ["Machine", "block", "epilogue", "gemm_block", "gemm_int", "numerics", "quantize_block", "to_bf16"]
