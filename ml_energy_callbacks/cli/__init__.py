"""The command ``ml-energy``."""

import sys

from ml_energy_callbacks.cli.commands import app
from ml_energy_callbacks.exceptions import EnergyError


def main() -> None:
    """Run the command; an error that a user can cause ends it with one sentence and exit status 2."""
    try:
        app()
    except EnergyError as error:
        sys.stderr.write(f"ml-energy: {error}\n")
        sys.exit(2)
