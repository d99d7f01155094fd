"""Payloads as integers: between field values and the bits of an ``amaranth.lib.data`` shape."""

import enum

from amaranth.hdl import Shape
from amaranth.lib import data

__all__ = ["pack", "unpack"]


def pack(shape, value=None, /, **fields):
    """The bits of one value of *shape*, as a non-negative integer.

    A struct takes its fields by keyword or as one dict, an array a sequence, anything else an
    integer or an enumeration member; they nest. What is not given is 0.

    Raises
    ------
    ValueError
        For an unknown field, too many elements, or a number that does not fit.
    """
    layout = _layout(shape)
    if layout is None:
        return _pack_number(shape, 0 if value is None else value)
    if isinstance(value, int):
        return _pack_number(layout.size, value)
    if value is None:
        items = fields
    elif isinstance(value, dict):
        items = value | fields
    else:
        items = dict(enumerate(value))
    known = dict(layout)
    bits = 0
    for key, item in items.items():
        if key not in known:
            raise ValueError(f"{shape!r} has no field {key!r}")
        bits |= pack(known[key].shape, item) << known[key].offset
    return bits


def unpack(shape, value):
    """The value of *shape* that the bits *value* stand for: dicts, lists, and (signed) integers.

    An enumeration gives its member, or the bare integer where there is none.
    """
    layout = _layout(shape)
    if layout is None:
        plain = Shape.cast(shape)
        number = int(value) & ((1 << plain.width) - 1)
        if plain.signed and plain.width and number >> (plain.width - 1):
            number -= 1 << plain.width
        if isinstance(shape, type) and issubclass(shape, enum.Enum):
            return next((member for member in shape if member.value == number), number)
        return number
    fields = {key: unpack(field.shape, (int(value) >> field.offset) & ((1 << field.width) - 1))
              for key, field in layout}
    return list(fields.values()) if isinstance(layout, data.ArrayLayout) else fields


def _layout(shape):
    """The layout of a struct, union or array shape; None for a plain number or an enumeration."""
    if isinstance(shape, data.Layout):
        return shape
    if isinstance(shape, type) and issubclass(shape, data.Struct | data.Union):
        return data.Layout.cast(shape)
    return None


def _pack_number(shape, value):
    plain = Shape.cast(shape)
    number = int(value.value if isinstance(value, enum.Enum) else value)
    low, high = (-(1 << plain.width - 1), 1 << plain.width - 1) if plain.signed else (0, 1 << plain.width)
    if not low <= number < high:
        raise ValueError(f"{number} does not fit {plain!r}")
    return number & ((1 << plain.width) - 1)
