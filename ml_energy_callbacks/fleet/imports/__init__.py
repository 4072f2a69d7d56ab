"""Run records from the logs of other tools: one file for each tool; which one wrote a log is seen by its first lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ml_energy_callbacks.carbon.delimited import TextFile, header_cells
from ml_energy_callbacks.carbon.published import series_form
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.fleet.imports import carbontracker, codecarbon, dcgm, mlperf, nvidia_smi, slurm, zeus
from ml_energy_callbacks.fleet.imports.notes import LineNotes
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.schema import FILE_NAME, RunRecord
from ml_energy_callbacks.record.storage import LocalFile, in_one_line

__all__ = ["ImportedFile", "import_file", "write_record"]

_TOOLS: Sequence[ModuleType] = (codecarbon, nvidia_smi, dcgm, carbontracker, zeus, slurm, mlperf)
"""Each has ``TOOL``, its name; ``recognise(head)``, of the first lines; and ``read(file, notes)``, which returns the runs."""


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """The runs of a file.

    Attributes:
        records: Their records, in the order of the file.
        notes: What was left out or assumed, with the lines; also in the records' warnings.
    """

    records: Sequence[RunRecord]
    notes: Sequence[str]


def import_file(path: Path) -> ImportedFile:
    """Read the runs of another tool's log.

    Raises:
        RecordError: It cannot be read, is of no known tool, has no run or an impossible figure; the message states the line.
    """
    file = TextFile(path)
    head = file.head()
    if not head:
        msg = f"{path} is empty."
        raise RecordError(msg)
    tool = next((tool for tool in _TOOLS if tool.recognise(head)), None)
    if tool is None:
        if series_form(header_cells(head[0])).source is not None:
            raise file.error(1, "this is a series of carbon intensities; pass it as carbon_intensity")
        names = ", ".join(tool.TOOL for tool in _TOOLS)
        raise file.error(1, f"this is no log of a known tool ({names}), or its header is missing")
    notes = LineNotes()
    records: list[RunRecord] = tool.read(file, notes)
    said = list(notes.sentences())
    if not records:
        reason = f" {said[0]}" if said else " There is nothing after the header, line 1."
        msg = f"{path} has no run of {tool.TOOL}.{reason}"
        raise RecordError(msg)
    for record in records:
        record.warnings = said
        line = "" if record.imported is None else f", line {record.imported.line}"
        decode_record(encode_record(record), f"{path}{line}")  # a figure that is impossible is refused now, not when it is read
    return ImportedFile(records, said)


def write_record(record: RunRecord, output: Path) -> Path:
    """Write an imported record below a directory and return its path; that of the same run is replaced.

    Raises:
        ConfigurationError: It cannot be written.
    """
    stem = Path(record.imported.file).stem if record.imported is not None else "run"
    path = output / f"{stem}-{record.run.id[:8]}" / FILE_NAME
    record.run.record_path = str(path)
    try:
        file = LocalFile(path)
        file.make_folder()
        file.write(encode_record(record))
    except OSError as error:
        msg = f"The record {path} cannot be written: {in_one_line(error)}; choose another --output."
        raise ConfigurationError(msg) from None
    return path
