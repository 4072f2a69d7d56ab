"""``ml-energy lifecycle``: training compared with inference over the lifetime of a model."""

from collections.abc import Sequence
from pathlib import Path

from ml_energy_callbacks.cli.output import print_result
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.report.lifecycle import lifecycle, load_records
from ml_energy_callbacks.report.lifecycle_plot import plot_lifecycle
from ml_energy_callbacks.report.lifecycle_table import render_lifecycle


def report_lifecycle(
    train: Sequence[Path], predict: str, *, per_day: float, days: float, json: bool, plot: Path | None
) -> None:
    """Print the energy of training and inference, and draw it."""
    found = lifecycle(load_records(train), load_record(predict), per_day=per_day, days=days)
    if plot is not None:
        plot_lifecycle(found, plot)
    print_result(found, render_lifecycle, json=json)
