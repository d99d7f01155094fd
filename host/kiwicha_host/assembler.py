"""Instructions to bytes and back, and what the tables of :mod:`kiwicha.isa` say to people and to C.

Nothing here knows a particular instruction: fields, widths and documentation all come from the tables.
"""

import operator
import re
from collections.abc import Iterator
from typing import Any

from kiwicha import isa
from kiwicha.config import shown
from kiwicha.formats import FORMATS, DocumentedEnum
from kiwicha.isa import INSTRUCTION_BYTES, INSTRUCTIONS, REGISTERS, ErrorCode, Unit

__all__ = ["DecodeError", "c_header", "decode", "disassemble", "encode", "reference_markdown"]

#: Units by opcode, the ones that run instructions.
_BY_OPCODE = {item.opcode: item for item in INSTRUCTIONS.values()}
#: Fields that the caller sets, by name, and the bits that are used: kept because programs are long.
_FIELDS = {unit: {item.name: item for item in instruction.all_fields if item.name != "opcode"}
           for unit, instruction in INSTRUCTIONS.items()}
_PLACES = {unit: [(item.name, item.offset, item.width, item.signed, item.enum) for item in fields.values()]
           for unit, fields in _FIELDS.items()}
_RANGES = {unit: {item.name: (item.offset, *item.limits, (1 << item.width) - 1) for item in fields.values()}
           for unit, fields in _FIELDS.items()}
_USED = {unit: instruction.used_mask for unit, instruction in INSTRUCTIONS.items()}


class DecodeError(ValueError):
    """Bytes that are no instruction.

    Attributes
    ----------
    code : ErrorCode
        OPCODE or RESERVED.
    address : int
        The opcode, or the number of the lowest reserved bit that is set.
    unit : Unit
        Whose instruction it is; FETCH if it is nobody's.
    """

    def __init__(self, code: ErrorCode, address: int, unit: Unit = Unit.FETCH):
        self.code = code
        self.address = address
        self.unit = unit
        if code == ErrorCode.OPCODE:
            names = ", ".join(f"{item.opcode} {item.name}" for item in _BY_OPCODE.values())
            super().__init__(f"opcode must be one of {names}, not {address}")
        else:
            super().__init__(f"reserved bit {address} must be zero")


def _refused(instruction: isa.Instruction, name: str, value: Any) -> ValueError:
    """Why `value` cannot be that field's."""
    field = _FIELDS[instruction.unit].get(name)
    if field is None:
        known = ", ".join(_FIELDS[instruction.unit])
        return ValueError(f"{instruction.name} has no field {name!r}; it has {known}")
    where = f"{instruction.name} {name}"
    if not isinstance(value, int):
        return ValueError(f"{where} must be an integer, not {shown(value)}")
    low, high = field.limits
    return ValueError(f"{where} must be from {low} to {high}, not {value}")


def encode(unit: Unit, **fields: Any) -> bytes:
    """The 64 bytes of one instruction; fields that are not given are zero.

    Raises
    ------
    ValueError
        There is no such field, or its value does not fit; the message names both.
    """
    instruction = INSTRUCTIONS.get(unit) if isinstance(unit, Unit) else None
    if instruction is None:
        raise ValueError(f"unit must be one of {', '.join(item.name for item in INSTRUCTIONS)}, not {shown(unit)}")
    ranges = _RANGES[unit]
    word = instruction.opcode
    for name, value in fields.items():
        if name not in ranges:
            raise _refused(instruction, name, value)
        offset, low, high, mask = ranges[name]
        if type(value) is not int:
            try:
                value = operator.index(getattr(value, "value", value))
            except TypeError:
                raise _refused(instruction, name, value) from None
        if not low <= value <= high:
            raise _refused(instruction, name, value)
        word |= (value & mask) << offset
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(code: bytes) -> tuple[Unit, dict[str, Any]]:
    """The unit and all fields but the opcode of one instruction, so that ``encode(unit, **fields)`` inverts.

    A field with an enumeration is its member, or the plain integer where there is none: that is the unit's
    error (FIELD), not one of decoding.

    Raises
    ------
    DecodeError
        No such opcode, or a reserved bit is set.
    """
    if not isinstance(code, bytes | bytearray):
        raise TypeError(f"code must be the bytes of an instruction, not {shown(code)}")
    if len(code) != INSTRUCTION_BYTES:
        raise ValueError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(code)}")
    word = int.from_bytes(code, "little")
    instruction = _BY_OPCODE.get(code[0])
    if instruction is None:
        raise DecodeError(ErrorCode.OPCODE, code[0])
    if reserved := word & ~_USED[instruction.unit]:
        raise DecodeError(ErrorCode.RESERVED, (reserved & -reserved).bit_length() - 1,
                          instruction.unit)
    fields: dict[str, Any] = {}
    for name, offset, width, is_signed, enumeration in _PLACES[instruction.unit]:
        value = word >> offset & (1 << width) - 1
        if is_signed and value >> width - 1:
            value -= 1 << width
        if enumeration is not None and value in enumeration._value2member_map_:
            value = enumeration(value)
        fields[name] = value
    return instruction.unit, fields


