"""The run's record beside a checkpoint: a training that resumes from there goes on from its totals."""

from collections.abc import Callable
from pathlib import Path

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.records import FILE_NAME, RunRecord, load_record, write_record


def keep_record(record: RunRecord, folder: Path, warn: Callable[[str], None]) -> None:
    """Keep the record in a folder; where that fails, say so and go on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(record, folder / FILE_NAME)
    except OSError as error:
        warn(f"The totals could not be kept in {folder} ({error.strerror}); a resumed fit starts at zero.")


def kept_record(folder: Path, own: Path | None) -> RunRecord | None:
    """Return the record of the run that a resumed one goes on from, or None.

    Args:
        folder: Where it was kept.
        own: Where the run's own record is, if it has one: it may know what was used after the checkpoint as well.
    """
    if not (folder / FILE_NAME).exists():
        return None
    found = [record for record in map(_load, (folder, own)) if record is not None]
    return max((record for record in found if record.run.id == found[0].run.id), key=_length, default=None)


def _load(folder: Path | None) -> RunRecord | None:
    try:
        return None if folder is None else load_record(folder)
    except RecordError:
        return None


def _length(record: RunRecord) -> float:
    return record.total.seconds
