"""``ml-energy merge``: the record of a job from the files of its processes."""

from collections.abc import Sequence
from functools import partial

from ml_energy_callbacks.cli.output import print_line, print_record
from ml_energy_callbacks.fleet import merge_jobs


def merge_and_report(paths: Sequence[str], *, json: bool) -> None:
    """Write the record of each job, and print its path and its contents."""
    warn = partial(print_line, stderr=True)
    for place, record in merge_jobs(paths, warn):
        warn(f"Written to {place}.")
        print_record(record, place, json=json)
