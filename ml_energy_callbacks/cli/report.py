"""``ml-energy report``: the energy of one run, or of many runs in groups."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from ml_energy_callbacks.cli.output import console_for, print_record, print_result
from ml_energy_callbacks.fleet import (
    Fleet,
    check_by,
    check_output,
    find_files,
    group_rows,
    is_run,
    read_runs,
    render_fleet,
    write_csv,
    write_parquet,
)
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.record.schema import FILE_NAME
from ml_energy_callbacks.record.storage import local_path


def report_runs(
    paths: Sequence[str],
    *,
    by: Sequence[str] | None,
    csv: Path | None,
    parquet: Path | None,
    json: bool,
    verbose: bool,
) -> None:
    """Print a single run as it is, unless grouping or a file is requested; else the groups of all runs."""
    single = len(paths) == 1 and not (by or csv or parquet)
    if single and is_run(paths[0]):
        file = local_path(paths[0])
        print_record(load_record(file), file / FILE_NAME if file.is_dir() else file, json=json, verbose=verbose)
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
            print_record(files[0].load(), files[0].name, json=json, verbose=verbose)
            return
        bar.update(task, description="Reading run records", total=len(files))
        runs = read_runs(files, lambda done: bar.update(task, completed=done))
    fleet = Fleet(
        groups=group_rows(runs.rows, words),
        total=group_rows(runs.rows, [])[0],
        repeated=runs.repeated,
        other_versions=runs.other_versions,
        broken=runs.broken,
        unlisted=unlisted,
    )
    if csv is not None:
        write_csv(runs.rows, csv)
    if parquet is not None:
        write_parquet(runs.rows, parquet)
    print_result(fleet, render_fleet, json=json)
