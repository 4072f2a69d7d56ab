"""Files that a user names for the rows."""

import os
from pathlib import Path

from ml_energy_callbacks.exceptions import ConfigurationError


def check_output(path: Path) -> None:
    """Check, before work starts, that a file can be written.

    Raises:
        ConfigurationError: It cannot.
    """
    if path.is_dir():
        reason = "it is a directory"
    elif not path.parent.is_dir():
        reason = f"there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "permission denied"
    else:
        return
    msg = f"The runs cannot be written to {path}: {reason}; name a file in a folder that can be written."
    raise ConfigurationError(msg)
