"""``ml-energy report``: the energy of one run, or of many runs in groups."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from ml_energy_callbacks.cli.output import console_for, print_result
from ml_energy_callbacks.fleet import Fleet, RunTable, check_by, check_output, find_files, is_run, read_runs, render_fleet
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.report import render


def report_runs(paths: Sequence[str], *, by: Sequence[str] | None, csv: Path | None, parquet: Path | None, json: bool) -> None:
    """Print a single run as it is, unless grouping or a file is requested; else the groups of all runs."""
    single = len(paths) == 1 and not (by or csv or parquet)
    if single and is_run(paths[0]):
        print_result(load_record(paths[0]), render, json=json)
        return
    words = check_by(by or ["month"])
    for output in (csv, parquet):
        if output is not None:
            check_output(output)
    console = console_for(stderr=True)
    unlisted: list[str] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Looking for run records", total=None)
        files = find_files(paths, unlisted.append)
        if single and len(files) == 1:
            print_result(files[0].load(), render, json=json)
            return
        table = RunTable()
        bar.update(task, description="Reading run records", total=len(files))
        runs = read_runs(files, lambda done: bar.update(task, completed=done))
    table.add_rows(runs.rows)
    fleet = Fleet(
        groups=table.group_rows(words),
        total=table.group_rows([])[0],
        included=runs.included,
        repeated=runs.repeated,
        other_versions=runs.other_versions,
        broken=runs.broken,
        unlisted=unlisted,
    )
    if csv is not None:
        table.write_csv(csv)
    if parquet is not None:
        table.write_parquet(parquet)
    print_result(fleet, render_fleet, json=json)
