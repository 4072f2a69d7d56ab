"""What the callbacks of all frameworks share: options that survive a copy, one meter, the run's record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter import EnergyMeter
from ml_energy_callbacks.records import RunRecord


class MeteredCallback:
    """A callback with a meter; a copy or a pickle of it starts afresh with the same options.

    A framework's callback passes its options on, and keeps what belongs to one run in :meth:`_reset`.
    """

    def _configure(
        self,
        *,
        batch_size_fn: Any,  # noqa: ANN401 - the user's, checked here
        log_every_n_steps: int | None,
        verbose: bool,
        **options: Any,  # noqa: ANN401 - the meter checks them
    ) -> None:
        if log_every_n_steps is not None and log_every_n_steps < 0:
            msg = f"log_every_n_steps is {log_every_n_steps}; give a number of steps, 0 for none, or leave it out."
            raise ConfigurationError(msg)
        if batch_size_fn is not None and not callable(batch_size_fn):
            msg = f"batch_size_fn is {batch_size_fn!r}; give a function of a batch that returns its number of samples."
            raise ConfigurationError(msg)
        self._options = {**options, "verbose": verbose}
        self._batch_size_fn: Callable[[Any], int] | None = batch_size_fn
        self._log_every_n_steps = log_every_n_steps
        self._verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self._meter = EnergyMeter(**self._options)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what does not survive a pickle or a fork."""
        return {name: getattr(self, name) for name in ("_options", "_batch_size_fn", "_log_every_n_steps", "_verbose")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start afresh with the same options."""
        self.__dict__.update(state)
        self._reset()

    @property
    def record(self) -> RunRecord:
        """The run's record as of now.

        Raises:
            ConfigurationError: Nothing was measured yet (in a job of several processes only rank 0 measures).
        """
        return self._meter.record

    @property
    def record_path(self) -> Path | None:
        """Where the record is written, or None where it is not."""
        return self._meter.record_path

    def _ask(self, batch_size_fn: Callable[[Any], int], batch: Any) -> int | None:  # noqa: ANN401
        """Return the user's number of samples of a batch, or None where the user's function fails."""
        try:
            return int(batch_size_fn(batch))
        except Exception as error:  # noqa: BLE001 - the user's function; training goes on
            self._meter.warn(f"batch_size_fn failed ({error!r}), so that energy per sample is unknown.")
            return None
