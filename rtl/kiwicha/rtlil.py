"""Passes over RTLIL, Yosys' text form of a netlist, between Amaranth's back end and Verilog.

Amaranth writes each instance of a component as a module of its own: here equal ones become one. Its memories are
arrays: here each becomes an instance of the module ``kiwicha_memory``. Each field of a signal with a layout is a
wire of its own: those that nothing reads are left out. And initial values can be left out.
"""

import collections
import itertools
import re
from typing import NamedTuple

__all__ = ["MEMORY", "memories_to_instances", "merge_equal_modules", "without_initial_values",
           "without_unread_fields"]

#: The module that each memory is an instance of; ``memory/kiwicha_memory.v`` says what it does.
MEMORY = "kiwicha_memory"

_MODULE = re.compile(r"((?:attribute [^\n]*\n)*)module (\S+)\n(.*?)^end\n", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"^  cell (\\\S+) (\S+)\n(.*?)^  end\n", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"((?:^  attribute [^\n]*\n)*^  wire width \d+ (?:in|out)put )(\d+)( [^\n]*?)(\S+)\n\n",
                   re.MULTILINE)
_NUMBERED_PORT = re.compile(r"\\port\$\d+\$\d+")
_NAME = re.compile(r"\\(?!port\$)\S+")
#: Of Yosys' own cells, not of the design.
_PIN = re.compile(r"\\[A-Z_\d]+")
_WIRE = re.compile(r"(?:^  attribute [^\n]*\n)*^  wire width \d+ (\\\S+)\n\n?", re.MULTILINE)
_DECLARED = re.compile(r"^  wire width \d+ (?:\w+ \d+ +)?(\\\S+)$", re.MULTILINE)
_CONNECTED = re.compile(r"^connect (\\\S+) [^\n]*\n", re.MULTILINE)
_FIELD = re.compile(r"(?:\.\w+|\[\d+\])$")
_MEMORY = re.compile(r"(?:^  attribute [^\n]*\n)*^  memory width (\d+) size (\d+) (\S+)\n\n", re.MULTILINE)
_MEMORY_CELL = re.compile(r"^  cell \$mem(rd|wr|init)_v2 [^\n]*\n(.*?)^  end\n\n", re.MULTILINE | re.DOTALL)
_BIT = re.compile(r"[\\$]\S+(?: \[\d+\])?")


class _Merged(NamedTuple):
    """The module that stands for another, and what it calls that one's ports."""

    module: str
    ports: dict[str, str]


def merge_equal_modules(text: str) -> str:
    """Keep one of all modules that are equal but for their names and the order of their ports.

    Children are compared before their parents, so that parents of equal children can be equal. The module that
    stays has the name of the first in the text. Instances and signals keep their names; ports that Amaranth
    numbered over all of the design (``port$4162$0``) are called after what they are in their module
    (``port_payload``).

    Parameters
    ----------
    text : str
        RTLIL as Amaranth writes it, the top first. The top's ports keep their order.
    """
    found = {name: (attributes, body) for attributes, name, body in _MODULE.findall(text)}
    top = next(iter(found))
    merged: dict[str, _Merged] = {}
    kept: dict[str, str] = {}

    def visit(name: str) -> None:
        body = found[name][1]
        for child, _, _ in _CELL.findall(body):
            if child in found and child not in merged:
                visit(child)
        body = _CELL.sub(lambda cell: _instance(cell, merged.get(cell[1])), body)
        ports = _names_of_numbered_ports(body)
        body = _NUMBERED_PORT.sub(lambda port: ports[port[0]], body)
        if name != top:
            body = _with_sorted_ports(body)
        merged[name] = _Merged(kept.setdefault(body, name), ports)

    visit(top)
    bodies = {name: body for body, name in kept.items()}
    return "\n".join(f"{attributes}module {name}\n{bodies[name]}end\n"
                     for name, (attributes, _) in found.items() if name in bodies)


def _instance(cell: re.Match, of: _Merged | None) -> str:
    """An instance of the module that stands for the cell's; a primitive as it is."""
    if of is None:
        return cell[0]
    lines = []
    for line in cell[3].splitlines(keepends=True):
        port = line.split(maxsplit=2)[1]
        lines.append(line.replace(port, of.ports.get(port, port), 1))
    return f"  cell {of.module} {cell[2]}\n{''.join(sorted(lines))}  end\n"


def _names_of_numbered_ports(body: str) -> dict[str, str]:
    """A name for each numbered port of a module: of the first signal that it is connected to, or is used with."""
    beside: dict[str, str] = {}
    lines = [line for line in body.splitlines() if "\\port$" in line]
    # Connections of whole signals stand at the margin; what is in a cell or a process says less of the port.
    for line in sorted(lines, key=lambda line: line.startswith(" ")):
        signals = [name for name in _NAME.findall(line) if not _PIN.fullmatch(name)]
        for port in _NUMBERED_PORT.findall(line):
            beside[port] = beside.get(port) or (signals[0] if signals else "")
    taken = set(_NAME.findall(body))
    names = {}
    for port, name in beside.items():
        stem = "\\port" + re.sub(r"\W+", "_", name)
        choices = (f"{stem}_{count}" if count > 1 else stem for count in itertools.count(1))
        names[port] = next(choice for choice in choices if choice not in taken)
        taken.add(names[port])
    return names


