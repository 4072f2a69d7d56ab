"""The run's record beside a checkpoint: a training that resumes from the checkpoint adds to its totals."""

import glob
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ml_energy_callbacks.deadline.calls import LateError, in_background, within
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.job.merge import merge_parts
from ml_energy_callbacks.record.find import find_files
from ml_energy_callbacks.record.load import encode_record, load_record
from ml_energy_callbacks.record.run_file import kept_name
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.spare import cache_folders
from ml_energy_callbacks.record.storage import Place, as_place, below, folder_of, in_one_line, open_file

_RECORDS = "energy*.json"
"""Records, those that another run moved aside, and the files of a job's processes."""

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
        own: Folder of the resumed run's own record, or None.
    """
    saved = _within(partial(load_record, below(folder, FILE_NAME)))
    return None if saved is None else latest_record(saved, own)


def latest_record(saved: RunRecord, own: Place | None) -> RunRecord:
    """Return the longest record of a checkpoint's run: energy that was used after the checkpoint was used as well.

    It is looked for where the record was when the checkpoint was saved, where that of the resumed run is, in the folders beside
    these, such as those of other attempts, and among the copies of records whose place failed. The files of a job's processes
    are used, too.

    Args:
        saved: The record in the checkpoint.
        own: Folder of the resumed run's own record, or None.
    """
    before = saved.run.record_path
    folders = [] if before is None else [folder_of(as_place(before))]
    folders += [] if own is None or own in folders else [own]
    patterns = [pattern for folder in folders for pattern in _patterns(folder)]
    patterns += [str(folder / kept_name(FILE_NAME, saved.run.id)) for folder in cache_folders()]
    return _within(partial(_longest, saved, patterns)) or saved


def _patterns(folder: Place) -> list[str]:
    """Return the patterns of the records in a folder, and in the folders beside it."""
    names = (folder, folder_of(folder))
    here, above = (glob.escape(str(name)) if isinstance(name, Path) else name for name in names)
    return [f"{here}/{_RECORDS}", f"{above}/*/{_RECORDS}"]


def _longest(saved: RunRecord, patterns: Sequence[str]) -> RunRecord:
    found: dict[str, tuple[Place, RunRecord]] = {}
    for pattern in patterns:
        with suppress(RecordError, ConfigurationError):
            for file in find_files([pattern], lambda _: None):
                with suppress(RecordError):
                    record = file.load()
                    if record.run.id == saved.run.id:
                        found[file.name] = (folder_of(file.place), record)
    whole = [record for _, record in found.values() if record.part is None]
    jobs = [record for _, record in merge_parts(found.values()) if not record.run.missing_ranks]
    # Of equally long ones, the ranks' own files have more than the record of rank 0, and any has more than the checkpoint.
    return max([*jobs, *whole, saved], key=_length)


def _within(work: Callable[[], RunRecord]) -> RunRecord | None:
    """Return the record that a search finds within some seconds, or None."""
    try:
        return within(_ANSWER_S, in_background(work))
    except (ConfigurationError, RecordError, OSError, LateError):
        return None


def _length(record: RunRecord) -> float:
    return record.total.seconds
