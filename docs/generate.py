"""Writes the pages that are made from the sources: ``make docs``."""

from pathlib import Path

from kiwicha_host.assembler import reference_markdown

__all__ = ["PAGES"]

PAGES = {"reference.md": reference_markdown}

if __name__ == "__main__":
    for name, write in PAGES.items():
        Path(__file__).with_name(name).write_text(write(), encoding="utf-8")
