"""FuseSoC's generator `kiwicha`: writes a chip's files where it is called, and a core that lists them."""

import json
import sys
from pathlib import Path

import yaml

from kiwicha import ChipConfig
from kiwicha.array.multiplier import simulation_models
from kiwicha_host.verilog import write_smoke, write_verilog

#: What FuseSoC must know of a file, by its suffix; files of other suffixes are not for it.
ATTRIBUTES = {
    ".v": {"file_type": "verilogSource"},
    ".vh": {"file_type": "verilogSource", "is_include_file": True},
    ".vlt": {"file_type": "vlt"},
    # A simulator reads these in its working folder.
    ".hex": {"file_type": "user"},
}


def generate(root: Path, *, config: str = "tiny", initial_values: bool = True,
             simulation: bool = False) -> list[Path]:
    """Write the files of a chip to the current folder; a configuration's file is sought from `root` on."""
    chip = ChipConfig.load(root / config if config.endswith(".toml") else config)
    paths = write_verilog(chip, ".", initial_values=initial_values)
    if not simulation:
        return [path for path in paths if path.suffix == ".v"]
    return [*paths, *simulation_models(chip), *write_smoke(chip, ".")]


def core(name: str, paths: list[Path]) -> dict:
    """The core with these files."""
    files = [{str(path): ATTRIBUTES[path.suffix] | ({"copyto": path.name} if path.suffix == ".hex" else {})}
             for path in paths if path.suffix in ATTRIBUTES]
    return {"name": name, "filesets": {"rtl": {"files": files}}, "targets": {"default": {"filesets": ["rtl"]}}}


def main() -> None:
    request = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        paths = generate(Path(request["files_root"]), **request["parameters"])
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        sys.exit(f"kiwicha: {error}")
    # JSON is YAML, too.
    text = json.dumps(core(request["vlnv"], paths), indent=1)
    Path("kiwicha_generated.core").write_text(f"CAPI=2:\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
