"""``ml-energy replay``: the record of a run, computed again from its recording."""

from pathlib import Path

from ml_energy_callbacks.cli.output import print_record
from ml_energy_callbacks.testing.replaying import replay_file


def replay_and_report(path: Path, *, json: bool) -> None:
    """Replay a recording, and print its record."""
    print_record(replay_file(path), json=json)