def disassemble(code: bytes) -> str:
    """One line for one instruction: its unit and every field that is not zero. Never fails on 64 bytes."""
    try:
        unit, fields = decode(code)
    except DecodeError as error:
        return f"no instruction ({error}): {code.hex()}"
    return " ".join([unit.name, *_operands(INSTRUCTIONS[unit], fields)])


def _operands(instruction: isa.Instruction, fields: dict[str, Any]) -> Iterator[str]:
    for field in (*instruction.fields, *isa.COMMON_FIELDS[1:]):
        value = fields[field.name]
        number = getattr(value, "value", value)
        if number == 0:
            continue
        if field.name in ("wait", "signal"):
            bits = [str(i) for i in range(field.width) if number >> i & 1]
            yield f"{field.name}={{{','.join(bits)}}}"
        elif field.enum is not None and value is not number:
            yield f"{field.name}={value.name}"
        elif field.width >= 32 and not field.signed:
            yield f"{field.name}={number:#x}"
        else:
            yield f"{field.name}={number}"


def enumerations() -> list[type[DocumentedEnum]]:
    """Every enumeration that instructions and registers use."""
    return [item for item in vars(isa).values()
            if isinstance(item, type) and issubclass(item, DocumentedEnum) and item is not DocumentedEnum]


def _prefix(enumeration: type) -> str:
    """ElementFormat is KIWICHA_ELEMENT_FORMAT_..., and ErrorCode KIWICHA_ERROR_..."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enumeration.__name__.removesuffix("Code")).upper()


# The C header.

_HEADER = """\
/* Kiwicha: instructions, registers, errors. Generated from rtl/kiwicha/isa.py; do not edit. */
#ifndef KIWICHA_H
#define KIWICHA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
"""

_FOOTER = """
/* Sets `width` bits from bit `offset` of an instruction to `value`. Start from 64 zero bytes. */
static inline void kiwicha_set(uint8_t *instruction, unsigned offset, unsigned width, uint64_t value)
{
    unsigned i;
    for (i = 0; i < width; i++) {
        unsigned bit = offset + i;
        uint8_t mask = (uint8_t)(1u << (bit % 8));
        if ((value >> i) & 1)
            instruction[bit / 8] = (uint8_t)(instruction[bit / 8] | mask);
        else
            instruction[bit / 8] = (uint8_t)(instruction[bit / 8] & ~mask);
    }
}

/* Sets a field by its name: KIWICHA_SET(instruction, LOAD, ROW_BYTES, 64). */
#define KIWICHA_SET(instruction, unit, field, value) \\
    kiwicha_set((instruction), KIWICHA_##unit##_##field##_OFFSET, KIWICHA_##unit##_##field##_WIDTH, \\
                (uint64_t)(value))

#ifdef __cplusplus
}
#endif

