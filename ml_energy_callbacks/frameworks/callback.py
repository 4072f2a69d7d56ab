"""What the callbacks of all frameworks share: options that survive a copy, one meter, the run's record."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.carbon import CarbonIntensity
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.control import Forecaster, Spent
from ml_energy_callbacks.frameworks.options import CallbackOptions
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.meter.options import FIGURES
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.metrics import JOULES_PER_KWH, forecast_metrics
from ml_energy_callbacks.record.schema import RunRecord

if TYPE_CHECKING:
    from ml_energy_callbacks.job.job import Gather


class MeteredCallback(CallbackOptions):
    """A callback with a meter; a copy or a pickle of it starts afresh with the same options.

    A framework's callback keeps what belongs to one run in :meth:`_reset`.
    """

    def __post_init__(self) -> None:
        """Check the options; hardware is not touched before a loop starts."""
        super().__post_init__()
        self._reset()

    def _reset(self) -> None:
        self._meter = EnergyMeter(**self.meter_options)
        self._forecaster: Forecaster | None = None
        self._gather: Gather | None = None
        self._resumed: RunRecord | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what does not survive a pickle or a fork."""
        return {option.name: getattr(self, option.name) for option in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start afresh with the same options."""
        self.__dict__.update(state)
        self._reset()

    @property
    def record(self) -> RunRecord:
        """The run's record as of now.

        Raises:
            ConfigurationError: Nothing was measured yet.
        """
        return self._meter.record

    @property
    def record_path(self) -> Path | str | None:
        """Where the record is written: a path, or a URL where that was named; None where it is not written."""
        return self._meter.record_path

    @property
    def meter(self) -> EnergyMeter:
        """The meter that measures for it; another one after a copy or a pickle."""
        return self._meter

    @property
    def resumed(self) -> RunRecord | None:
        """The record in the checkpoint that the training goes on from, which may be of this very run; None of a new one."""
        return self._resumed

    def _resume(self, record: RunRecord | None) -> None:
        """Go on from the record in a checkpoint; None for a training that begins anew."""
        self._resumed = record
        if record is not None:
            self._meter.resume(record)

    @property
    def in_job(self) -> bool:
        """Whether this process trains beside others of its job that it can ask."""
        return self._gather is not None

    def agree(self, reason: str | None) -> str | None:
        """Return why the job's training has to stop, as the first of its processes says: a collective; None to go on."""
        if self._gather is None:
            return reason
        try:
            return next((found for found in self._gather(reason) if found is not None), None)
        except Exception as error:  # noqa: BLE001 - whatever the communication raises; training goes on
            self._gather = None
            self._meter.warn(f"The job's other processes cannot be asked any more whether to stop ({error!r}).")
            return reason

    @property
    def _hyperparameters(self) -> dict[str, float | str]:
        """The options that the figures go by, for trackers that compare runs; what was not given is absent."""
        options = {option.name: getattr(self, option.name) for option in fields(self) if option.metadata.get(FIGURES)}
        given = {name: value for name, value in options.items() if value is not None}
        if "electricity_price" not in given:
            del given["currency"]
        return {f"energy/{name}": _plain(value) for name, value in given.items()}

    def _begin_training(self) -> None:
        """Take back why another training ended early, and what was expected of it."""
        self._meter.end_early(None)
        self._meter.forecast = None
        self._forecaster = None

    def _forecast(
        self, began: tuple[float, int, Point], ended: tuple[float, int, Point], validations: int = 0
    ) -> dict[str, float]:
        """Return the metrics of what the training is expected to take, after an epoch.

        Args:
            began: Share of the training that had passed when the epoch began, how many validations that are not part of every
                epoch, and the state then.
            ended: The same of its end.
            validations: So many of these validations are to come.
        """
        apart = ended[1] + validations > 0
        if self._forecaster is None:
            start = self._spent(*began, apart=apart)
            self._forecaster = None if start is None else Forecaster(start)
        spent = self._spent(*ended, apart=apart)
        if self._forecaster is None or spent is None:
            return {}
        found = self._forecaster.forecast_after(spent, datetime.now().astimezone(), validations)
        if found is None:
            return {}
        self._meter.forecast = self._meter.forecast or found
        return forecast_metrics(
            kwh=found.kwh,
            kwh_low=found.kwh_low,
            kwh_high=found.kwh_high,
            co2e_grams=found.co2e_grams,
            cost=found.cost,
            currency=self._meter.cost_currency or "",
            seconds_left=found.seconds_left,
        )

    def _end_training(self, *, finished: bool) -> None:
        """Note in the record how far the forecast was off, where the training came to its planned end."""
        if not finished:
            return
        self._meter.end_early(None)
        found, kwh = self._meter.forecast, self._meter.sums().kwh
        if found is not None and found.error is None and kwh:
            found.error = found.kwh / kwh - 1

    def _spent(self, done: float, validations: int, point: Point, *, apart: bool) -> Spent | None:
        """Return what was used up to a point, with validations apart where they are not part of every epoch."""
        sums = self._meter.sums(point)
        if sums.kwh is None:
            return None
        compiling, compiling_s = self._meter.spent(point, phase="compile")
        validating, validating_s = self._meter.spent(point, stage="validate") if apart else (0.0, 0.0)
        return Spent(
            done=done,
            kwh=sums.kwh,
            seconds=point.time_ns / NS_PER_S,
            apart_kwh=(compiling + validating) / JOULES_PER_KWH,
            apart_seconds=compiling_s + validating_s,
            validations=validations,
            validation_kwh=validating / JOULES_PER_KWH,
            validation_seconds=validating_s,
            co2e_grams=sums.co2e_grams,
            cost=sums.cost,
        )

    def _ask(self, batch_size_fn: Callable[[Any], int], batch: Any) -> int | None:  # noqa: ANN401
        """Return the user's number of samples of a batch, or None where the user's function fails."""
        try:
            return int(batch_size_fn(batch))
        except Exception as error:  # noqa: BLE001 - the user's function; training goes on
            self._meter.warn(f"batch_size_fn failed ({error!r}), so that energy per sample is unknown.")
            return None


def _plain(option: Any) -> float | str:  # noqa: ANN401 - options are of many types
    """Return an option as a number or a text; of an object with settings of its own, its class."""
    if isinstance(option, str):
        return option
    if isinstance(option, Real | Decimal):  # such as numpy's
        return float(option)
    if isinstance(option, CarbonIntensity):
        return option.g_per_kwh
    if isinstance(option, os.PathLike):
        return os.fsdecode(option)
    if isinstance(option, Mapping):
        return str(dict(option))
    return ", ".join(option) if isinstance(option, Sequence) else type(option).__name__
