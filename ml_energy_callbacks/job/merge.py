"""Builds a job's record from the files of its processes, as rank 0 would have written it."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.record.find import find_files
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.storage import Place, below, folder_of

_RANK_FILES, _RANK_FILE = "energy.rank*.json", "energy.rank<rank>.json"


def merge_jobs(places: Sequence[str], warn: Callable[[str], None]) -> list[tuple[Place, RunRecord]]:
    """Build each job's record from the files of its processes, and write it next to the file of the lowest rank.

    Args:
        places: Directories with such files; one of each machine if the machines of a job have no shared disk.
        warn: Warns the user.

    Returns:
        The path and the record of each job, the oldest job first.

    Raises:
        RecordError: There is no such file, one cannot be read, or the existing record contains more: a rank whose file is
            missing here, or the later part of a resumed job.
        ConfigurationError: A record cannot be written.
    """
    # Imported here, because it takes longer to import than `ml-energy report`, which uses this package, too.
    from ml_energy_callbacks.record.run_file import RunFile  # noqa: PLC0415

    parts = []
    for file in find_files(places, lambda place: warn(f"{place} cannot be listed."), _is_rank_file, _RANK_FILE):
        record = file.load()
        if record.part is None:
            msg = f"{file.name} is not the file of one process of a job: pass directories that contain {_RANK_FILE}."
            raise RecordError(msg)
        parts.append((folder_of(file.place), record))
    merged = merge_parts(parts)
    for folder, record in merged:
        _check_existing_record(record, folder)
    files = []
    for i, (folder, record) in enumerate(merged):
        # Records of later jobs in this folder are about to be rewritten and need not be kept.
        ids = [later.run.id for place, later in merged[i:] if place == folder]
        written = RunFile(folder, partial(_return_record, record), warn)
        written.claim(ids)
        files.append((written, record))
    return [(written.path, record) for written, record in files]


def merge_parts(parts: Iterable[tuple[Place, RunRecord]]) -> list[tuple[Place, RunRecord]]:
    """Return the record of each job, the oldest first, with the folder of its lowest rank.

    Args:
        parts: The records of single processes, with their folders; of several of one process, the longest one is used.
    """
    from ml_energy_callbacks.record.limits import limit_size  # noqa: PLC0415 - as above
    from ml_energy_callbacks.record.merge import MERGE_ADVICE, merge_records  # noqa: PLC0415 - as above

    jobs: dict[str, dict[int, tuple[Place, RunRecord]]] = {}
    for folder, record in parts:
        if record.part is None:
            continue
        ranks = jobs.setdefault(record.run.id, {})
        known = ranks.get(record.part.rank)
        record.warnings = [warning for warning in record.warnings if not warning.endswith(MERGE_ADVICE)]  # this follows it
        if known is None or known[1].total.seconds < record.total.seconds:
            ranks[record.part.rank] = (folder, record)
    merged = [
        (ranks[min(ranks)][0], limit_size(merge_records([record for _, record in ranks.values()]))) for ranks in jobs.values()
    ]
    return sorted(merged, key=lambda pair: pair[1].run.started_at)


def _is_rank_file(name: str) -> bool:
    return fnmatchcase(name, _RANK_FILES)


def _check_existing_record(record: RunRecord, folder: Place) -> None:
    """Check that the new record does not replace one that contains more.

    Raises:
        RecordError: The existing record contains a rank or a later part of the run that is missing here.
    """
    try:
        before = load_record(folder)
    except RecordError:
        return
    known = {rank.rank for rank in before.ranks} if before.run.id == record.run.id else set()
    lost = sorted(known - {rank.rank for rank in record.ranks})
    if lost:
        msg = (
            f"{below(folder, FILE_NAME)} contains data of rank {', '.join(map(str, lost))}, whose file is missing here: pass "
            "its directory, too, or move that record away to continue without it."
        )
        raise RecordError(msg)
    ended = before.run.id == record.run.id and before.run.status in {"completed", "stopped"}
    if ended and before.total.seconds > record.total.seconds:
        msg = (
            f"{below(folder, FILE_NAME)} belongs to the same run, which was resumed and ended: the files here are from before "
            "that. Move that record away to merge them without it."
        )
        raise RecordError(msg)


def _return_record(record: RunRecord) -> RunRecord:
    return record
