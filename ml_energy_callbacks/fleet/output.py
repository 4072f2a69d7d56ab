"""Files that a user names for the rows."""

import os
from pathlib import Path

from ml_energy_callbacks.exceptions import ConfigurationError


def check_output(path: Path) -> None:
    """Check, before work starts, that a file can be written.

    Raises:
        ConfigurationError: It cannot.
    """
    try:
        reason = _obstacle(path)
    except OSError as error:  # such as a folder on the way that may not be entered
        reason = error.strerror
    if reason is not None:
        msg = f"The runs cannot be written to {path}: {reason}; name a file in a folder that can be written."
        raise ConfigurationError(msg)


def _obstacle(path: Path) -> str | None:
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "permission denied"
    return None
