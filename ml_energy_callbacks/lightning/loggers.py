"""Logging beside Lightning's own ``log``: the callback's options, step logs and the totals of the run.

If a logger fails, the user is warned once, and training continues.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.lightning.internals import tensorboard_base, write_tensorboard_hparams, writes_hp_metric
from ml_energy_callbacks.meter.unforeseen import pass_users_error
from ml_energy_callbacks.record.storage import as_place

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from ml_energy_callbacks.tensorboard.energy_run import EnergyRun


class Loggers:
    """The loggers of one run of a trainer.

    Attributes:
        runs: The energy runs below those of TensorBoard loggers.

    Args:
        loggers: The trainer's loggers; none in a process that does not log.
        warn: Is called with each warning.
    """

    def __init__(self, loggers: Iterable["Logger"], warn: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._warn = warn
        self._failed: set[int] = set()
        self._rows: list[EnergyRun] = []
        self.runs: list[EnergyRun] = []

    def begin(self, hyperparameters: Mapping[str, float | str], saved: Mapping[str, Any], results: Sequence[str]) -> None:
        """Log the options that affect the figures, and write the panels for TensorBoard.

        Args:
            hyperparameters: The callback's options, by their names as hyper-parameters.
            saved: The user's hyper-parameters, which Lightning will log.
            results: Names of the metrics that represent a whole run.
        """
        for logger in self._loggers:
            if tensorboard_base(logger) is not None:
                self._try(logger, partial(self._begin_tensorboard, hyperparameters, saved, results))
            elif hyperparameters:
                self._try(logger, lambda logger: logger.log_hyperparams(dict(hyperparameters)))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at a step; a logger that fails is not used again."""
        self._loggers = [
            logger for logger in self._loggers if self._try(logger, lambda logger: logger.log_metrics(dict(metrics), step=step))
        ]

    def end(self, totals: Mapping[str, float], results: Mapping[str, float], step: int) -> None:
        """Log the totals of the whole run, as they are in its record, and the results in the tab HParams."""
        self.log(totals, step)
        for logger in self._loggers:
            self._try(logger, lambda logger: logger.save())
        for row in self._rows:
            row.add_scalars(results, step)

    def _try(self, logger: "Logger", action: Callable[[Any], None]) -> bool:
        """Call a function with a logger; return whether it succeeded."""
        try:
            action(logger)
        except Exception as error:  # noqa: BLE001 - any error of a tracker: training continues
            pass_users_error(error)
            if id(logger) not in self._failed:
                self._failed.add(id(logger))
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                self._warn(f"{type(logger).__name__} failed when EnergyCallback logged to it ({reason}).")
            return False
        return True

    def _begin_tensorboard(
        self,
        hyperparameters: Mapping[str, float | str],
        saved: Mapping[str, Any],
        results: Sequence[str],
        logger: Any,  # noqa: ANN401 - of either of Lightning's packages
    ) -> None:
        """Begin the energy run, describe the tags, and write a row of the table in the HParams tab.

        TensorBoard uses the first hyper-parameters that a run writes, and the metrics written with them as the table's columns.
        If Lightning is going to write the user's, they are written here together with ours; otherwise the user may write some
        at any time, and ours, if there are any, go into a separate row.
        """
        from ml_energy_callbacks.tensorboard.descriptions import describe_tags  # noqa: PLC0415 - an optional extra
        from ml_energy_callbacks.tensorboard.energy_run import EnergyRun  # noqa: PLC0415 - as above

        folder = as_place(logger.log_dir)
        if not isinstance(folder, Path):
            self._warn(f"TensorBoard's energy panels are not written: {folder} is not a local folder.")
            return
        describe_tags(logger.experiment)
        together = bool(saved) and writes_hp_metric(logger)
        if together:
            write_tensorboard_hparams(logger, saved, hyperparameters, results)
        run = EnergyRun(folder, self._warn, {} if together else hyperparameters)
        self.runs.append(run)
        if hyperparameters and not together:
            self._rows.append(run)
