"""The terminal or notebook that a program writes to: its width and its characters."""

import shutil
import sys

from ml_energy_callbacks.safe_text import encodable


def columns() -> int | None:
    """Return the width of the terminal in characters; None if there is none, or it is unknown."""
    return shutil.get_terminal_size((0, 0)).columns or None


def in_ipython() -> bool:
    """Return whether the program runs in IPython, as a notebook does, which shows stdout where the cell is."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def for_terminal(text: str) -> str:
    """Return a text in the characters that stdout has, so that writing it does not fail."""
    return encodable(text, getattr(sys.stdout, "encoding", None) or "utf-8")
