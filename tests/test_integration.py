"""The chip in other people's flows, as they are on PyPI: FuseSoC, and LiteX around what FuseSoC wrote."""

import os
import re
import shutil
from pathlib import Path

import pytest

from kiwicha_host import toolchain

ROOT = Path(__file__).parents[1]
INTEGRATION = ROOT / "rtl" / "integration"


def fusesoc(folder, *arguments, ok=(0,)):
    """Call FuseSoC in `folder`, which holds all that it writes, with our cores and those in it."""
    homes = {f"XDG_{name}_HOME": str(folder / "home") for name in ("CACHE", "CONFIG", "DATA")}
    path = os.pathsep.join(str(ROOT / room) for room in ("rtl", "host", ""))
    return toolchain.run(["fusesoc", "--cores-root", INTEGRATION, "--cores-root", folder, "run", *arguments],
                         cwd=folder, timeout=300, env={"PYTHONPATH": path, **homes}, ok=ok)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What FuseSoC said of the core's best check that can run here, and the exported files' folder."""
    folder = tmp_path_factory.mktemp("fusesoc")
    target = "sim" if shutil.which("iverilog") else "lint"
    said = fusesoc(folder, "--target", target, "kiwicha")
    description, = folder.glob("build/kiwicha_*/*/generator_cache/*/tiny.json")
    return target, said, description.parent


def test_fusesoc(built):
    target, said, folder = built
    assert "%Warning" not in said
    assert ("PASS" in said.splitlines()) == (target == "sim")
    assert not (folder / "tiny.v").read_text(encoding="utf-8").count("initial")


def test_models_are_for_simulation_only(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(INTEGRATION)
    import fusesoc_generator
    monkeypatch.setattr(fusesoc_generator, "write_verilog", lambda config, folder, initial_values: [
        Path(f"{config.name}{suffix}") for suffix in (".v", ".json", ".vlt")])
    monkeypatch.setattr(fusesoc_generator, "write_smoke", lambda config, folder: [Path("a.hex"), Path("smoke.vh")])
    (tmp_path / "mine.toml").write_text('multiplier = "ecp5"\n', encoding="utf-8")
    assert fusesoc_generator.generate(tmp_path, config="mine.toml") == [Path("mine.v")]
    paths = fusesoc_generator.generate(tmp_path, config="mine.toml", simulation=True)
    core = fusesoc_generator.core("::mine", paths)
    listed = {Path(name).name: about["file_type"] for file in core["filesets"]["rtl"]["files"]
              for name, about in file.items()}
    assert listed == {"mine.v": "verilogSource", "mine.vlt": "vlt", "MULT18X18D.v": "verilogSource",
                      "a.hex": "user", "smoke.vh": "verilogSource"}


CORE = """CAPI=2:
name: ::system:1.0
filesets:
  rtl: {{depend: [kiwicha_generator]}}
generate:
  chip: {{generator: kiwicha, parameters: {{{parameters}}}}}
targets:
  default: {{filesets: [rtl], generate: [chip], toplevel: kiwicha_mine}}
"""


@pytest.mark.parametrize("parameters, message", [
    ("config: mine.toml", "kiwicha: .*/mine.toml: columns must be from 2 to 32, not 99"),
    ("initial_value: false", "kiwicha: .*initial_value"),
])
def test_fusesoc_shows_what_is_wrong(tmp_path, parameters, message):
    (tmp_path / "mine.toml").write_text("columns = 99", encoding="utf-8")
    (tmp_path / "system.core").write_text(CORE.format(parameters=parameters), encoding="utf-8")
    said = fusesoc(tmp_path, "--setup", "--tool", "verilator", "system", ok=(1,))
    assert re.search(f"^{message}", said, re.MULTILINE) and "Traceback" not in said


def litex_system(folder, description):
    """A LiteX SoC on its 32-bit bus, without a processor, as Verilog in `folder`; returns all its sources."""
    from kiwicha_litex import Kiwicha
    from litex.build.generic_platform import Pins
    from litex.build.sim import SimPlatform
    from litex.soc.integration.soc import SoCRegion
    from litex.soc.integration.soc_core import SoCMini
    from migen.genlib.io import CRG

    platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1))])
    soc = SoCMini(platform, clk_freq=int(1e6))
    soc.crg = CRG(platform.request("sys_clk"))
    soc.add_ram("main_ram", 0x4000_0000, 0x1_0000)
    soc.kiwicha = Kiwicha(platform, description)
    soc.bus.add_master("kiwicha", soc.kiwicha.bus)
    soc.bus.add_slave("kiwicha", soc.kiwicha.control,
                      SoCRegion(0x3000_0000, Kiwicha.CONTROL_BYTES, cached=False))
    soc.finalize()
    platform.get_verilog(soc).write(str(folder / "system.v"))
    return ["system.v", *(source for source, *_ in platform.sources)]


def test_litex(built, tmp_path, monkeypatch):
    *_, exported = built
    monkeypatch.syspath_prepend(INTEGRATION)
    monkeypatch.chdir(tmp_path)
    sources = litex_system(tmp_path, exported / "tiny.json")
    assert sources == ["system.v", str(exported / "tiny.v"), str(exported / "kiwicha_memory.v")]
    # LiteX's own code is full of operands of other widths; ports are what concerns the module.
    said = toolchain.run(["verilator", "--lint-only", "-Wno-fatal", "--top-module", "top", exported / "tiny.vlt",
                          *sources], cwd=tmp_path, timeout=300)
    assert not re.search("PINMISSING|port connection|tiny\\.v", said)
