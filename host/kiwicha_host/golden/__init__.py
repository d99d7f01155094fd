"""The reference: what results are (`numerics`), and a machine that runs programs (`machine`)."""

from . import numerics
from .machine import Machine
from .numerics import epilogue, gemm_int

__all__ = ["Machine", "epilogue", "gemm_int", "numerics"]
