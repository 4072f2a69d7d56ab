"""The files that the processes of a job left -> the job's record, as rank 0 would have written it."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.record.find import RecordFile, find_files
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.storage import Place, as_place, below, folder_of

_RANK_FILES, _RANK_FILE = "energy.rank*.json", "energy.rank<rank>.json"


def merge_jobs(places: Sequence[str], tell: Callable[[str], None]) -> list[tuple[Place, RunRecord]]:
    """Build each job's record from what its processes left, and write it beside the file of the lowest rank.

    Args:
        places: Directories above such files: of a job of several machines without a common disk, one of each.
        tell: Called with what the user should know.

    Returns:
        Where each record is, and the record; the oldest job first.

    Raises:
        RecordError: There is no such file, one cannot be read, or the record that is there knows more: a rank that has no file
            here, or how the job went on to its end.
        ConfigurationError: A record cannot be written.
    """
    # What these need takes longer to import than a report to be shown, which comes with this package, too.
    from ml_energy_callbacks.record.merge import MERGE_ADVICE, merge_records  # noqa: PLC0415
    from ml_energy_callbacks.record.run_file import RunFile  # noqa: PLC0415

    jobs: dict[str, dict[int, tuple[RecordFile, RunRecord]]] = {}
    for file in find_files(places, lambda place: tell(f"{place} cannot be looked into."), _is_rank_file, _RANK_FILE):
        record = file.load()
        if record.part is None:
            msg = f"{file.name} is not what one process of a job left: name directories that hold {_RANK_FILE}."
            raise RecordError(msg)
        ranks = jobs.setdefault(record.run.id, {})
        known = ranks.get(record.part.rank)
        record.warnings = [warning for warning in record.warnings if not warning.endswith(MERGE_ADVICE)]  # as is done here
        if known is None or known[1].total.seconds < record.total.seconds:
            ranks[record.part.rank] = (file, record)
    merged = []
    for ranks in jobs.values():
        record = merge_records([record for _, record in ranks.values()])
        folder = folder_of(as_place(ranks[min(ranks)][0].name))
        _refuse_to_forget(record, folder)
        merged.append((folder, record))
    merged.sort(key=lambda pair: pair[1].run.started_at)
    files = []
    for i, (folder, record) in enumerate(merged):
        # What is there of a later job is about to be written anew: it need not be kept.
        ids = [later.run.id for place, later in merged[i:] if place == folder]
        written = RunFile(folder, partial(_same, record), tell)
        written.claim(ids)
        files.append((written, record))
    return [(written.path, record) for written, record in files]


def _is_rank_file(name: str) -> bool:
    return fnmatchcase(name, _RANK_FILES)


def _refuse_to_forget(record: RunRecord, folder: Place) -> None:
    """Refuse to write over a record that knows more.

    Raises:
        RecordError: It knows a rank that told nothing here.
    """
    try:
        before = load_record(folder)
    except RecordError:
        return
    known = {rank.rank for rank in before.ranks} if before.run.id == record.run.id else set()
    lost = sorted(known - {rank.rank for rank in record.ranks})
    if lost:
        msg = (
            f"{below(folder, FILE_NAME)} knows what rank {', '.join(map(str, lost))} had told, whose own file is not here: "
            "name the directory that holds it, too, or move that record away to go without."
        )
        raise RecordError(msg)
    ended = before.run.id == record.run.id and before.run.status in {"completed", "stopped"}
    if ended and before.total.seconds > record.total.seconds:
        msg = (
            f"{below(folder, FILE_NAME)} is of the same run, which was resumed and ended: the files here are of a part before "
            "that. Move that record away to go without."
        )
        raise RecordError(msg)


def _same(record: RunRecord) -> RunRecord:
    return record
