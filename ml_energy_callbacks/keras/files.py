"""Files of the callback other than the record: the run for TensorBoard, and a copy of the record beside a backup."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from ml_energy_callbacks.frameworks.checkpoint import load_saved_record, save_record
from ml_energy_callbacks.keras.loop import KerasLoop
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import Place, as_place

if TYPE_CHECKING:
    from ml_energy_callbacks.tensorboard.energy_run import EnergyRun


def energy_run(
    folder: Place | None, warn: Callable[[str], None], hyperparameters: Mapping[str, float | str]
) -> "EnergyRun | None":
    """Return the run for TensorBoard below a folder; None without a local folder, and without the extra."""
    if folder is None:
        return None
    if not isinstance(folder, Path):
        warn(f"No scalars are written for TensorBoard: {folder} is not a local folder.")
        return None
    try:
        from ml_energy_callbacks.tensorboard.energy_run import EnergyRun  # noqa: PLC0415 - an optional extra
    except ImportError:
        warn("No scalars are written for TensorBoard: pip install 'ml-energy-callbacks[tensorboard]'.")
        return None
    return EnergyRun(folder, warn, hyperparameters)


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
