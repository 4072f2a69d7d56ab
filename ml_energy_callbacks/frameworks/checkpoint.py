"""The run's record beside a checkpoint: a training that resumes from there goes on from its totals."""

from collections.abc import Callable
from functools import partial

from ml_energy_callbacks.deadline import LateError, in_background, within
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.record.load import encode_record, load_record
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.storage import Place, below, in_one_line, open_file

_ANSWER_S = 15.0
"""A folder behind a URL that has not answered by then does not."""


def keep_record(record: RunRecord, folder: Place, warn: Callable[[str], None]) -> None:
    """Keep the record in a folder; where that fails, say so and go on."""
    try:
        within(_ANSWER_S, in_background(partial(_keep, record, below(folder, FILE_NAME))))
    except (ConfigurationError, OSError, LateError) as error:
        warn(f"The totals could not be kept in {folder} ({in_one_line(error)}); a resumed fit starts at zero.")


def _keep(record: RunRecord, place: Place) -> None:
    file = open_file(place)
    file.make_folder()
    file.write(encode_record(record))


def kept_record(folder: Place, own: Place | None) -> RunRecord | None:
    """Return the record of the run that a resumed one goes on from, or None.

    Args:
        folder: Where it was kept.
        own: Where the run's own record is, if it has one: it may know what was used after the checkpoint as well.
    """
    kept = _load(below(folder, FILE_NAME))
    if kept is None:
        return None
    known = None if own is None else _load(own)
    return kept if known is None or known.run.id != kept.run.id else max(kept, known, key=_length)


def _load(place: Place) -> RunRecord | None:
    try:
        return within(_ANSWER_S, in_background(partial(load_record, place)))
    except (ConfigurationError, RecordError, LateError):
        return None


def _length(record: RunRecord) -> float:
    return record.total.seconds
