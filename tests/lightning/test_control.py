"""What is Lightning's own about budgets and forecasts: its checkpoints, and the ends that it knows."""

import copy
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning_models import loader, module, trainer
from loads import IDLE_WATTS, Pulses
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.lightning import EnergyBudget, EnergyCallback, EnergyEarlyStopping
from ml_energy_callbacks.testing import Curve, PowerCurve, ScriptedBackend, ScriptedCounter

WATTS = 360.0
BATCH_S = 0.02
KWH = 3.6e6


WORK = Pulses(WATTS)
STEADY = PowerCurve(monotonic_clock, IDLE_WATTS)


class Steady(Callback):
    """Draw the same power for the whole training, so that by its time it takes as much on a busy machine, in fewer batches."""

    def on_train_start(self, *_: Any) -> None:
        STEADY.set(WATTS)

    def on_train_end(self, *_: Any) -> None:
        STEADY.set(IDLE_WATTS)


class Pace(Callback):
    """Work for some time in each batch of training, and for longer in one of validation."""

    def on_train_batch_start(self, *_: Any) -> None:
        WORK.work(BATCH_S)

    def on_validation_batch_start(self, *_: Any) -> None:
        WORK.work(3 * BATCH_S)


def energy_callback(curve: Curve = WORK) -> EnergyCallback:
    counter = ScriptedCounter(curve, monotonic_clock, period_s=0.02)
    return EnergyCallback(verbose=False, backends=[ScriptedBackend([counter])])


def fit(
    folder: Path,
    *callbacks: Any,
    validation: bool = False,
    resume: str | None = None,
    curve: Curve = WORK,
    **options: Any,
) -> RunRecord:
    energy = energy_callback(curve)
    keeping = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    options = {"max_epochs": 6, "num_sanity_val_steps": 0, "enable_checkpointing": keeping, **options}
    t = trainer(folder, [energy, *callbacks, Pace()], **options)
    t.fit(module(), loader(40, 4), loader(20, 4) if validation else None, ckpt_path=resume)
    return energy.record


def test_a_trainer_that_keeps_no_last_checkpoint_has_one_of_the_budget_and_goes_on_from_it(tmp_path: Path) -> None:
    never = ModelCheckpoint(tmp_path / "kept", every_n_epochs=100)
    record = fit(tmp_path, EnergyBudget(kwh=150 / KWH), never)
    assert record.run.status == "stopped"
    checkpoint = tmp_path / "kept" / "energy-budget.ckpt"
    again = fit(tmp_path, ModelCheckpoint(tmp_path / "kept", every_n_epochs=100), resume=str(checkpoint))
    assert again.run.status == "completed"
    assert again.total.joules > record.total.joules + 5 * WATTS * BATCH_S


def test_the_trainers_own_last_checkpoint_is_enough(tmp_path: Path) -> None:
    fit(tmp_path, EnergyBudget(kwh=150 / KWH), ModelCheckpoint(tmp_path / "kept", save_last=True))
    assert [path.name for path in (tmp_path / "kept").glob("energy-*")] == []
    assert (tmp_path / "kept" / "last.ckpt").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, EnergyBudget(kwh=1e-12), ModelCheckpoint(tmp_path / "kept"), fast_dev_run=True)
    assert not (tmp_path / "kept").exists()


def test_a_training_that_has_to_reach_its_end_is_not_said_to_have_been_stopped(tmp_path: Path) -> None:
    record = fit(tmp_path, EnergyBudget(kwh=20 / KWH), min_epochs=2, max_epochs=2)
    assert (record.run.status, record.run.reason, record.stages["train"].batches) == ("completed", None, 20)
    assert "The budget of 5.6e-6 kWh is spent." in record.warnings


def test_what_stopped_a_training_first_is_its_reason_also_after_a_test(tmp_path: Path) -> None:
    energy = energy_callback()
    callbacks = [energy, EnergyBudget(kwh=100 / KWH), EnergyEarlyStopping("loss", min_gain_per_kwh=1e12, patience=1), Pace()]
    t = trainer(tmp_path, callbacks, max_epochs=9, num_sanity_val_steps=0)
    model = module()
    t.fit(model, loader(40, 4), loader(8, 4))
    t.test(model, loader(8, 4), verbose=False)
    assert (energy.record.run.status, energy.record.run.reason) == ("stopped", "The budget of 2.8e-5 kWh is spent.")


