"""The run's record beside a checkpoint: a training that resumes from the checkpoint adds to its totals."""

from collections.abc import Callable
from functools import partial

from ml_energy_callbacks.deadline import LateError, in_background, within
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.record.load import encode_record, load_record
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.storage import Place, below, in_one_line, open_file

_ANSWER_S = 15.0
"""Longest wait for a folder at a URL."""


def save_record(record: RunRecord, folder: Place, warn: Callable[[str], None]) -> None:
    """Save a record in a folder; if that fails, warn and continue."""
    try:
        within(_ANSWER_S, in_background(partial(_save, record, below(folder, FILE_NAME))))
    except (ConfigurationError, OSError, LateError) as error:
        warn(f"Could not save the energy totals in {folder} ({in_one_line(error)}); a resumed training starts at zero.")


def _save(record: RunRecord, place: Place) -> None:
    file = open_file(place)
    file.make_folder()
    file.write(encode_record(record))


def load_saved_record(folder: Place, own: Place | None) -> RunRecord | None:
    """Return the record that a resumed training adds to, or None if there is none.

    Args:
        folder: Folder of the checkpoint, in which it was saved.
        own: Folder of the run's own record, or None: if that is of the same run, it may include energy used after the
            checkpoint.
    """
    saved = _load(below(folder, FILE_NAME))
    if saved is None:
        return None
    latest = None if own is None else _load(own)
    return saved if latest is None or latest.run.id != saved.run.id else max(saved, latest, key=_length)


def _load(place: Place) -> RunRecord | None:
    try:
        return within(_ANSWER_S, in_background(partial(load_record, place)))
    except (ConfigurationError, RecordError, LateError):
        return None


def _length(record: RunRecord) -> float:
    return record.total.seconds
