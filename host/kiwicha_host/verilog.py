"""The chip as files for other tools: Verilog, what is called what in it, lint waivers and the C header."""

import dataclasses
import json
import os
from pathlib import Path

from kiwicha import ChipConfig
from kiwicha.isa import REGISTERS

from . import arguments, toolchain
from .assembler import c_header
from .extras import extra
from .files import check_folder, write_texts

__all__ = ["lint_waivers", "write_verilog"]

_WAIVERS = Path(__file__).with_name("kiwicha.vlt")


def lint_waivers(config: ChipConfig) -> str:
    """Verilator's control file for `config`'s Verilog: with it, and all warnings on, there is none."""
    return _WAIVERS.read_text(encoding="utf-8").replace("{name}", arguments.chip(config).name)


def write_verilog(config: ChipConfig, folder: str | os.PathLike[str]) -> list[Path]:
    """Write NAME.v, NAME.json, NAME.vlt and kiwicha.h of `config` to `folder`; equal configurations, equal bytes.

    Returns
    -------
    list of Path
        The files, all whole.
    """
    arguments.chip(config)
    folder = arguments.path("folder", folder)
    # All of the RTL is needed here and by no other command but the simulation.
    with extra("sim"):
        from kiwicha.export import port_table, to_verilog
        from kiwicha.top import Top

    check_folder(folder)
    top, name = Top(config), f"kiwicha_{config.name}"
    with toolchain.for_amaranth():
        text, names = to_verilog(top, name)
    parameters = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    registers = {register.name: {"offset": register.offset, "access": register.access,
                                 "fields": {field.name: [field.bit, field.width] for field in register.fields}}
                 for register in REGISTERS.values()}
    about = {"top": name, "config": parameters,
             "ports": {port: {"direction": direction, "width": width}
                       for port, (direction, width) in port_table(top).items()},
             "registers": registers, "names": names}
    files = {f"{config.name}.v": text, f"{config.name}.json": json.dumps(about, indent=1) + "\n",
             f"{config.name}.vlt": lint_waivers(config), "kiwicha.h": c_header()}
    write_texts(folder, files)
    return [folder / file for file in files]
