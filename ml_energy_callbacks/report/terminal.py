"""The terminal or notebook that a program writes to: its width and its characters."""

import codecs
import shutil
import sys

from ml_energy_callbacks.safe_text import plain_characters

PLAIN = "ml_energy_callbacks.plain"
"""Name of the handler of characters that an output lacks, for :func:`open` and its like."""

codecs.register_error(PLAIN, plain_characters)


def columns() -> int | None:
    """Return the width of the terminal in characters; None if there is none, or it is unknown."""
    return shutil.get_terminal_size((0, 0)).columns or None


def in_ipython() -> bool:
    """Return whether the program runs in IPython, as a notebook does, which shows stdout where the cell is."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def for_terminal(text: str) -> str:
    """Return a text in the characters that stdout has, so that writing it does not fail."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, PLAIN).decode(encoding)
