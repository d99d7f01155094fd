"""Passes: each takes a graph and returns one that computes the same."""

from .bind_dims import bind_dims
from .codes_before_moves import codes_before_moves
from .drop_copies import drop_copies
from .equal_codes import equal_codes
from .fold_channels import fold_channels
from .fold_choices import fold_choices
from .fold_constants import fold_constants
from .fold_elementwise import fold_elementwise
from .fold_qdq import fold_qdq
from .fold_shapes import fold_shapes
from .infer_types import infer_types
from .integer_products import integer_products
from .keep_batch import keep_batch
from .own_operators import own_products
from .pairs import pairs
from .remove_dead import remove_dead
from .sink_transposes import sink_transposes
from .standard_codes import standard_codes
from .transposed_weights import transposed_weights
from .unmerge_axes import unmerge_axes
from .unsigned_codes import unsigned_codes
from .zero_points import zero_points

__all__ = ["PASSES", "bind_dims"]

#: In this order, after the dimensions have their sizes.
PASSES = (own_products, standard_codes, pairs, remove_dead, fold_constants, fold_shapes, zero_points,
          transposed_weights, unsigned_codes, equal_codes, fold_choices, codes_before_moves, fold_qdq,
          fold_elementwise, fold_channels, sink_transposes, unmerge_axes, drop_copies, integer_products,
          infer_types, keep_batch)
