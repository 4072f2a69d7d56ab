"""What the trainer's loggers are given beside the metrics that Lightning hands them: options, steps and the run's totals.

A logger that fails is told of once, and stops nothing.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.record.storage import as_place

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from ml_energy_callbacks.tensorboard.event_file import EventFile


class Loggers:
    """The loggers of one run of a trainer."""

    def __init__(self, loggers: Iterable["Logger"], warn: Callable[[str], None]) -> None:
        """Begin with all of them."""
        self._loggers = list(loggers)
        self._warn = warn
        self._told: set[int] = set()
        self._rows: list[EventFile] = []

    def begin(self, hyperparameters: Mapping[str, float | str], saved: Mapping[str, Any], summary: Sequence[str]) -> None:
        """Log what the figures go by, and let TensorBoard show panels.

        Args:
            hyperparameters: The callback's, by their names.
            saved: The user's own, which Lightning is about to log.
            summary: Names of the metrics that tell of a whole run.
        """
        for logger in self._loggers:
            kind = _tensorboard_kind(logger)
            if kind is None:
                self._try(logger, lambda logger: logger.log_hyperparams(dict(hyperparameters)))
            else:
                self._try(logger, partial(self._begin_tensorboard, kind, hyperparameters, saved, summary))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at a step; a logger that fails gets no more of them."""
        self._loggers = [
            logger for logger in self._loggers if self._try(logger, lambda logger: logger.log_metrics(dict(metrics), step=step))
        ]

    def end(self, totals: Mapping[str, float], step: int) -> None:
        """Log the totals of the whole run, as its record has them."""
        self.log(totals, step)
        for logger in self._loggers:
            self._try(logger, lambda logger: logger.save())
        for row in self._rows:
            try:
                row.add_scalars(totals, step)
            except OSError as error:
                self._warn(f"The totals could not be written for TensorBoard's HParams ({error.strerror}).")

    def _try(self, logger: "Logger", action: Callable[[Any], None]) -> bool:
        """Return whether it went well."""
        try:
            action(logger)
        except Exception as error:  # noqa: BLE001 - whatever a tracker makes of it: training goes on
            if id(logger) not in self._told:
                self._told.add(id(logger))
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                self._warn(f"{type(logger).__name__} failed to take what EnergyCallback logs ({reason}).")
            return False
        return True

    def _begin_tensorboard(
        self,
        kind: type,
        hyperparameters: Mapping[str, float | str],
        saved: Mapping[str, Any],
        summary: Sequence[str],
        logger: Any,  # noqa: ANN401 - of either of Lightning's packages
    ) -> None:
        """Write the panels, and a row of the table in the tab HParams.

        TensorBoard takes the first hyper-parameters that a run says, and the metrics of the table's columns with them. Where
        Lightning itself is about to say the user's, these are said here, along with ours; else the user may say some at any
        time, and ours go into a row of their own.
        """
        from ml_energy_callbacks.tensorboard.event_file import EventFile, sub_run  # noqa: PLC0415 - an optional extra
        from ml_energy_callbacks.tensorboard.hparams import add_hyperparameters  # noqa: PLC0415 - as above
        from ml_energy_callbacks.tensorboard.panels import write_panels  # noqa: PLC0415 - as above

        folder = as_place(logger.log_dir)
        if not isinstance(folder, Path):
            self._warn(f"TensorBoard's energy panels are not written to {folder}, which is no local folder.")
            return
        write_panels(folder)
        if saved and getattr(logger, "_default_hp_metric", False):
            from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 - as above

            flat = sys.modules[kind.__module__]._flatten_dict(saved)  # noqa: SLF001 - to be shown as Lightning shows them
            shown = {**logger._sanitize_params(flat), **hyperparameters}  # noqa: SLF001 - as above
            writer = logger.experiment._get_file_writer()  # noqa: SLF001 - as Lightning does
            metrics = dict.fromkeys(["hp_metric", *summary], 0.0)  # their names alone count
            for part in hparams(shown, metrics):  # type: ignore[no-untyped-call]
                writer.add_summary(part)
        else:
            row = EventFile(sub_run(folder))
            add_hyperparameters(row, hyperparameters)
            self._rows.append(row)


def _tensorboard_kind(logger: "Logger") -> type | None:
    """Return the class of Fabric's that a TensorBoard logger builds on; None of another logger."""
    return next((kind for kind in reversed(type(logger).__mro__) if kind.__name__ == "TensorBoardLogger"), None)
