"""Payloads as integers: between field values and the bits of an ``amaranth.lib.data`` shape."""

import dataclasses
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
    known = _known(shape)
    if known.fields is None or isinstance(value, int):
        return _pack_number(known, 0 if value is None else value)
    if value is None:
        items = fields
    elif isinstance(value, dict):
        items = value | fields
    else:
        items = dict(enumerate(value))
    bits = 0
    for key, item in items.items():
        if key not in known.fields:
            raise ValueError(f"{shape!r} has no field {key!r}")
        part, offset, _ = known.fields[key]
        bits |= pack(part, item) << offset
    return bits


def unpack(shape, value):
    """The value of *shape* that the bits *value* stand for: dicts, lists, and (signed) integers.

    An enumeration gives its member, or the bare integer where there is none.
    """
    known = _known(shape)
    if known.fields is None:
        number = int(value) & ((1 << known.width) - 1)
        if known.signed and known.width and number >> (known.width - 1):
            number -= 1 << known.width
        return known.members.get(number, number)
    fields = {key: unpack(part, (int(value) >> offset) & mask)
              for key, (part, offset, mask) in known.fields.items()}
    return list(fields.values()) if known.is_array else fields


@dataclasses.dataclass
class _Known:
    """What is to know of a shape: its fields (shape, offset, mask), or its number and an enumeration's members."""
    shape: object
    width: int
    signed: bool = False
    fields: dict | None = None
    is_array: bool = False
    members: dict = dataclasses.field(default_factory=dict)


_all_known = {}


def _known(shape):
    """A shape's :class:`_Known`, made once: Amaranth works everything out again each time that it is asked."""
    try:
        return _all_known[id(shape)]        # a layout has no hash; what is known holds it, so the id stays its own
    except KeyError:
        return _all_known.setdefault(id(shape), _look_at(shape))


def _look_at(shape):
    layout = _layout(shape)
    if layout is not None:
        fields = {key: (field.shape, field.offset, (1 << field.width) - 1) for key, field in layout}
        return _Known(shape, layout.size, fields=fields, is_array=isinstance(layout, data.ArrayLayout))
    plain = Shape.cast(shape)
    is_enum = isinstance(shape, type) and issubclass(shape, enum.Enum)
    members = {item.value: item for item in shape} if is_enum else {}
    return _Known(shape, plain.width, plain.signed, members=members)


def _layout(shape):
    """The layout of a struct, union or array shape; None for a plain number or an enumeration."""
    if isinstance(shape, data.Layout):
        return shape
    if isinstance(shape, type) and issubclass(shape, data.Struct | data.Union):
        return data.Layout.cast(shape)
    return None


def _pack_number(known, value):
    number = int(value.value if isinstance(value, enum.Enum) else value)
    low, high = (-(1 << known.width - 1), 1 << known.width - 1) if known.signed else (0, 1 << known.width)
    if not low <= number < high:
        raise ValueError(f"{number} does not fit {Shape(known.width, known.signed)!r}")
    return number & ((1 << known.width) - 1)
