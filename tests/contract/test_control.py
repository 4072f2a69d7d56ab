"""Budgets, early stopping by energy and forecasts through real fits of each framework, on a device of constant power."""

import copy
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest
from loads import PulseCounter, Pulses, steady

from ml_energy_callbacks import RunRecord, load_record
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.testing import ScriptedBackend

framework = frameworks.load()
EnergyBudget, EnergyEarlyStopping = framework.EnergyBudget, framework.EnergyEarlyStopping

WATTS = 360.0
BATCH_S = 0.02
BATCHES = 10  # of an epoch
KWH = 3.6e6


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the framework compile what it runs: on a busy machine that takes longer, and more energy, than whole trainings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the frameworks' own
        framework.Loops(tmp_path_factory.mktemp("compiled")).fit([], epochs=1, on_batch=lambda _: None, validation=10)


def energy_callback(folder: Path, **options: Any) -> Any:
    defaults = {"verbose": False, "backends": [steady(WATTS)], **framework.record_folder(folder)}
    return framework.EnergyCallback(**{**defaults, **options})


def work(_: int) -> None:
    time.sleep(BATCH_S)


class Pulsed:
    """A device that draws power in the batches of training alone: each takes as much, however late a busy machine ends it.

    At the end of each epoch it waits until the counter has been read, in the time between batches, which draws next to nothing.
    """

    def __init__(self) -> None:
        self.pulses = Pulses(WATTS)
        self.counter = PulseCounter(self.pulses)
        self.batches = 0
        self.options: dict[str, Any] = {"on_batch": self.work, "after_batch": self.rest}

    def callback(self, folder: Path, **options: Any) -> Any:
        return energy_callback(folder, backends=[ScriptedBackend([self.counter])], **options)

    def work(self, _: int) -> None:
        self.pulses.work(BATCH_S)
        self.batches += 1

    def work_until_power_cut(self, batches: int) -> Callable[[int], None]:
        """Return what takes part in so many batches, and ends the training in the next one."""

        def work(index: int) -> None:
            if self.batches == batches:
                message = "power cut"
                raise RuntimeError(message)
            self.work(index)

        return work

    def rest(self, _: int) -> None:
        if self.batches % BATCHES == 0:
            self.counter.wait_for_a_reading()


def fit(
    folder: Path, callbacks: list[Any], *, epochs: int, on_batch: Callable[[int], None] = work, **options: Any
) -> RunRecord:
    framework.Loops(folder).fit(callbacks, epochs=epochs, on_batch=on_batch, **options)
    return callbacks[0].record


