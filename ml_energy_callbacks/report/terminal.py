"""The terminal that a program writes to: its width and its characters."""

import shutil
import sys

from ml_energy_callbacks.safe_text import encodable


def columns() -> int | None:
    """Return the width of the terminal in characters; None if there is none, or it is unknown."""
    return shutil.get_terminal_size((0, 0)).columns or None


def for_terminal(text: str) -> str:
    """Return a text in the characters that stdout has, so that writing it does not fail."""
    return encodable(text, getattr(sys.stdout, "encoding", None) or "utf-8")
