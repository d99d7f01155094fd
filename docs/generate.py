"""Writes the pages that are made from the sources: ``make docs``."""

import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

from kiwicha_host.assembler import reference_markdown

__all__ = ["NOTEBOOKS", "PAGES", "notebook"]

DOCS = Path(__file__).parent
NOTEBOOKS = ("examples/first_steps.ipynb", "examples/language_model.ipynb")


def notebook(name: str) -> str:
    """One of :data:`NOTEBOOKS`, with what its cells print when they run one after the other."""
    page = json.loads((DOCS / name).read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    number = 0
    for cell in page["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec("".join(cell["source"]), names)
            text = printed.getvalue().splitlines(keepends=True)
            cell["execution_count"] = number
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text}] if text else []
    return json.dumps(page, indent=1) + "\n"


#: Those that must be up to date to the letter.
PAGES = {"reference.md": reference_markdown}

if __name__ == "__main__":
    for name, write in {**PAGES, **{name: partial(notebook, name) for name in NOTEBOOKS}}.items():
        (DOCS / name).write_text(write(), encoding="utf-8")