#endif
"""


def c_header() -> str:
    """``kiwicha.h``: C99 and C++, every constant and enumeration of :mod:`kiwicha.isa`, and a field setter."""
    lines = [_HEADER]
    lines += [f"#define KIWICHA_{name} {value:#x}u" if name.endswith(("_BASE", "_VALUE"))
              else f"#define KIWICHA_{name} {value}u"
              for name, value in vars(isa).items() if type(value) is int and not name.startswith("_")]
    for enumeration in enumerations():
        lines += ["", f"/* {enumeration.__name__} */"]
        lines += [f"#define KIWICHA_{_prefix(enumeration)}_{item.name} {item.value}u"
                  + (f" /* {item.doc} */" if item.doc else "") for item in enumeration]
    for instruction in INSTRUCTIONS.values():
        lines += ["", f"/* Instruction {instruction.name}: first bit and width of each field */"]
        for field in instruction.all_fields:
            name = f"KIWICHA_{instruction.name}_{field.name.upper()}"
            lines += [f"#define {name}_OFFSET {field.offset}u /* {field.doc} */",
                      f"#define {name}_WIDTH {field.width}u"]
    lines += ["", "/* Registers: byte offsets; fields: first bit and mask */"]
    for register in REGISTERS.values():
        lines.append(f"#define KIWICHA_REG_{register.name} {register.offset:#05x}u"
                     f" /* {register.access.value}: {_meaning(register)} */")
        for item in register.fields:
            name = f"KIWICHA_REG_{register.name}_{item.name.upper()}"
            lines += [f"#define {name}_BIT {item.bit}u /* {item.doc} */",
                      f"#define {name}_MASK {((1 << item.width) - 1) << item.bit:#x}u"]
    return "\n".join(lines) + "\n" + _FOOTER


# The reference page.


def _meaning(register: isa.Register) -> str:
    return register.doc + (f"; {register.rules}" if register.rules else "")

def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows)] + [""]


def _enumeration(title: str, text: str, head: str, enumeration: type[DocumentedEnum]) -> list[str]:
    described = any(item.doc for item in enumeration)
    rows = [(item.value, f"`{item.name}`", *([item.doc] if described else [])) for item in enumeration]
    return [f"## {title}", "", text, "", *_table(("value", head, *(["meaning"] if described else [])), rows)]


def _bits(field: isa.Field) -> str:
    if field.bit or field.width % 8:
        last = field.bit + field.width - 1
        return f"{field.bit}" if field.width == 1 else f"{last}:{field.bit}"
    return "all"


def _bytes(field: isa.Field) -> str:
    last = field.byte + (field.bit + field.width - 1) // 8
    return f"{field.byte}" if last == field.byte else f"{field.byte} to {last}"


def _field_table(fields: tuple[isa.Field, ...]) -> list[str]:
    rows = [(f"`{item.name}`", _bytes(item), _bits(item),
             "enum" if item.enum else ("signed" if item.signed else "unsigned"), item.doc)
            for item in sorted(fields, key=lambda item: item.offset)]
    return _table(("field", "bytes", "bits", "type", "meaning"), rows)


def reference_markdown() -> str:
    """The page of instructions and registers, from the same tables as the hardware."""
    lines = ["# Instructions and registers", "",
             "Generated from `rtl/kiwicha/isa.py` by `make docs`; a test keeps it up to date.", "",
             "## Programs", "",
             f"A program is an array of at most 2^{isa.INDEX_WIDTH} - 1 instructions of {INSTRUCTION_BYTES} "
             "bytes, little-endian, at a multiple of 64. Bits that no field names are reserved and must be "
             "zero. Each unit runs its instructions in order; units run apart, ordered only by "
             f"{isa.SEMAPHORES} counting semaphores, all zero when a program starts and {isa.SEMAPHORE_MAX} "
             "at most: a signal beyond that waits. All instructions have these fields:", "",
             *_field_table(isa.COMMON_FIELDS)]
    for instruction in INSTRUCTIONS.values():
        lines += [f"## {instruction.name}, opcode {instruction.opcode}", "", instruction.doc, "",
                  *_field_table(instruction.fields)]
    lines += _enumeration("Output formats", "Field `out_format` of VECTOR.", "format", isa.OutFormat)
    lines += _enumeration("Scale modes", "Field `scale_mode` of VECTOR.", "mode", isa.ScaleMode)
    lines += _enumeration("Scale rules", "Field `scale_rule` of VECTOR.", "rule", isa.ScaleRule)
    lines += ["## Element formats", "", "Fields `a_format` and `w_format` of MATMUL, and a bit each of the "
              "register FORMATS. A code stands for significand * 2^exponent; INT8 without scales is a whole "
              "number.", "",
              *_table(("code", "format", "bits", "exponent", "largest significand"),
                      [(item.code.value, f"`{name}`", item.bits, item.exponent, item.max_significand)
                       for name, item in FORMATS.items()])]
    lines += _enumeration("Errors", "Register ERROR says which, in which unit; ERROR_INSTRUCTION and "
                          "ERROR_ADDRESS say where.", "error", ErrorCode)
    lines += _enumeration("Units", "The value is the opcode and the unit's number in ERROR.", "unit", Unit)
    lines += _enumeration("Activities", "Each cycle of a run counts once for each unit; the sum is CYCLES.",
                          "activity", isa.Activity)
    lines += ["## Registers", "", "32 bits each, on AXI4-Lite. Offsets are in bytes. Access: ro, read only; "
              "rw, read and write; wo, each one written acts once; rw1s and rw1c, a one written sets or clears "
              "the bit. What is not said to be otherwise resets to 0.", ""]
    rows = []
    for register in REGISTERS.values():
        if register.offset >= isa.COUNTER_BASE:
            continue
        rows.append((f"`0x{register.offset:03x}`", f"`{register.name}`", register.access.value, "",
                     _meaning(register)))
        for item in register.fields:
            bits = str(item.bit) if item.width == 1 else f"{item.bit + item.width - 1}:{item.bit}"
            rows.append(("", f"`.{item.name}`", "", bits, item.doc))
    lines += _table(("offset", "register", "access", "bits", "meaning"), rows)
    lines += [f"The counter of a unit and an activity, read-only, is at `0x{isa.COUNTER_BASE:03x} + 0x20 * unit "
              "+ 4 * activity` and is called `UNIT_ACTIVITY`."]
    return "\n".join(lines) + "\n"
