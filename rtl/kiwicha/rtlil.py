"""Passes over RTLIL, Yosys' text form of a netlist, between Amaranth's back end and Verilog.

Amaranth writes each instance of a component as a module of its own. Here equal ones become one, and ports that it
had to number get names.
"""

import itertools
import re
from typing import NamedTuple

__all__ = ["merge_equal_modules"]

_MODULE = re.compile(r"((?:attribute [^\n]*\n)*)module (\S+)\n(.*?)^end\n", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"^  cell (\\\S+) (\S+)\n(.*?)^  end\n", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"((?:^  attribute [^\n]*\n)*^  wire width \d+ (?:in|out)put )(\d+)( [^\n]*?)(\S+)\n\n",
                   re.MULTILINE)
_NUMBERED_PORT = re.compile(r"\\port\$\d+\$\d+")
_NAME = re.compile(r"\\(?!port\$)\S+")
#: Of Yosys' own cells, not of the design.
_PIN = re.compile(r"\\[A-Z_\d]+")


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
    return f"\n{declared}{_PORT.sub('', body).lstrip()}"
