"""What the callback writes beside the record: scalars for TensorBoard, and the totals beside a backup of the weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.keras.loop import KerasLoop
from ml_energy_callbacks.records import FILE_NAME, RunRecord, load_record, write_record

if TYPE_CHECKING:
    from ml_energy_callbacks.tensorboard.event_file import EventFile


class Scalars:
    """Scalars and panels for TensorBoard below a folder; what cannot be written is said, and stops nothing."""

    def __init__(self, folder: Path | None, warn: Callable[[str], None]) -> None:
        """Write into this folder, or nowhere."""
        self._warn = warn
        self._file: EventFile | None = None
        if folder is None:
            return
        try:
            from ml_energy_callbacks.tensorboard import event_file, panels  # noqa: PLC0415 - an optional extra

            panels.write_panels(folder)
            self._file = event_file.EventFile(event_file.sub_run(folder))
        except ImportError:
            warn("No scalars are written for TensorBoard: pip install 'ml-energy-callbacks[tensorboard]'.")
        except OSError as error:
            self._fail(error)

    def __bool__(self) -> bool:
        """Tell whether scalars are written."""
        return self._file is not None

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars by their names."""
        if self._file is None:
            return
        try:
            self._file.add_scalars(scalars, step)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._warn(f"The scalars for TensorBoard could not be written ({error.strerror}).")
        self._file = None


class Backup:
    """The run's record beside what ``BackupAndRestore`` keeps: it comes and goes with that."""

    def __init__(self, loop: KerasLoop) -> None:
        """Find the backup of a loop, if it has one."""
        keeper = next((c for c in loop.callbacks if isinstance(c, keras.callbacks.BackupAndRestore)), None)
        self._path = None if keeper is None else Path(keeper.backup_dir) / FILE_NAME

    def load(self, folder: Path | None) -> RunRecord | None:
        """Return the record of the run that this one resumes, or None.

        Args:
            folder: Where the run's own record is, if it has one: it may know what was used after the last backup as well.
        """
        if self._path is None or not self._path.exists():
            return None
        found = [record for record in map(_load, (self._path, folder)) if record is not None]
        return max((record for record in found if record.run.id == found[0].run.id), key=_length, default=None)

    def save(self, record: RunRecord, warn: Callable[[str], None]) -> None:
        """Keep the record."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_record(record, self._path)
        except OSError as error:
            warn(f"The totals could not be kept in {self._path.parent} ({error.strerror}); a resumed fit starts at zero.")


def _load(path: Path | None) -> RunRecord | None:
    try:
        return None if path is None else load_record(path)
    except RecordError:
        return None


def _length(record: RunRecord) -> float:
    return record.total.seconds
