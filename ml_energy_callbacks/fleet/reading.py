"""Reads run records, in threads; files that cannot be read are listed, and the others are used."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ml_energy_callbacks.exceptions import RecordError, VersionError
from ml_energy_callbacks.fleet.rows import Row, make_row
from ml_energy_callbacks.record.find import THREADS, RecordFile
from ml_energy_callbacks.record.schema import RunRecord

_Made = TypeVar("_Made")


@dataclass(slots=True)
class Runs(Generic[_Made]):
    """Contents of many run records.

    Attributes:
        rows: What was made of each run; if a run has several records, the longest one is used.
        included: Number of runs that were left out, because a run of ``ml-energy run`` includes their energy.
        repeated: Number of records that were left out, because another record of the same run is included.
        other_versions: Files of a schema version that this release does not read.
        broken: Files that cannot be read or are not run records.
    """

    rows: list[_Made]
    included: int = 0
    repeated: int = 0
    other_versions: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def read_runs(files: Sequence[RecordFile], progress: Callable[[int], None] | None = None) -> Runs[Row]:
    """Read run records as rows, as :func:`read_each`; what the run of a command includes is left out."""
    runs = read_each(files, make_row, progress)
    ids = {row.run_id for row in runs.rows}
    kept = [row for row in runs.rows if row.within not in ids]
    runs.included, runs.rows = len(runs.rows) - len(kept), kept
    return runs


def read_each(
    files: Sequence[RecordFile], make: Callable[[RunRecord, str], _Made], progress: Callable[[int], None] | None = None
) -> Runs[_Made]:
    """Read run records.

    Args:
        files: The files to read.
        make: Returns what is needed of a record and its file's name.
        progress: Called with the number of files read so far.

    Raises:
        RecordError: None of the files is a run record that this release can read.
    """
    runs: Runs[_Made] = Runs([])
    longest: dict[str, tuple[float, _Made]] = {}
    errors: list[RecordError] = []
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = pool.map(lambda file: _read(file, make), files)
        for done, (file, outcome) in enumerate(zip(files, outcomes, strict=True), 1):
            if isinstance(outcome, RecordError):
                errors.append(outcome)
                (runs.other_versions if isinstance(outcome, VersionError) else runs.broken).append(file.name)
            else:
                run_id, seconds, row = outcome
                known = longest.get(run_id)
                runs.repeated += known is not None
                if known is None or seconds > known[0]:
                    longest[run_id] = seconds, row
            if progress is not None:
                progress(done)
    runs.rows = [row for _, row in longest.values()]
    if not runs.rows and errors:
        msg = f"None of the {len(files)} files is a readable run record: {errors[0]}"
        raise errors[0] if len(files) == 1 else RecordError(msg)
    return runs


def _read(file: RecordFile, make: Callable[[RunRecord, str], _Made]) -> tuple[str, float, _Made] | RecordError:
    try:
        record = load_whole(file)
    except RecordError as error:
        return error
    return record.run.id, record.total.seconds, make(record, file.name)


def load_whole(file: RecordFile) -> RunRecord:
    """Return the record of a whole run.

    Raises:
        RecordError: The file cannot be read, is no run record, or is that of one process of a job.
    """
    record = file.load()
    if record.part is not None:
        msg = f"{file.name} is the file of one process of a job: `ml-energy merge` builds the record of the whole job."
        raise RecordError(msg)
    return record
