"""Reads run records as rows, in threads; files that cannot be read are listed, and the others are used."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ml_energy_callbacks.exceptions import RecordError, VersionError
from ml_energy_callbacks.fleet.rows import Row, make_row
from ml_energy_callbacks.record.find import THREADS, RecordFile


@dataclass(slots=True)
class Runs:
    """Contents of many run records.

    Attributes:
        rows: One for each run; if a run has several records, the longest one is used.
        included: Number of runs that were left out, because a run of ``ml-energy run`` includes their energy.
        repeated: Number of records that were left out, because another record of the same run is included.
        other_versions: Files of a schema version that this release does not read.
        broken: Files that cannot be read or are not run records.
    """

    rows: list[Row]
    included: int = 0
    repeated: int = 0
    other_versions: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def read_runs(files: Sequence[RecordFile], progress: Callable[[int], None] | None = None) -> Runs:
    """Read run records.

    Args:
        files: The files to read.
        progress: Called with the number of files read so far.

    Raises:
        RecordError: None of the files is a run record that this release can read.
    """
    runs = Runs([])
    longest: dict[str, Row] = {}
    errors: list[RecordError] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (file, outcome) in enumerate(zip(files, pool.map(_read_row, files), strict=True), 1):
            if isinstance(outcome, RecordError):
                errors.append(outcome)
                (runs.other_versions if isinstance(outcome, VersionError) else runs.broken).append(file.name)
            else:
                known = longest.get(outcome.run_id)
                runs.repeated += known is not None
                if known is None or outcome.seconds > known.seconds:
                    longest[outcome.run_id] = outcome
            if progress is not None:
                progress(done)
    runs.rows = [row for row in longest.values() if row.within not in longest]
    runs.included = len(longest) - len(runs.rows)
    if not runs.rows and errors:
        msg = f"None of the {len(files)} files is a readable run record: {errors[0]}"
        raise errors[0] if len(files) == 1 else RecordError(msg)
    return runs


def _read_row(file: RecordFile) -> Row | RecordError:
    try:
        record = file.load()
    except RecordError as error:
        return error
    if record.part is not None:
        return RecordError(
            f"{file.name} is the file of one process of a job: `ml-energy merge` builds the record of the whole job."
        )
    return make_row(record, file.name)
