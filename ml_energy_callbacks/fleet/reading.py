"""Files -> rows, by several threads; what cannot be read is told, and does not hide the rest."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ml_energy_callbacks.exceptions import RecordError, VersionError
from ml_energy_callbacks.fleet.rows import Row, row
from ml_energy_callbacks.record.find import THREADS, RecordFile


@dataclass(slots=True)
class Runs:
    """What files of run records hold.

    Attributes:
        rows: One for each run; of a run's several records, that of the longest.
        repeated: How many records were of a run that another one tells, too.
        other_versions: Files of a schema version that this release does not read.
        broken: Files that cannot be read, or are no run record.
    """

    rows: list[Row]
    repeated: int = 0
    other_versions: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def read_runs(files: Sequence[RecordFile], progress: Callable[[int], None] | None = None) -> Runs:
    """Read run records.

    Args:
        files: Where they are.
        progress: Called with the number of files that have been read.

    Raises:
        RecordError: None of the files is a run record that this release reads.
    """
    runs = Runs([])
    longest: dict[str, Row] = {}
    errors: list[RecordError] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (file, outcome) in enumerate(zip(files, pool.map(_read, files), strict=True), 1):
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
    runs.rows = list(longest.values())
    if not runs.rows and errors:
        msg = f"None of the {len(files)} files is a run record that can be shown: {errors[0]}"
        raise errors[0] if len(files) == 1 else RecordError(msg)
    return runs


def _read(file: RecordFile) -> Row | RecordError:
    try:
        record = file.load()
    except RecordError as error:
        return error
    if record.part is not None:
        return RecordError(
            f"{file.name} is what one process of a job left: `ml-energy merge` makes the job's record of all of it."
        )
    return row(record, file.name)
