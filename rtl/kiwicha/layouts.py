"""The instructions of :mod:`kiwicha.isa` as hardware sees them: shapes of their fields."""

import functools

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from .isa import INDEX_WIDTH, INSTRUCTION_BYTES, INSTRUCTIONS, Field, Unit

__all__ = ["field_shape", "instruction_layout", "unit_layout"]


def field_shape(field: Field):
    """The shape of an instruction's field: its enumeration, or a number of its width."""
    return field.enum or (signed(field.width) if field.signed else unsigned(field.width))


@functools.cache
def instruction_layout(unit: Unit) -> data.FlexibleLayout:
    """The 512-bit layout of `unit`'s instruction in memory."""
    return data.FlexibleLayout(8 * INSTRUCTION_BYTES, {
        item.name: data.Field(field_shape(item), item.offset) for item in INSTRUCTIONS[unit].all_fields})


@functools.cache
def unit_layout(unit: Unit) -> data.StructLayout:
    """What the dispatcher hands to a unit: the instruction's own fields and its `index` in the program."""
    return data.StructLayout({**{item.name: field_shape(item) for item in INSTRUCTIONS[unit].fields},
                              "index": INDEX_WIDTH})
