"""The chip as files for other tools: Verilog, what is called what in it, lint waivers and the C header."""

import dataclasses
import json
from pathlib import Path

from kiwicha import ChipConfig
from kiwicha.isa import REGISTERS

from . import toolchain
from .assembler import c_header
from .files import make_folder, replacing

__all__ = ["lint_waivers", "write_verilog"]

_WAIVERS = Path(__file__).with_name("kiwicha.vlt")


def lint_waivers(config: ChipConfig) -> str:
    """Verilator's control file for `config`'s Verilog: with it, and all warnings on, there is none."""
    return _WAIVERS.read_text().replace("{name}", config.name)


def write_verilog(config: ChipConfig, folder: Path) -> list[Path]:
    """Write NAME.v, NAME.json, NAME.vlt and kiwicha.h of `config` to `folder`; equal configurations, equal bytes.

    Returns
    -------
    list of Path
        The files, all whole.
    """
    # All of the RTL is needed here and by no other command but the simulation.
    from kiwicha.export import port_table, to_verilog
    from kiwicha.top import Top

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
    make_folder(folder)
    for file, content in files.items():
        with replacing(folder / file) as work:
            work.write_text(content)
    return [folder / file for file in files]
