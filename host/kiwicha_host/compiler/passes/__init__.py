"""Passes: each takes a graph and returns one that computes the same."""

from .fold_constants import fold_constants
from .fold_qdq import fold_qdq
from .remove_dead import remove_dead

__all__ = ["PASSES"]

#: In this order.
PASSES = (remove_dead, fold_constants, fold_qdq)
