"""The assembler: what fits goes there and back, what does not is named; the tables are consistent."""

import enum
import random
import re
import shutil
import subprocess
from itertools import combinations

import pytest

from kiwicha import formats, isa
from kiwicha.isa import INSTRUCTIONS, ErrorCode, OutFormat, ScaleMode, Unit
from kiwicha.layouts import instruction_layout
from kiwicha_host import assembler
from kiwicha_host.assembler import DecodeError, decode, disassemble, encode

FIELDS = [(unit, field) for unit, item in INSTRUCTIONS.items() for field in item.all_fields[1:]]
IDS = [f"{unit.name}.{field.name}" for unit, field in FIELDS]


def limits(field):
    if field.enum:
        return 0, (1 << field.width) - 1
    return (-(1 << field.width - 1), (1 << field.width - 1) - 1) if field.signed else (0, (1 << field.width) - 1)


@pytest.mark.parametrize("unit, field", FIELDS, ids=IDS)
def test_each_field_alone(unit, field):
    for value in limits(field):
        code = encode(unit, **{field.name: value})
        word = int.from_bytes(code, "little")
        mask = (1 << field.width) - 1
        assert word == unit.value | (value & mask) << field.offset
        got_unit, fields = decode(code)
        assert got_unit is unit
        assert getattr(fields[field.name], "value", fields[field.name]) == value
        assert encode(got_unit, **fields) == code


@pytest.mark.parametrize("unit, field", FIELDS, ids=IDS)
def test_what_does_not_fit_is_named(unit, field):
    low, high = limits(field)
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError) as caught:
            encode(unit, **{field.name: value})
        assert str(caught.value) == f"{unit.name} {field.name} must be from {low} to {high}, not {value}"
    for value in (1.5, "1", None):
        with pytest.raises(ValueError, match=f"{unit.name} {field.name} must be an integer, not {value!r}"):
            encode(unit, **{field.name: value})


def test_other_bad_calls():
    with pytest.raises(ValueError, match="LOAD has no field 'count0'; it has wait, signal, fill_only"):
        encode(Unit.LOAD, count0=1)
    with pytest.raises(ValueError, match="LOAD has no field 'opcode'"):
        encode(Unit.LOAD, opcode=1)
    with pytest.raises(ValueError, match="unit must be one of LOAD, MATMUL, VECTOR, STORE, not "):
        encode(Unit.FETCH)
    with pytest.raises(ValueError, match="an instruction has 64 bytes, not 63"):
        decode(bytes(63))


def test_enumerations_as_members_or_integers():
    code = encode(Unit.VECTOR, out_format=OutFormat.FP32, scale_mode=ScaleMode.COLUMN)
    assert code == encode(Unit.VECTOR, out_format=2, scale_mode=2)
    _, fields = decode(code)
    assert fields["out_format"] is OutFormat.FP32 and fields["scale_mode"] is ScaleMode.COLUMN
    # No member: the unit's error, not the decoder's.
    assert decode(encode(Unit.VECTOR, out_format=7))[1]["out_format"] == 7


def test_random_instructions_there_and_back():
    rng = random.Random(1)
    for _ in range(300):
        unit = rng.choice(list(INSTRUCTIONS))
        code = encode(unit, **{field.name: rng.randint(*limits(field))
                               for field in INSTRUCTIONS[unit].all_fields[1:]})
        assert encode(*decode(code)[:1], **decode(code)[1]) == code
        assert disassemble(code).startswith(unit.name)


def test_bad_opcodes():
    known = {unit.value for unit in INSTRUCTIONS}
    for opcode in set(range(256)) - known:
        with pytest.raises(DecodeError) as caught:
            decode(bytes([opcode]) + b"\xff" * 63)
        assert (caught.value.code, caught.value.address, caught.value.unit) == (
            ErrorCode.OPCODE, opcode, Unit.FETCH)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", INSTRUCTIONS)
def test_every_reserved_bit(unit):
    base = int.from_bytes(encode(unit), "little")
    reserved = [bit for bit in range(512) if not INSTRUCTIONS[unit].used_mask >> bit & 1]
    assert reserved
    for bit in reserved:
        # A higher one as well: the lowest counts.
        word = base | 1 << bit | 1 << reserved[-1]
        with pytest.raises(DecodeError, match=f"reserved bit {bit} must be zero") as caught:
            decode(word.to_bytes(64, "little"))
        assert (caught.value.code, caught.value.address, caught.value.unit) == (ErrorCode.RESERVED, bit, unit)


@pytest.mark.parametrize("unit", INSTRUCTIONS)
def test_fields_do_not_overlap(unit):
    for a, b in combinations(INSTRUCTIONS[unit].all_fields, 2):
        assert a.offset + a.width <= b.offset or b.offset + b.width <= a.offset, (a.name, b.name)
    assert max(item.offset + item.width for item in INSTRUCTIONS[unit].all_fields) <= 512
    layout = instruction_layout(unit)
    for item in INSTRUCTIONS[unit].all_fields:
        assert (layout[item.name].offset, layout[item.name].width) == (item.offset, item.width)


def test_registers_do_not_overlap():
    offsets = [register.offset for register in isa.REGISTERS.values()]
    assert len(set(offsets)) == len(offsets)
    assert all(offset % 4 == 0 and 0 <= offset < 4096 for offset in offsets)
    for register in isa.REGISTERS.values():
        for a, b in combinations(register.fields, 2):
            assert a.bit + a.width <= b.bit or b.bit + b.width <= a.bit, (register.name, a.name, b.name)
        assert all(item.bit + item.width <= 32 for item in register.fields)