def test_a_budget_stops_the_training_at_the_end_of_a_batch(tmp_path: Path) -> None:
    energy, joules = energy_callback(tmp_path), 1080.0
    used: list[float] = []
    record = fit(
        tmp_path,
        [energy, EnergyBudget(kwh=joules / KWH)],
        epochs=40,
        after_batch=lambda _: used.append(energy.meter.totals()["energy/total/joules"]),
    )
    assert (record.run.status, record.run.reason) == ("stopped", "The budget of 3.0e-4 kWh is spent.")
    assert record.stages["train"].batches == len(used) < 40 * BATCHES
    # It is looked at every 50 ms, and a batch goes on to its end.
    assert used[-1] >= joules
    assert all(value < joules for value in used[: -1 - round(0.2 / BATCH_S)])
    assert record.total.joules > 0.98 * used[-1]
    assert "80 % of the budget of 3.0e-4 kWh is spent." in record.warnings
    assert sum(epoch.stage == "train" for epoch in record.epochs) == -(-len(used) // BATCHES)
    assert record.forecast is None or record.forecast.error is None  # it was of a whole training


def test_a_budget_that_only_warns_lets_the_training_go_on(tmp_path: Path) -> None:
    energy = energy_callback(tmp_path, carbon_intensity=100.0)
    record = fit(tmp_path, [energy, EnergyBudget(co2e_grams=60.0 / KWH * 100, action="warn")], epochs=3)
    assert record.run.status == "completed"
    assert record.stages["train"].batches == 3 * BATCHES
    assert any(warning.endswith("is spent. Training continues because of action='warn'.") for warning in record.warnings)


def test_each_limit_is_told_and_one_that_cannot_be_watched_too(tmp_path: Path) -> None:
    energy = energy_callback(tmp_path, electricity_price=0.5)
    record = fit(tmp_path, [energy, EnergyBudget(kwh=30 / KWH, cost=30 / KWH * 0.5, action="warn")], epochs=2)
    assert sum("Training continues" in warning for warning in record.warnings) == 2
    record = fit(tmp_path, [energy_callback(tmp_path, backends=[]), EnergyBudget(kwh=1.0)], epochs=1)
    assert any(warning.startswith("The budget of 1 kWh cannot be checked") for warning in record.warnings)


def test_used_callbacks_can_be_copied(tmp_path: Path) -> None:
    used = [EnergyBudget(kwh=1.0), EnergyEarlyStopping("loss", min_gain_per_kwh=1e-9)]
    fit(tmp_path, [energy_callback(tmp_path), *used], epochs=1, validation=10)
    assert fit(tmp_path, [energy_callback(tmp_path), *map(copy.copy, used)], epochs=1, validation=10).run.status == "completed"


def test_a_budget_of_money_goes_by_the_price(tmp_path: Path) -> None:
    device, joules = Pulsed(), 25 * WATTS * BATCH_S
    energy = device.callback(tmp_path, electricity_price=0.5, currency="EUR")
    record = fit(tmp_path, [EnergyBudget(cost=joules / KWH * 0.5), energy][::-1], epochs=9, **device.options)
    assert record.run.status == "stopped"
    assert BATCHES <= device.batches < 4 * BATCHES  # between two readings it is extrapolated
    assert record.total.cost == pytest.approx(device.batches * WATTS * BATCH_S / KWH * 0.5, rel=0.05)


def test_another_fit_has_its_own_end(tmp_path: Path) -> None:
    energy = energy_callback(tmp_path)
    assert fit(tmp_path, [energy, EnergyBudget(kwh=60 / KWH)], epochs=20).run.status == "stopped"
    record = fit(tmp_path, [energy], epochs=1)
    assert (record.run.status, record.run.reason) == ("completed", None)


def test_numpys_numbers_are_numbers(tmp_path: Path) -> None:
    stopping = EnergyEarlyStopping("loss", min_gain_per_kwh=np.float32(1e12), patience=np.int64(1))
    record = fit(tmp_path, [energy_callback(tmp_path), EnergyBudget(kwh=np.float64(1)), stopping], epochs=9, validation=10)
    assert record.stages["train"].batches == 2 * BATCHES
    assert load_record(tmp_path).early_stopping == record.early_stopping


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, r"EnergyBudget has no limit: give kwh, co2e_grams or cost"),
        ({"kwh": 0}, "EnergyBudget has kwh=0; give a limit above 0"),
        ({"cost": float("nan")}, "EnergyBudget has cost=nan; give a limit above 0"),
        ({"kwh": "1"}, "EnergyBudget has kwh='1'; give a limit above 0"),
        ({"kwh": 1, "action": "halt"}, "action='halt'; use 'stop' or 'warn'"),
    ],
)
def test_an_impossible_budget_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        EnergyBudget(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_gain_per_kwh": 0.0}, "give a gain above 0"),
        ({"min_gain_per_kwh": 1.0, "patience": -1}, "give a number of checks, 0 or more"),
        ({"min_gain_per_kwh": 1.0, "mode": "least"}, "mode='least'; use 'min' or 'max'"),
    ],
)
def test_impossible_early_stopping_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        EnergyEarlyStopping("loss", **options)


@pytest.mark.parametrize("make", [lambda: EnergyBudget(kwh=1), lambda: EnergyEarlyStopping("loss", min_gain_per_kwh=1)])
def test_without_an_energy_callback_nothing_begins(make: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="requires an EnergyCallback: add one before it"):
        framework.Loops(tmp_path).fit([make()])