def _with_sorted_ports(body: str) -> str:
    """A module whose ports are declared first and by name."""
    ports = sorted(_PORT.findall(body), key=lambda port: port[3])
    declared = "".join(f"{start}{number}{between}{name}\n\n"
                       for number, (start, _, between, name) in enumerate(ports))
    rest = _PORT.sub("", body).lstrip("\n")
    return f"\n{declared}{rest}"


def without_unread_fields(text: str) -> str:
    """Leave out the wires of fields, such as ``payload.data`` and ``values[0]``, that are driven but never read.

    The signal that they are a part of stays.
    """
    return _MODULE.sub(lambda module: f"{module[1]}module {module[2]}\n{_with_read_fields(module[3])}end\n", text)


def _with_read_fields(body: str) -> str:
    wires, declared = set(_WIRE.findall(body)), set(_DECLARED.findall(body))
    uses = collections.Counter(re.findall(r"\\\S+", body))
    # One use is the declaration.
    uses.subtract(_CONNECTED.findall(body))
    unread = {name for name in wires
              if uses[name] == 1 and _FIELD.search(name) and _FIELD.sub("", name) in declared}
    for pattern in (_WIRE, _CONNECTED):
        body = pattern.sub(lambda wire: "" if wire[1] in unread else wire[0], body)
    return body


def memories_to_instances(text: str) -> str:
    """Replace each memory, and its ports and initial words, by an instance of :data:`MEMORY`.

    Raises
    ------
    ValueError
        A memory has initial words other than 0, or ports unlike those of the module.
    """
    return _MODULE.sub(lambda module: f"{module[1]}module {module[2]}\n{_with_instances(module[3])}end\n", text)


def _with_instances(body: str) -> str:
    sizes = {name: (int(width), int(depth)) for width, depth, name in _MEMORY.findall(body)}
    ports: dict[str, dict[str, list[dict[str, str]]]] = {name: {} for name in sizes}
    for kind, pins in _MEMORY_CELL.findall(body):
        # Parameters too; a name in a string has its backslash twice.
        port = dict(re.findall(r"^    \w+ \\(\w+) (.*)$", pins, re.MULTILINE))
        ports[port["MEMID"].strip('"').replace("\\\\", "\\")].setdefault(kind, []).append(port)
    instances = [_instance_of_memory(name, *size, ports[name]) for name, size in sizes.items()]
    return _MEMORY_CELL.sub("", _MEMORY.sub("", body)) + "".join(instances)


def _instance_of_memory(name: str, width: int, depth: int, ports: dict[str, list[dict[str, str]]]) -> str:
    reads, (write,) = ports["rd"], ports["wr"]
    clocked = {read["CLK_ENABLE"] for read in reads}
    enables = set(_BIT.findall(write["EN"])) or {"1'1"}
    if len(clocked) != 1 or len(enables) != 1 or ("1" in clocked and len(reads) != 1) or any(
            "1" in read["TRANSPARENCY_MASK"].partition("'")[2] for read in reads):
        raise ValueError(f"memory {name} has ports that {MEMORY} has not")
    if any("1" in init["DATA"].partition("'")[2] for init in ports.get("init", [])):
        raise ValueError(f"memory {name} has initial words, which {MEMORY} has not")
    address = max(1, (depth - 1).bit_length())

    def joined(pin: str, none: str = "") -> str:
        return f"{{ {' '.join(none if read[pin] == '{  }' else read[pin] for read in reversed(reads))} }}"
    pins = {"clk": write["CLK"], "write_enable": enables.pop(), "write_data": write["DATA"],
            "write_address": write["ADDR"] if write["ADDR"] != "{  }" else f"{address}'0",
            "read_enable": joined("EN"), "read_address": joined("ADDR", f"{address}'0"),
            "read_data": joined("DATA")}
    parameters = {"WIDTH": width, "DEPTH": depth, "LATENCY": clocked.pop(), "READS": len(reads)}
    return "".join([f"  cell \\{MEMORY} {name}\n",
                    *(f"    parameter \\{key} {value}\n" for key, value in parameters.items()),
                    *(f"    connect \\{pin} {value}\n" for pin, value in pins.items()), "  end\n\n"])


def without_initial_values(text: str) -> str:
    """Registers whose value at the start is unknown, up to their reset."""
    return re.sub(r"^ *attribute \\init .*\n", "", text, flags=re.MULTILINE)
