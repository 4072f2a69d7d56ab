"""``ml-energy audit``: what is wrong or doubtful in runs; its exit status."""

from collections.abc import Sequence
from functools import partial

import typer

from ml_energy_callbacks.cli.output import print_line, print_result
from ml_energy_callbacks.fleet.audit import audit, render_audit


def report_audit(paths: Sequence[str], *, json: bool) -> None:
    """Print what is wrong or doubtful.

    Raises:
        Exit: With status 2 where a file could not be read, else with 1 where something is wrong.
    """
    found = audit(*paths)
    warn = partial(print_line, stderr=True)
    for note in found.notes:
        warn(note)
    if found.runs or not found.unreadable:
        print_result(found, render_audit, json=json)
    for sentence in found.unreadable:
        warn(f"ml-energy: {sentence}")
    if found.unreadable:
        raise typer.Exit(2)
    if found.wrong:
        raise typer.Exit(1)
