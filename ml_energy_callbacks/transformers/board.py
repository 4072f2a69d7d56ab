"""TensorBoard beside the Trainer: descriptions of the tags, and the energy run below the Trainer's own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from ml_energy_callbacks.record.storage import as_place

if TYPE_CHECKING:
    from ml_energy_callbacks.tensorboard.energy_run import EnergyRun


class Board:
    """Finds where the Trainer writes for TensorBoard, and begins an energy run there."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Know no folder yet; ``warn`` is called with each warning."""
        self._warn = warn
        self._folder: Path | None = None

    def find(self, trainer: Trainer) -> None:
        """Find the folder and the writer of a training that has begun, and let the writer describe the energy tags.

        Reads ``tb_writer`` of the Trainer's ``TensorBoardCallback`` (integrations/integration_utils.py, in transformers 5.24),
        and ``log_dir`` of torch's writer, which is ``logdir`` in that of tensorboardX.
        """
        kinds = {type(callback).__name__: callback for callback in trainer.callback_handler.callbacks}
        writer: Any = getattr(kinds.get("TensorBoardCallback"), "tb_writer", None)
        if writer is None:
            return
        from ml_energy_callbacks.tensorboard.descriptions import describe_tags  # noqa: PLC0415 - an optional extra

        describe_tags(writer)
        folder = getattr(writer, "log_dir", None) or getattr(writer, "logdir", None)
        place = None if folder is None else as_place(folder)
        self._folder = place if isinstance(place, Path) else None

    def begin(self, hyperparameters: Mapping[str, float | str]) -> "EnergyRun | None":
        """Return a new energy run below the Trainer's; None where the Trainer has written none."""
        if self._folder is None:
            return None
        from ml_energy_callbacks.tensorboard.energy_run import EnergyRun  # noqa: PLC0415 - an optional extra

        return EnergyRun(self._folder, self._warn, hyperparameters)
