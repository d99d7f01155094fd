"""What each instruction does, as functions of a chip's state, the job's memory and the instruction's fields."""

from kiwicha.isa import Unit

from .access import Fault, Memory, State
from .matmul import matmul
from .transfer import load, store
from .vector import vector

__all__ = ["EXECUTE", "Fault", "Memory", "State"]

EXECUTE = {Unit.LOAD: load, Unit.MATMUL: matmul, Unit.VECTOR: vector, Unit.STORE: store}
