"""``ml-energy import``: run records from the logs of other tools."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ml_energy_callbacks.cli.output import console_for, print_json, print_line
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.fleet.imports import import_file, write_record
from ml_energy_callbacks.fleet.imports.table import render_imports
from ml_energy_callbacks.record.load import dump_json

if TYPE_CHECKING:
    from ml_energy_callbacks.record.schema import RunRecord


def import_logs(files: Sequence[Path], *, output: Path, json: bool) -> None:
    """Write the records of all runs, and print what was imported; a file that cannot be read stops none of the others.

    Raises:
        Exit: With status 2, after the others, where a file could not be read.
    """
    warn = partial(print_line, stderr=True)
    records: dict[Path, RunRecord] = {}  # a run's two logs, or a file given twice, are one run
    failed = False
    for path in files:
        try:
            found = import_file(path)
        except RecordError as error:
            warn(f"ml-energy: {error}")
            failed = True
            continue
        records |= {write_record(record, output): record for record in found.records}
        for note in found.notes:
            warn(f"{path}: {note}")
    if json:
        print_json(dump_json([*records.values()]))
    elif records:
        console_for().print(render_imports([*records.values()]))
    if failed:
        raise typer.Exit(2)