def test_a_budget_of_money_without_a_price_is_refused_before_training(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(ConfigurationError, match="set the electricity_price of EnergyCallback"):
        fit(tmp_path, [energy_callback(tmp_path), EnergyBudget(cost=1)], epochs=1, after_batch=seen.append)
    assert not seen


def test_early_stopping_ends_a_training_that_gains_too_little(tmp_path: Path) -> None:
    stopping = EnergyEarlyStopping("loss", min_gain_per_kwh=1e12, patience=2)
    device = Pulsed()
    record = fit(tmp_path, [device.callback(tmp_path), stopping], epochs=9, validation=10, **device.options)
    assert record.stages["train"].batches == 3 * BATCHES
    assert record.run.status == "stopped"
    assert record.run.reason is not None
    assert record.run.reason.startswith("loss gained less than 1e+12 per kWh since its best")
    state = record.early_stopping
    assert state is not None
    assert (state.monitor, state.mode, state.waited) == ("loss", "min", 2)
    assert state.best_kwh is not None
    assert 0.1 < state.best_kwh * KWH / record.total.joules < 0.6  # the end of the first of three epochs


def test_a_metric_that_is_not_there_is_told_and_stops_nothing(tmp_path: Path) -> None:
    stopping = EnergyEarlyStopping("val_accuracy", min_gain_per_kwh=1)
    record = fit(tmp_path, [energy_callback(tmp_path), stopping], epochs=2, validation=10)
    assert record.stages["train"].batches == 2 * BATCHES
    assert any("finds no metric 'val_accuracy'" in warning for warning in record.warnings)


def test_an_interrupted_training_goes_on_with_its_budget_and_its_patience(tmp_path: Path) -> None:
    def fail(index: int) -> None:
        work(index)
        if seen and len(seen) == 2 * BATCHES + 3:
            message = "power cut"
            raise RuntimeError(message)

    seen: list[int] = []
    options: dict[str, Any] = {"epochs": 9, "validation": 10, "backup": True, "after_batch": seen.append}
    with pytest.raises(RuntimeError, match="power cut"):
        fit(
            tmp_path,
            [energy_callback(tmp_path), EnergyEarlyStopping("loss", min_gain_per_kwh=1e12, patience=4)],
            on_batch=fail,
            **options,
        )
    assert len(seen) == 2 * BATCHES + 3
    seen.clear()
    # One check was too poor before the cut; three more are to come.
    budget = EnergyBudget(kwh=1.0)
    energy = energy_callback(tmp_path)
    record = fit(tmp_path, [energy, EnergyEarlyStopping("loss", min_gain_per_kwh=1e12, patience=4), budget], **options)
    assert len(seen) == 3 * BATCHES
    assert record.early_stopping is not None
    assert record.early_stopping.waited == 4
    assert record.stages["train"].batches >= 5 * BATCHES
    assert record.run.status == "stopped"


def test_callbacks_that_go_on_in_the_same_process_have_their_patience_and_a_new_training_has_its_own(tmp_path: Path) -> None:
    def fail(index: int) -> None:
        work(index)
        if len(seen) == 2 * BATCHES + 3:
            message = "power cut"
            raise RuntimeError(message)

    seen: list[int] = []
    used = [energy_callback(tmp_path), EnergyEarlyStopping("loss", min_gain_per_kwh=1e12, patience=4)]
    options: dict[str, Any] = {"epochs": 9, "validation": 10, "after_batch": seen.append}
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, used, on_batch=fail, backup=True, **options)
    for epochs in (3, 5):  # one check was too poor before the cut, of four; then there is nothing to go on from
        seen.clear()
        record = fit(tmp_path, used, backup=epochs == 3, **options)
        assert len(seen) == epochs * BATCHES
        assert record.early_stopping is not None
        assert record.early_stopping.waited == 4


