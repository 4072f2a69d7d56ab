"""``ml-energy report``: the energy of one run, or of many runs in groups; or either as a page."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from ml_energy_callbacks.cli.output import console_for, print_line, print_record, print_result
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.fleet import (
    Fleet,
    check_by,
    check_output,
    file_notes,
    find_files,
    group_rows,
    is_run,
    read_each,
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


def write_page(paths: Sequence[str], output: Path, *, others: bool) -> None:
    """Write the page of a run, or of several, and print its path.

    Args:
        paths: Where the records are, as for :func:`report_runs`.
        output: The HTML file.
        others: Whether options were given that the page does not have.

    Raises:
        ConfigurationError: Such options were given, or the file cannot be written.
    """
    if others:
        msg = "--html writes a page of its own; leave out --by, --csv, --parquet, --json and --verbose."
        raise ConfigurationError(msg)
    check_output(output)
    from ml_energy_callbacks.report.page import run_page, runs_page  # noqa: PLC0415 - the tables do not need it

    unlisted: list[str] = []
    if len(paths) == 1 and is_run(paths[0]):
        page = run_page(load_record(paths[0]), paths[0])
    else:
        found = read_each(find_files(paths, unlisted.append), lambda record, name: (name, record))
        if len(found.rows) == 1:
            ((name, record),) = found.rows
            page = run_page(record, name)
        else:
            page = runs_page(found.rows, [*file_notes(found, unlisted)])
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        msg = f"The page cannot be written to {output}: {error.strerror}; use a file in a writable folder."
        raise ConfigurationError(msg) from None
    print_line(str(output))