def test_early_stopping_by_a_metric_of_training_goes_by_its_value_of_the_same_epoch(tmp_path: Path) -> None:
    class Cost(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.log("cost", max(1.0, 3.0 - trainer.current_epoch), on_step=False, on_epoch=True)

    record = fit(tmp_path, Cost(), EnergyEarlyStopping("cost", min_gain_per_kwh=1e-9, patience=1), validation=True)
    assert record.stages["train"].batches == 4 * 10  # 3, 2, 1, and 1 again
    assert record.early_stopping is not None
    assert record.early_stopping.best == 1.0
    assert record.early_stopping.best_kwh == pytest.approx(0.75 * record.total.kwh, rel=0.15)
    assert not any("finds no metric" in warning for warning in record.warnings)


def test_validations_now_and_then_and_an_end_by_time_or_steps_are_forecast(tmp_path: Path) -> None:
    now_and_then = fit(tmp_path, validation=True, check_val_every_n_epoch=3)
    assert now_and_then.forecast is not None
    assert now_and_then.forecast.after_epochs == 3
    assert now_and_then.forecast.error == pytest.approx(0, abs=0.2)
    by_steps = fit(tmp_path, max_epochs=-1, max_steps=55)
    assert by_steps.forecast is not None
    assert by_steps.forecast.error == pytest.approx(0, abs=0.2)
    by_time = fit(tmp_path, Steady(), curve=STEADY, max_epochs=500, max_time=timedelta(seconds=2))
    assert by_time.forecast is not None
    assert by_time.forecast.kwh == pytest.approx(by_time.total.kwh, rel=0.4)
    assert by_time.forecast.error == pytest.approx(by_time.forecast.kwh / by_time.total.kwh - 1, abs=0.05)
    assert fit(tmp_path, max_epochs=-1, max_time=timedelta(seconds=0.5)).run.status == "completed"


def test_validations_of_another_training_or_before_a_resume_are_not_those_of_this_one(tmp_path: Path) -> None:
    class PowerCut(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 5:
                message = "power cut"
                raise RuntimeError(message)

    options: dict[str, Any] = {"validation": True, "check_val_every_n_epoch": 2}
    keeper = ModelCheckpoint(tmp_path / "kept", save_last=True)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, keeper, PowerCut(), max_epochs=10, **options)
    checkpoint = str(tmp_path / "kept" / "last.ckpt")
    resumed = fit(tmp_path, ModelCheckpoint(tmp_path / "kept"), max_epochs=10, resume=checkpoint, **options)
    assert resumed.forecast is not None
    assert resumed.forecast.after_epochs == 2  # the first has no validation
    assert resumed.forecast.error == pytest.approx(0, abs=0.1)

    energy, model = energy_callback(), module()
    for _ in range(2):
        t = trainer(tmp_path, [energy, Pace()], max_epochs=6, num_sanity_val_steps=0, check_val_every_n_epoch=2)
        t.fit(model, loader(40, 4), loader(20, 4))
    forecast = energy.record.forecast
    assert forecast is not None
    assert forecast.error == pytest.approx(0, abs=0.1)
    assert forecast.kwh_high - forecast.kwh_low < 0.5 * forecast.kwh


def test_a_device_that_is_first_read_after_an_epoch_has_begun_is_forecast_from_the_next_one_on(tmp_path: Path) -> None:
    counter = ScriptedCounter(WORK, monotonic_clock, period_s=0.02, failing=True)

    class Wake(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            counter.failing = counter.failing and trainer.global_step < 5

    energy = EnergyCallback(verbose=False, backends=[ScriptedBackend([counter])])
    trainer(tmp_path, [energy, Wake(), Pace()], max_epochs=-1, max_steps=60).fit(module(), loader(40, 4))
    assert energy.record.forecast is not None
    assert energy.record.forecast.error == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("make", [lambda: EnergyBudget(kwh=1.0), lambda: EnergyEarlyStopping("loss", min_gain_per_kwh=1.0)])
def test_a_used_callback_can_be_copied_and_pickled(make: Any, tmp_path: Path) -> None:
    used = make()
    fit(tmp_path, used, max_epochs=1, validation=True)
    for other in (copy.deepcopy(used), pickle.loads(pickle.dumps(used))):  # noqa: S301 - our own
        assert fit(tmp_path, other, max_epochs=1, validation=True).run.status == "completed"
