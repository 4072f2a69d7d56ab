"""The command ``ml-energy``."""

import contextlib
import io
import sys

from ml_energy_callbacks.cli.commands import app
from ml_energy_callbacks.exceptions import EnergyError
from ml_energy_callbacks.report.terminal import PLAIN


def main() -> None:
    """Run the command; an error that a user can cause ends it with one sentence and exit status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=PLAIN)  # with LANG=C, the encoding may be ASCII
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except EnergyError as error:
        _fail(str(error))
    except OSError as error:  # of the output alone: where a command opens a file, it has a message of its own
        with contextlib.suppress(OSError):
            sys.stdout.close()  # otherwise the interpreter tries once more to write what is left
        _fail(f"The output cannot be written: {error.strerror or error}; direct it to a file on a disk with free space.")


def _fail(message: str) -> None:
    sys.stderr.write(f"ml-energy: {message}\n")
    sys.exit(2)
