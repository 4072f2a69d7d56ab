"""``ml-energy merge``: the record of a job from what its processes left."""

from collections.abc import Sequence

from ml_energy_callbacks.cli.output import console_for, show
from ml_energy_callbacks.fleet import merge_jobs
from ml_energy_callbacks.report import render


def merge_and_report(paths: Sequence[str], *, json: bool) -> None:
    """Write each job's record, and print where it is and what it holds."""
    console = console_for(stderr=True)
    for place, record in merge_jobs(paths, console.print):
        console.print(f"Written to {place}.", soft_wrap=True)
        show(record, render, json=json)
