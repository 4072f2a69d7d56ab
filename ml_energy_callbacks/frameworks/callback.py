"""Base class of the callbacks of all frameworks: options, one meter, step logs, forecasts, samples of a batch, the record."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ml_energy_callbacks.carbon import CarbonIntensity
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.control import Forecaster, Spent
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.batch_size import infer_batch_size
from ml_energy_callbacks.frameworks.guard import guarded
from ml_energy_callbacks.frameworks.options import CallbackOptions
from ml_energy_callbacks.meter.batches import whole_number
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.meter.options import FIGURES, takes
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.meter.unforeseen import pass_users_error
from ml_energy_callbacks.metrics import JOULES_PER_KWH, STEP_SUFFIX, forecast_metrics, is_core
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.utf8 import text_in_utf8
from ml_energy_callbacks.safe_text import describe

if TYPE_CHECKING:
    from ml_energy_callbacks.inference.layers.results import LayerProfile
    from ml_energy_callbacks.inference.layers.timer import LayerTimer
    from ml_energy_callbacks.job.job import Gather


_Callback = TypeVar("_Callback", bound="MeteredCallback")


class MeteredCallback:
    """A callback with a meter; a copy, pickled or not, has the same options and a new meter.

    A framework's callback sets the attributes of one run in :meth:`_reset`.
    """

    @takes(CallbackOptions)
    def __init__(self, options: CallbackOptions) -> None:
        """Check the options; hardware is not touched before a loop starts."""
        self._options = options
        self._reset()

    def _reset(self) -> None:
        self._meter = EnergyMeter(**self._options.of_meter)
        self._forecaster: Forecaster | None = None
        self._gather: Gather | None = None
        self._resumed: RunRecord | None = None
        self._step_point: Point | None = None
        self._monitored: Sequence[str] = ()  # metrics by which other callbacks of the training decide
        self._samples_shared = False  # whether several processes work on the same samples
        self._count_fn = self._options.count_fn  # None once it has failed
        self._layer_timer: LayerTimer | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the options alone: a meter cannot be pickled."""
        return {"_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the options, and make a new meter."""
        self.__dict__.update(state)
        self._reset()

    def _repr_html_(self) -> str | None:
        return self._meter._repr_html_()

    @property
    def record(self) -> RunRecord:
        """The run's record as of now; of a loop that ended by an exception, once the record is written.

        Raises:
            ConfigurationError: Nothing has been measured yet.
        """
        self._meter.wait_for_stop()
        return self._meter.record

    @property
    def record_path(self) -> Path | str | None:
        """Path or URL of the record; None if it is not written."""
        return self._meter.record_path

    @property
    def layers(self) -> "LayerProfile | None":
        """Mean times of the layers in the last training's timed steps so far, and their energy, which is divided by time.

        None without ``layers_every_n_steps``, and where a compiler or another backend than torch leaves no layers.
        """
        return None if self._layer_timer is None else self._layer_timer.profile(self.record)

    @property
    def meter(self) -> EnergyMeter:
        """The callback's meter; a copy of the callback has another one."""
        return self._meter

    @property
    def resumed(self) -> RunRecord | None:
        """The record in the checkpoint from which the training resumes, possibly of this run itself; None for a new one."""
        return self._resumed

    def _resume(self, record: RunRecord | None) -> None:
        """Add to the totals of a checkpoint's record; None for a training that does not resume."""
        self._resumed = record
        if record is not None:
            self._meter.resume(record)

    @property
    def in_job(self) -> bool:
        """Whether this is one of several processes of a job, which can exchange data."""
        return self._gather is not None

    def agree(self, reason: str | None) -> str | None:
        """Return the reason to stop of the first process of the job that has one, or None; all processes have to call this.

        Args:
            reason: This process's own reason, or None.
        """
        if self._gather is None:
            return reason
        try:
            return next((found for found in self._gather(reason) if found is not None), None)
        except Exception as error:  # noqa: BLE001 - any error of the communication: training continues
            pass_users_error(error)
            self._gather = None
            self._meter.warn(f"The processes of the job can no longer agree on when to stop ({error!r}).")
            return reason

    @guarded
    def _time_layers(self, module: Any, no_layers: str | None = None) -> None:  # noqa: ANN401 - a torch module
        """Prepare to time the layers of a training, if the option says so.

        Args:
            module: The model, on its device.
            no_layers: Why it has no layers, if that is known.
        """
        self._layer_timer = None
        every = self._options.layers_every_n_steps
        if every is None:
            return
        from ml_energy_callbacks.inference.layers.timer import LayerTimer  # noqa: PLC0415 - for this option alone

        try:
            self._layer_timer = None if no_layers else LayerTimer(module, every_n_steps=every)
        except ConfigurationError as error:  # the training goes on without
            no_layers = str(error)
        if no_layers is not None:
            self._meter.warn(f"layers_every_n_steps has no effect. {no_layers}")

    def _cancel_layers(self) -> None:
        """Leave out a timed step that an exception ended."""
        if self._layer_timer is not None:
            self._layer_timer.cancel_step()

    @property
    def _hyperparameters(self) -> dict[str, float | str]:
        """The options that affect the figures and that the user chose, for trackers that compare runs."""
        options = {each.name: getattr(self._options, each.name) for each in fields(self._options) if each.metadata.get(FIGURES)}
        chosen = {each.name for each in fields(self._options) if _differs(options.get(each.name), each.default)}
        if "electricity_price" in chosen:
            chosen.add("currency")
        else:
            chosen.discard("currency")
        return {f"energy/{name}": _plain(value) for name, value in options.items() if name in chosen}

    def _logged(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return those of the metrics that are logged, by the option ``metrics``."""
        every = self._options.metrics == "all"
        return {name: value for name, value in metrics.items() if every or is_core(name) or name in self._monitored}

    def _begin_training(self) -> None:
        """Clear the forecast and the early end of an earlier training."""
        self._meter.end_early(None)
        self._meter.forecast = None
        self._forecaster = None

    def _steps_between_logs(self, default: int, *, several: bool) -> int:
        """Return the number of training steps between two step logs; 0 for no step logs.

        In a job of several processes there are none, as the processes exchange their figures only at the ends of epochs.

        Args:
            default: The framework's own setting.
            several: Whether the job has several processes.
        """
        if several:
            return 0
        return default if self._options.log_every_n_steps is None else self._options.log_every_n_steps

    def _begin_steps(self) -> None:
        """Begin the window of the next step log."""
        self._step_point = self._meter.point()

    def _close_steps(self) -> dict[str, float]:
        """Return the metrics of the training steps since the last call, and the running totals; the next window begins."""
        point = self._meter.point()
        metrics = self._meter.metrics("train", self._step_point, point, suffix=STEP_SUFFIX)
        self._step_point = point
        return {**metrics, **self._meter.totals(point)}

    def _forecast(
        self, began: tuple[float, int, Point], ended: tuple[float, int, Point], validations: int = 0
    ) -> dict[str, float]:
        """Return the metrics of the forecast of the whole training, after an epoch.

        Args:
            began: State at the start of the epoch: the share of the training that was done, the number of validations so far
                that do not run in every epoch, and the point.
            ended: The same at its end.
            validations: The number of such validations still to come.
        """
        apart = ended[1] + validations > 0
        if self._forecaster is None:
            start = self._spent_until(*began, apart=apart)
            self._forecaster = None if start is None else Forecaster(start)
        spent = self._spent_until(*ended, apart=apart)
        if self._forecaster is None or spent is None:
            return {}
        found = self._forecaster.forecast_after(spent, datetime.now().astimezone(), validations)
        if found is None:
            return {}
        self._meter.update_forecast(found)
        return forecast_metrics(
            kwh=found.kwh,
            kwh_low=found.kwh_low,
            kwh_high=found.kwh_high,
            co2e_grams=found.co2e_grams,
            cost=found.cost,
            currency=self._meter.currency or "",
            seconds_left=found.seconds_left,
        )

    @guarded
    def _end_training(self, *, finished: bool) -> None:
        """Record the error of the forecast if the training reached its planned end."""
        if not finished:
            return
        self._meter.end_early(None)
        found, kwh = self._meter.forecast, self._meter.sums().kwh
        if found is not None and found.error is None and kwh:
            found.error = found.kwh / kwh - 1

    def _spent_until(self, done: float, validations: int, point: Point, *, apart: bool) -> Spent | None:
        """Return the energy, time, emissions and cost up to a point; None if the energy is unknown.

        Args:
            done: Share of the training that was done.
            validations: Number of validations so far that do not run in every epoch.
            point: The point.
            apart: Whether validations are listed apart, as they do not run in every epoch.
        """
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

    def _count_samples(self, batch: Any, expected: int | None, *, last: bool) -> int | None:  # noqa: ANN401 - as the user's
        """Return the number of samples in a batch; None, with a warning, if it is unknown.

        Args:
            batch: The batch.
            expected: Batch size of the data loader, or None if it is unknown.
            last: Whether this is the last batch, which may be smaller.
        """
        if self._samples_shared:
            self._meter.warn("J/sample is unknown, as several processes work on the same samples.")
            return None
        if self._options.batch_size_fn is not None:
            return self._call_batch_size_fn(self._options.batch_size_fn, batch)
        samples = infer_batch_size(batch, expected, last=last)
        if samples is None:
            self._meter.warn(
                "J/sample is unknown, as the batch size cannot be inferred from the shapes of a batch's arrays: "
                "give EnergyCallback a batch_size_fn."
            )
        return samples

    def _count_tokens(self, batch: Any) -> int | None:  # noqa: ANN401 - as above
        """Return the number of tokens in a batch by the user's function; None if there is none.

        Where it fails, it is not called again: the tokens are unknown from then on, with one warning.
        """
        count_fn = self._count_fn
        if count_fn is None:
            return None
        if self._samples_shared:
            self._meter.warn("J/token is unknown, as several processes work on the same samples.")
            return None
        try:
            found = count_fn(batch)
            tokens = whole_number(found)
            reason = None if tokens is not None else f"returned {describe(found)}, which is not a number of tokens"
        except Exception as error:  # noqa: BLE001 - the user's function: training continues
            pass_users_error(error)
            tokens, reason = None, f"failed ({describe(error)})"
        if reason is not None:
            self._count_fn = None
            self._meter.warn(f"J/token is unknown, as count_fn {reason}.")
        return tokens

    def _call_batch_size_fn(self, batch_size_fn: Callable[[Any], int], batch: Any) -> int | None:  # noqa: ANN401 - as above
        """Return the number of samples that the user's function returns; None, with a warning, if it fails."""
        try:
            return int(batch_size_fn(batch))
        except Exception as error:  # noqa: BLE001 - the user's function: training continues
            pass_users_error(error)
            self._meter.warn(f"J/sample is unknown, as batch_size_fn failed ({error!r}).")
            return None


def refuse_second(callbacks: Iterable[object]) -> None:
    """Refuse a list of callbacks with two EnergyCallbacks.

    Raises:
        ConfigurationError: It has two.
    """
    if sum(isinstance(callback, MeteredCallback) for callback in callbacks) > 1:
        msg = "The callbacks include two EnergyCallbacks, which would both measure everything: remove one."
        raise ConfigurationError(msg)


def monitored(callbacks: Iterable[object]) -> list[str]:
    """Return the names of the metrics that callbacks monitor, each once."""
    names = [getattr(callback, "monitor", None) for callback in callbacks]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def find_energy_callback(callbacks: Iterable[object], kind: type[_Callback], owner: str) -> _Callback:
    """Return the EnergyCallback in a list of callbacks.

    Args:
        callbacks: The list.
        kind: The framework's class of it.
        owner: Name of the callback that requires it.

    Raises:
        ConfigurationError: There is none.
    """
    for callback in callbacks:
        if isinstance(callback, kind):
            return callback
    msg = f"{owner} requires an EnergyCallback: add one before it in the list of callbacks."
    raise ConfigurationError(msg)


def _differs(option: Any, default: Any) -> bool:  # noqa: ANN401 - options are of many types
    """Return whether an option has another value than its default one; arrays and other odd values differ from any."""
    return option is not default and not (type(option) in {str, int, float} and option == default)


def _plain(option: Any) -> float | str:  # noqa: ANN401 - options are of many types
    """Return an option as a number or a text; for an object of another class, the name of its class."""
    if isinstance(option, str):
        return text_in_utf8(option)
    if isinstance(option, Real | Decimal):  # such as numpy's
        return float(option)
    if isinstance(option, CarbonIntensity):
        return option.g_per_kwh
    if isinstance(option, os.PathLike):
        return text_in_utf8(os.fsdecode(option))
    if isinstance(option, Mapping):
        return str(dict(option))
    return ", ".join(option) if isinstance(option, Sequence) else type(option).__name__