def test_a_resumed_training_has_spent_what_it_had_before(tmp_path: Path) -> None:
    device = Pulsed()
    options: dict[str, Any] = {"epochs": 9, "backup": True, "after_batch": device.rest}
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, [device.callback(tmp_path)], on_batch=device.work_until_power_cut(BATCHES + 2), **options)
    device.batches = 0
    budget = EnergyBudget(kwh=(2 * BATCHES + 5) * WATTS * BATCH_S / KWH)
    record = fit(tmp_path, [device.callback(tmp_path), budget], on_batch=device.work, **options)
    assert record.run.status == "stopped"
    assert BATCHES / 2 <= device.batches < 2 * BATCHES  # between two readings it is extrapolated
    assert record.total.joules >= (BATCHES + device.batches) * WATTS * BATCH_S


def test_what_a_training_will_take_is_told_after_its_first_epoch(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    device = Pulsed()
    options: dict[str, Any] = {"electricity_price": 0.5, "currency": "EUR", "carbon_intensity": 100.0, "metrics": "all"}
    callbacks = [device.callback(tmp_path, **options), framework.OnEpoch(seen.append)]
    record = fit(tmp_path, callbacks, epochs=6, validation=10, **device.options)
    forecast = record.forecast
    assert forecast is not None
    assert forecast.after_epochs == 1
    actual = record.total.kwh
    assert forecast.kwh == pytest.approx(actual, rel=0.15)
    assert forecast.error == pytest.approx(forecast.kwh / actual - 1, abs=0.05)
    assert forecast.kwh_low < actual < forecast.kwh_high
    assert forecast.cost == pytest.approx(forecast.kwh * 0.5, rel=1e-6)
    assert forecast.co2e_grams == pytest.approx(forecast.kwh * 100, rel=1e-6)
    assert len(seen) == 6
    assert seen[0]["energy/forecast/kwh"] == pytest.approx(forecast.kwh, rel=1e-5)
    assert seen[0]["energy/forecast/cost_eur"] == pytest.approx(forecast.cost, rel=1e-5)
    assert seen[-1]["energy/forecast/kwh"] == pytest.approx(seen[-1]["energy/total/kwh"], rel=1e-5)
    widths = [each["energy/forecast/kwh_high"] - each["energy/forecast/kwh_low"] for each in seen]
    assert widths[0] > widths[3] > widths[5]


def test_a_resumed_training_is_forecast_with_what_it_had_used_before(tmp_path: Path) -> None:
    device = Pulsed()
    options: dict[str, Any] = {"epochs": 6, "backup": True, "after_batch": device.rest}
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, [device.callback(tmp_path)], on_batch=device.work_until_power_cut(2 * BATCHES + 2), **options)
    device.batches = 0
    record = fit(tmp_path, [device.callback(tmp_path)], on_batch=device.work, **options)
    assert device.batches == 4 * BATCHES
    forecast = record.forecast
    assert forecast is not None
    assert record.total.kwh is not None
    assert forecast.after_epochs == 1  # of this part
    assert forecast.kwh == pytest.approx(record.total.kwh, rel=0.25)
    assert forecast.error == pytest.approx(forecast.kwh / record.total.kwh - 1, abs=0.05)


def test_a_resumed_training_has_what_its_crashed_attempts_used_wherever_their_records_are(tmp_path: Path) -> None:
    def fail(index: int) -> None:
        work(index)
        seen.append(index)
        if len(seen) in {BATCHES + 3, BATCHES + 8}:  # the second attempt goes on from the end of the first epoch
            message = "power cut"
            raise RuntimeError(message)

    seen: list[int] = []
    for attempt in range(2):
        energy = energy_callback(tmp_path, output_dir=tmp_path / "runs" / f"{attempt}")
        with pytest.raises(RuntimeError, match="power cut"):
            fit(tmp_path, [energy], epochs=2, on_batch=fail, backup=True)
        assert energy.record.run.status == "failed"  # it is written by now
    record = fit(
        tmp_path, [energy_callback(tmp_path, output_dir=tmp_path / "runs" / "2")], epochs=2, on_batch=fail, backup=True
    )
    assert len(seen) == BATCHES + 8 + BATCHES
    assert record.run.status == "completed"
    assert len(seen) - 2 <= record.stages["train"].batches <= len(seen)  # the batch of a crash may not have ended
