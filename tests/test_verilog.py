"""The exported files: whole, the same every time, and what they say is true."""

import json
import re

from kiwicha import ChipConfig
from kiwicha.isa import REGISTERS
from kiwicha_host.assembler import c_header
from kiwicha_host.verilog import write_verilog


def test_files(tmp_path):
    config = ChipConfig.preset("tiny")
    paths = write_verilog(config, tmp_path / "deep" / "folder")
    assert [path.name for path in paths] == ["tiny.v", "tiny.json", "kiwicha.h"]
    assert sorted(paths) == sorted((tmp_path / "deep" / "folder").iterdir())
    text, about = paths[0].read_text(), json.loads(paths[1].read_text())
    assert paths[2].read_text() == c_header()
    assert len(re.findall(rf"^module {about['top']}\(", text, re.MULTILINE)) == 1
    assert ChipConfig(**about["config"]) == config
    assert {name: entry["offset"] for name, entry in about["registers"].items()} == {
        name: register.offset for name, register in REGISTERS.items()}
    assert about["ports"]["m_axi_araddr"] == {"direction": "o", "width": config.address_width}
    module = text[text.index(f"module {about['top']}("):]
    for port, entry in about["ports"].items():
        direction = {"i": "input", "o": "output"}[entry["direction"]]
        assert re.search(rf"^\s+{direction} (\[{entry['width'] - 1}:0\] )?{port};", module, re.MULTILINE), port
    # Another time, over the first.
    first = [path.read_bytes() for path in paths]
    assert write_verilog(config, tmp_path / "deep" / "folder") == paths
    assert [path.read_bytes() for path in paths] == first