def test_disassembly():
    code = encode(Unit.STORE, address=0x1000, rows=3, row_stride=-4, wait=0b101, signal=1 << 15)
    assert disassemble(code) == "STORE address=0x1000 rows=3 row_stride=-4 wait={0,2} signal={15}"
    assert disassemble(encode(Unit.VECTOR, out_format=OutFormat.FP32)) == "VECTOR out_format=FP32"
    assert disassemble(encode(Unit.VECTOR, out_format=7)) == "VECTOR out_format=7"
    assert disassemble(bytes(64)).startswith("no instruction (opcode must be one of 1 LOAD, ")


def test_every_member_is_documented():
    for enumeration in (ErrorCode, isa.Activity):
        assert all(member.doc for member in enumeration if member.name != "NONE")


def test_the_reference_names_everything():
    page = assembler.reference_markdown()
    for item in INSTRUCTIONS.values():
        assert f"## {item.name}, opcode {item.opcode}" in page
        assert all(f"`{field.name}`" in page and field.doc in page for field in item.all_fields)
    for register in isa.REGISTERS.values():
        assert register.offset >= isa.COUNTER_BASE or register.doc in page
    # A cell with a bar in it would break its table.
    assert all(line.count("|") == page.splitlines()[i - 1].count("|")
               for i, line in enumerate(page.splitlines())
               if i and line.startswith("|") and page.splitlines()[i - 1].startswith("|"))


def compiled(main, compiler, options, folder):
    """What a C program with our header writes."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    (folder / "kiwicha.h").write_text(assembler.c_header(), encoding="utf-8")
    (folder / "main.c").write_text(main, encoding="utf-8")
    subprocess.run([compiler, *options, "-Wall", "-Wextra", "-pedantic", "-Werror", "main.c", "-o", "main"],
                   cwd=folder, check=True, timeout=60)
    return subprocess.run([folder / "main"], check=True, stdout=subprocess.PIPE, timeout=10).stdout


def constants():
    """Every macro that the header must have, by name, from the tables."""
    yield from ((name, value) for name, value in vars(isa).items()
                if name.isupper() and not name.startswith("_") and isinstance(value, int))
    modules = {**vars(formats), **vars(isa)}
    for prefix, enumeration in (("UNIT", isa.Unit), ("ERROR", isa.ErrorCode), ("ACTIVITY", isa.Activity),
                                ("SOURCE", isa.Source), ("SECOND_SOURCE", isa.SecondSource),
                                ("OPERAND_USE", isa.OperandUse), ("REDUCE", isa.Reduce),
                                ("RESULT_FUNCTION", isa.ResultFunction),
                                ("OUT_FORMAT", isa.OutFormat), ("SCALE_RULE", isa.ScaleRule),
                                ("SCALE_MODE", isa.ScaleMode), ("ELEMENT_FORMAT", formats.ElementFormat)):
        assert modules.pop(enumeration.__name__) is enumeration
        yield from ((f"{prefix}_{member.name}", member.value) for member in enumeration)
    others = [name for name, item in modules.items() if isinstance(item, enum.EnumMeta)
              and any(isinstance(member.value, int) for member in item)]
    assert not others, f"not in the header: {others}"
    for unit, instruction in INSTRUCTIONS.items():
        for field in instruction.all_fields:
            name = f"{unit.name}_{field.name.upper()}"
            yield from ((f"{name}_OFFSET", field.offset), (f"{name}_WIDTH", field.width))
    for register in isa.REGISTERS.values():
        yield f"REG_{register.name}", register.offset
        for item in register.fields:
            name = f"REG_{register.name}_{item.name.upper()}"
            yield from ((f"{name}_BIT", item.bit), (f"{name}_MASK", (1 << item.width) - 1 << item.bit))


COMPILERS = pytest.mark.parametrize("compiler, options", [("gcc", ["-std=c99"]), ("g++", ["-x", "c++"])])


@COMPILERS
def test_the_header_has_every_constant(compiler, options, tmp_path):
    expected = dict(constants())
    lines = "".join(f'    printf("{name} %lu\\n", (unsigned long)KIWICHA_{name});\n' for name in expected)
    printed = compiled(f'#include <stdio.h>\n#include "kiwicha.h"\nint main(void)\n{{\n{lines}    return 0;\n}}\n',
                       compiler, options, tmp_path).decode()
    assert {name: int(value) for name, value in map(str.split, printed.splitlines())} == expected
    defined = set(re.findall(r"#define KIWICHA_(\w+) ", assembler.c_header()))
    assert defined == set(expected), "a constant that no table has"


@COMPILERS
def test_the_header_compiles_and_encodes(compiler, options, tmp_path):
    code = compiled("""
#include <stdio.h>
#include "kiwicha.h"
int main(void)
{
    uint8_t code[KIWICHA_INSTRUCTION_BYTES] = {0};
    KIWICHA_SET(code, VECTOR, OPCODE, KIWICHA_UNIT_VECTOR);
    KIWICHA_SET(code, VECTOR, ZERO_POINT, 5);
    KIWICHA_SET(code, VECTOR, ZERO_POINT, -3);
    KIWICHA_SET(code, VECTOR, SCALE_MODE, KIWICHA_SCALE_MODE_COLUMN);
    KIWICHA_SET(code, VECTOR, OUT_STRIDE3, -300);
    fwrite(code, 1, sizeof code, stdout);
    return KIWICHA_REG_STATUS != 0x24u || KIWICHA_REG_STATUS_ERROR_MASK != 4u;
}
""", compiler, options, tmp_path)
    assert code == encode(Unit.VECTOR, zero_point=-3, scale_mode=ScaleMode.COLUMN, out_stride3=-300)
