"""``ml-energy diff``: what changed between two runs."""

from ml_energy_callbacks.cli.output import print_result
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.report.diff import diff_runs
from ml_energy_callbacks.report.diff_table import render_diff


def report_difference(a: str, b: str, *, json: bool) -> None:
    """Print what changed from the first run to the second one."""
    print_result(diff_runs(load_record(a), load_record(b), (a, b)), render_diff, json=json)
