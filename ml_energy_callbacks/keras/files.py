"""Files of the callback other than the record: scalars for TensorBoard, and a copy of the record beside a backup."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from ml_energy_callbacks.frameworks.checkpoint import load_saved_record, save_record
from ml_energy_callbacks.keras.loop import KerasLoop
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import Place, as_place

if TYPE_CHECKING:
    from ml_energy_callbacks.tensorboard.event_file import EventFile


class Scalars:
    """Scalars, panels and options for TensorBoard below a folder; a failure is a warning and does not stop the training."""

    def __init__(self, folder: Place | None, warn: Callable[[str], None], hyperparameters: Mapping[str, float | str]) -> None:
        """Write the panels and the options, by their names, into this folder if it is local."""
        self._warn = warn
        self._file: EventFile | None = None
        if folder is None:
            return
        if not isinstance(folder, Path):
            warn(f"No scalars are written for TensorBoard: {folder} is not a local folder.")
            return
        try:
            from ml_energy_callbacks.tensorboard import event_file, hparams, panels  # noqa: PLC0415 - an optional extra

            panels.write_panels(folder)
            self._file = event_file.EventFile(event_file.sub_run(folder))
            hparams.add_hyperparameters(self._file, hyperparameters)
        except ImportError:
            warn("No scalars are written for TensorBoard: pip install 'ml-energy-callbacks[tensorboard]'.")
        except OSError as error:
            self._fail(error)

    def __bool__(self) -> bool:
        """Return whether scalars are written."""
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
    """The run's record in the folder of ``BackupAndRestore``, which creates and deletes that folder."""

    def __init__(self, loop: KerasLoop) -> None:
        """Find the backup of a loop, if it has one."""
        keeper = next((c for c in loop.callbacks if isinstance(c, keras.callbacks.BackupAndRestore)), None)
        self._folder = None if keeper is None else as_place(keeper.backup_dir)

    def load(self, folder: Place | None) -> RunRecord | None:
        """Return the record of the run that this one resumes, or None.

        Args:
            folder: Folder of the run's own record, or None.
        """
        return None if self._folder is None else load_saved_record(self._folder, folder)

    def save(self, record: RunRecord, warn: Callable[[str], None]) -> None:
        """Save the record in the backup's folder."""
        if self._folder is not None:
            save_record(record, self._folder, warn)
