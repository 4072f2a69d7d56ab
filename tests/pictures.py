"""Draws the pictures of the documentation by the runs of a log directory of TensorBoard.

``python tests/pictures.py LOGS docs`` does it.
"""

import sys
from pathlib import Path
from typing import Any

from board import shown
from browser import chromium, opened
from command import ml_energy

WIDTH = 1000
"""Of the window, in pixels."""


def draw(browser: Any, logs: Path, folder: Path) -> None:
    """Write ``tab.png``, the tab Energy with all runs, and ``page.png``, the top of the page of the first of them.

    Args:
        browser: What ``browser.chromium`` yields.
        logs: The log directory, in which each run has its record.
        folder: Where the pictures are written.
    """
    runs = sorted(path.parent for path in logs.rglob("energy.json"))
    with shown(browser, logs, runs=len(runs), width=WIDTH) as seen:
        seen.page.screenshot(path=folder / "tab.png", clip={"x": 0, "y": 0, "width": WIDTH, "height": 1120}, full_page=True)
    page = folder / "page.html"
    done = ml_energy("report", "--html", page, runs[0])
    assert done.returncode == 0, done.stderr
    with opened(browser, page, width=WIDTH) as seen:
        seen.page.screenshot(path=folder / "page.png", clip={"x": 0, "y": 0, "width": WIDTH, "height": 1000}, full_page=True)
    page.unlink()


if __name__ == "__main__":
    with chromium() as found:
        draw(found, Path(sys.argv[1]), Path(sys.argv[2]).resolve())
