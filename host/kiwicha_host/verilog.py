"""The chip as files for other tools: Verilog, what is called what in it, lint waivers and the C header."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import ID_VALUE, REGISTERS

from . import arguments, toolchain
from .assembler import c_header
from .extras import extra
from .files import check_folder, write_texts

__all__ = ["lint_waivers", "write_smoke", "write_verilog"]

_WAIVERS = Path(__file__).with_name("kiwicha.vlt")


def lint_waivers(config: ChipConfig) -> str:
    """Verilator's control file for `config`'s Verilog: with it, and all warnings on, there is none."""
    return _WAIVERS.read_text(encoding="utf-8").replace("{name}", arguments.chip(config).name)


def write_verilog(config: ChipConfig, folder: str | os.PathLike[str], *,
                  initial_values: bool = True) -> list[Path]:
    """Write the chip of `config` to `folder`; equal configurations, equal bytes.

    Parameters
    ----------
    config : ChipConfig
    folder : str or path
        For NAME.v, ``kiwicha_memory.v`` with the module that its memories are instances of, NAME.json with ports,
        registers and names, NAME.vlt with lint waivers, and ``kiwicha.h``. Files of these names are replaced.
    initial_values : bool
        Registers have their reset values at the start, too, as on an FPGA; else only a reset defines them.

    Returns
    -------
    list of Path
        The files, all whole.
    """
    arguments.chip(config)
    folder = arguments.path("folder", folder)
    # All of the RTL is needed here and by no other command but the simulation.
    with extra("sim"):
        from kiwicha.export import MEMORY_SOURCE, port_table, to_verilog
        from kiwicha.top import Top

    check_folder(folder)
    top, name = Top(config), f"kiwicha_{config.name}"
    with toolchain.for_amaranth():
        text, names = to_verilog(top, name, initial_values=initial_values, memory_module=False)
    parameters = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    registers = {register.name: {"offset": register.offset, "access": register.access,
                                 "fields": {field.name: [field.bit, field.width] for field in register.fields}}
                 for register in REGISTERS.values()}
    about = {"top": name, "config": parameters,
             "ports": {port: {"direction": direction, "width": width}
                       for port, (direction, width) in port_table(top).items()},
             "registers": registers, "names": names}
    files = {f"{config.name}.v": text, MEMORY_SOURCE.name: MEMORY_SOURCE.read_text(encoding="utf-8"),
             f"{config.name}.json": json.dumps(about, indent=1) + "\n",
             f"{config.name}.vlt": lint_waivers(config), "kiwicha.h": c_header()}
    return _write(folder, files)


def write_smoke(config: ChipConfig, folder: str | os.PathLike[str], m: int = 13, n: int = 9,
                k: int = 37) -> list[Path]:
    """Write what ``rtl/integration/smoke_tb.v`` reads to `folder`: a GEMM, and memory before and after it.

    The random operands are the same every time; what is expected is the golden model's.

    Returns
    -------
    list of Path
        smoke.vh, smoke_writes.hex, smoke_before.hex and smoke_after.hex.
    """
    from .compiler import GemmSpec, compile_gemm
    from .devices.registers import RegisterFile
    from .golden import Machine

    arguments.chip(config)
    folder = arguments.path("folder", folder)
    check_folder(folder)
    random = np.random.default_rng(1)
    a, b = (random.integers(-128, 128, shape, np.int8) for shape in ((m, k), (k, n)))
    job = compile_gemm(config, GemmSpec(m=m, n=n, k=k)).job(a, b)
    writes: list[str] = []
    RegisterFile(lambda address: 0, lambda address, value: writes.append(f"{address:03x}{value:08x}")).start(job)
    before = _words(config, job.memory)
    Machine(config).run(job)
    return _write(folder, {
        "smoke.vh": "\n".join([f"`define KIWICHA_TOP kiwicha_{config.name}",
                               f"`define KIWICHA_ID 32'h{ID_VALUE:08x}",
                               f"`define KIWICHA_BUS_BYTES {config.bus_bytes}",
                               f"`define KIWICHA_MEMORY_WORDS {len(before)}",
                               f"`define KIWICHA_WRITES {len(writes)}", ""]),
        "smoke_writes.hex": "\n".join([*writes, ""]), "smoke_before.hex": "\n".join([*before, ""]),
        "smoke_after.hex": "\n".join([*_words(config, job.memory), ""])})


def _words(config: ChipConfig, memory: np.ndarray) -> list[str]:
    """Bus words in hexadecimal, the first byte on the right."""
    return [bytes(word[::-1]).hex() for word in memory.reshape(-1, config.bus_bytes)]


def _write(folder: Path, files: dict[str, str]) -> list[Path]:
    write_texts(folder, files)
    return [folder / file for file in files]
