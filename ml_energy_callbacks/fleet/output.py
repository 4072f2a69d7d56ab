"""Checks of the output files that a user sets."""

import os
from pathlib import Path

from ml_energy_callbacks.exceptions import ConfigurationError


def check_output(path: Path) -> None:
    """Check that a file can be written, before the work starts.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        reason = _reason_against(path)
    except OSError as error:  # such as a parent folder without permission to enter it
        reason = error.strerror
    if reason is not None:
        msg = f"The runs cannot be written to {path}: {reason}; use a file in a writable folder."
        raise ConfigurationError(msg)


def _reason_against(path: Path) -> str | None:
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "permission denied"
    return None
