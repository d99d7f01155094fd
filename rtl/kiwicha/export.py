"""Verilog from a component, the same bytes every time, with a map of what is called what."""

import contextlib
import gc
import os
import re
from pathlib import Path

from amaranth.back import rtlil, verilog
from amaranth.hdl import ClockDomain, Const, Fragment, Value, ValueCastable
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from .rtlil import (
    MEMORY,
    memories_to_instances,
    merge_equal_modules,
    without_initial_values,
    without_unread_fields,
)

__all__ = ["MEMORY_SOURCE", "port_table", "to_verilog"]

#: The module that memories are instances of.
MEMORY_SOURCE = Path(__file__).with_name("memory") / f"{MEMORY}.v"


def port_table(component):
    """The ports of *component* without clock and reset: ``{name: ("i" or "o", width)}``.

    A member ``i.payload`` is called ``i__payload``; the element 0 of an array ``lanes`` is called
    ``lanes__0``. A ``ready`` or ``valid`` that is constant is no port.
    """
    return {name: ("i" if flow is wiring.In else "o", len(value))
            for name, _, flow, value in _ports(component)}


def _ports(component):
    for path, member, value in component.signature.flatten(component):
        if isinstance(value, ValueCastable):
            value = value.as_value()
        # Zero-width ports do not exist in Verilog, and a constant has nothing to connect to.
        if isinstance(value, Value) and not isinstance(value, Const) and len(value) > 0:
            yield "__".join(map(str, path)), ".".join(map(str, path)), member.flow, value


@contextlib.contextmanager
def _no_collection():
    """No search for garbage: a chip is millions of objects that all stay, a third of the time for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_collection()
def to_verilog(component, name, ports=None, *, initial_values=True, memory_module=True):
    """Convert *component* to Verilog.

    Parameters
    ----------
    component : wiring.Component or Elaboratable
        What to convert. An Elaboratable without a signature needs *ports*.
    name : str
        The name of the top module. It must differ from every signal in it.
    ports : dict, optional
        ``{port name: (Value, PortDirection)}`` in place of the component's own.
    initial_values : bool
        Give registers the values that they have after a reset at the start, too. Memories have none.
    memory_module : bool
        Put the module of the memories, :data:`MEMORY_SOURCE`, at the end, if there are memories.

    Returns
    -------
    verilog_text : str
        The top has the ports ``clk`` and ``rst`` (synchronous, active high), used or not, unless
        *component* defines its own domain ``sync``. Instances of equal components are instances of one module,
        which has the first one's path for its name.
    name_map : dict of str to str
        For each signal, its dotted path in Amaranth (of a port, its path in the signature) and its
        dotted path in the Verilog, by the instances' names, both without the top's name.
    """
    port_paths = {}
    if ports is None:
        if not isinstance(getattr(component, "signature", None), wiring.Signature):
            raise TypeError(f"ports are required to export {component!r}, which has no signature")
        ports = {}
        for verilog_name, path, flow, value in _ports(component):
            is_input = flow is wiring.In
            ports[verilog_name] = (value, PortDirection.Input if is_input else PortDirection.Output)
            port_paths[path] = verilog_name

    fragment = Fragment.get(component, None)
    if "sync" not in fragment.domains:
        # Adding the domain here rather than on demand gives every top, a combinational one too,
        # the same two ports.
        sync = ClockDomain("sync")
        fragment.add_domains(sync)
        ports = {"clk": (sync.clk, PortDirection.Input), "rst": (sync.rst, PortDirection.Input), **ports}

    netlist, signals = rtlil.convert_fragment(fragment, ports, name, emit_src=False)
    netlist = without_unread_fields(memories_to_instances(merge_equal_modules(netlist)))
    text = _verilog(netlist) if initial_values else _without_start(_verilog(without_initial_values(netlist)))
    if memory_module and f"cell \\{MEMORY} " in netlist:
        text += "\n" + MEMORY_SOURCE.read_text(encoding="utf-8")
    name_map = {}
    for signal, path in signals.items():
        if len(signal) == 0:
            continue
        where = ".".join(path[1:])
        key = ".".join([*path[1:-1], signal.name])
        # Two signals of one name in one module: the Verilog name tells them apart.
        name_map[where if key in name_map else key] = where
    return text, dict(sorted((name_map | port_paths).items()))


def _verilog(netlist):
    """RTLIL as Verilog."""
    # A Yosys that happens to be installed would write other text than the pinned one.
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    # Amaranth's own steps behind verilog.convert_fragment, which leaves no room for a pass before them.
    text = verilog._convert_rtlil_text(netlist, strip_internal_attrs=True)
    # Yosys declares a signal of no bits as one of two, which nothing drives or reads.
    text = re.sub(r"^ *wire \[-1:0\] .*\n", "", text, flags=re.MULTILINE)
    # What wakes `always @*` at the start is numbered over all of the design, and has one name in each module.
    return re.sub(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ", r"\\$start ", text)


def _without_start(text):
    """Verilog whose `always @*` wake with the reset, not with a register that has an initial value."""
    text = re.sub(r"^ *reg \\\$start +=.*\n", "", text, flags=re.MULTILINE)
    modules = re.split(r"^(?=module )", text, flags=re.MULTILINE)
    wake = r"^ *if \(\\\$start \) begin end\n"
    return "".join(re.sub(wake, "    if (rst) begin end\n" if "  input rst;" in module else "", module,
                          flags=re.MULTILINE) for module in modules)
