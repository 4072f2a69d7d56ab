"""The run ``energy`` that is written below the user's own, with all that TensorBoard shows of the energy."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.tensorboard.event_file import EventFile, sub_run
from ml_energy_callbacks.tensorboard.hparams import add_hyperparameters
from ml_energy_callbacks.tensorboard.panels import add_panels
from ml_energy_callbacks.tensorboard.snapshots import Snapshots


class EnergyRun:
    """A run of TensorBoard's with the energy of a run of the user's, in one event file; a failure is one warning."""

    def __init__(self, log_dir: Path, warn: Callable[[str], None], hyperparameters: Mapping[str, float | str]) -> None:
        """Create the event file, with the panels unless an earlier one has them.

        Args:
            log_dir: The folder of the user's run.
            warn: Is called with each warning.
            hyperparameters: Names and values of the row in the tab HParams; empty for no row.
        """
        self._warn = warn
        self._file: EventFile | None = None
        self._snapshots: Snapshots | None = None
        try:
            folder = sub_run(log_dir)
            continued = folder.is_dir() and any(folder.glob("events.out.tfevents.*"))
            self._file = EventFile(folder)
            self._snapshots = Snapshots(self._file, warn)
            if not continued:
                add_panels(self._file)
            if hyperparameters:
                add_hyperparameters(self._file, hyperparameters)
        except OSError as error:
            self._fail(error)

    def __bool__(self) -> bool:
        """Return whether it is written."""
        return self._file is not None

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Append scalars by their names."""
        if self._file is None:
            return
        try:
            self._file.add_scalars(scalars, step)
        except OSError as error:
            self._fail(error)

    def follow(self, build: Callable[[], RunRecord], *, last: bool) -> None:
        """Append a snapshot of the record, as :meth:`Snapshots.follow` does."""
        if self._snapshots is not None:
            self._snapshots.follow(build, last=last)

    def _fail(self, error: OSError) -> None:
        self._warn(f"TensorBoard's energy run could not be written ({error.strerror}).")
        self._file = self._snapshots = None
