"""``ml-energy merge``: the record of a job from the files of its processes."""

from collections.abc import Sequence

from ml_energy_callbacks.cli.output import console_for, print_result
from ml_energy_callbacks.fleet import merge_jobs
from ml_energy_callbacks.report import render


def merge_and_report(paths: Sequence[str], *, json: bool) -> None:
    """Write the record of each job, and print its path and its contents."""
    console = console_for(stderr=True)
    for place, record in merge_jobs(paths, console.print):
        console.print(f"Written to {place}.", soft_wrap=True)
        print_result(record, render, json=json)
