"""The public import paths and names, as docs/architecture.md lists them."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")


def public() -> dict[str, list[str]]:
    """Return the names in each public import path's row, by the path."""
    section = PAGE.partition("## What is public")[2].partition("\n## ")[0]
    return {
        path: re.findall(r"`(\w+)`", names) for path, names in re.findall(r"^\| `([\w.]+)` \| (.*) \|$", section, re.MULTILINE)
    }
