"""What is the Trainer's own about budgets and early stopping: steps, evaluations, checkpoints and the order of callbacks."""

import time
from pathlib import Path
from typing import Any

import pytest
from frameworks.equality import plain
from msgspec.structs import replace
from trainer_models import AroundBatch, Sentences, paced, trainer
from transformers import TrainerCallback, set_seed

from ml_energy_callbacks import load_record
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.transformers import EnergyBudget, EnergyCallback, EnergyEarlyStopping

WATTS = 360.0
STEP_S = 0.02
STEPS = 10  # of an epoch
KWH = 3.6e6


@pytest.fixture(autouse=True)
def _steady(driver_library: SimulatedDriver) -> Any:
    """A GPU of constant power."""
    driver_library.start(period_s=STEP_S, watts=WATTS)
    yield
    driver_library.end()


def energy_callback(**options: Any) -> EnergyCallback:
    return EnergyCallback(verbose=False, backends=[NvmlBackend()], **options)


def weights_of_steps(folder: Path, callbacks: list[Any]) -> list[Any]:
    """Train from a seed, and return the weights after each step; the last ones are those of the trained model."""
    found: list[Any] = []

    def work(_: int) -> None:
        time.sleep(STEP_S)

    set_seed(1)
    around = AroundBatch(inside=work, after=lambda _: found.append(plain(t.model.state_dict())))
    t = trainer(folder, [*callbacks, around], num_train_epochs=5, validation=5)
    t.train()
    assert plain(t.model.state_dict()) == found[-1]
    return found


def test_weights_up_to_the_stop_are_those_without_it_in_any_order(tmp_path: Path) -> None:
    alone = weights_of_steps(tmp_path / "alone", [])
    for first in (True, False):
        energy, budget = energy_callback(), EnergyBudget(kwh=200 / KWH)
        stopped = weights_of_steps(tmp_path / f"{first}", [budget, energy] if first else [energy, budget])
        assert energy.record.run.status == "stopped"
        assert 1 < len(stopped) < len(alone)
        assert stopped == alone[: len(stopped)]


def test_a_stop_evaluates_and_saves_once_and_training_resumes_there(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 999,
        "eval_strategy": "steps",
        "eval_steps": 999,
        "validation": 5,
        "num_train_epochs": 6,
    }
    energy = energy_callback()
    t = trainer(tmp_path, [energy, EnergyBudget(kwh=150 / KWH), paced(STEP_S)], **options)
    t.train()
    step = t.state.global_step
    assert 0 < step < 6 * STEPS
    assert [entry["step"] for entry in t.state.log_history if "eval_loss" in entry] == [step]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    saved = load_record(tmp_path / f"checkpoint-{step}")
    assert saved.stages["train"].batches == step
    again = energy_callback()
    t = trainer(tmp_path, [again, EnergyBudget(kwh=1), paced(STEP_S)], **options)
    t.train(resume_from_checkpoint=True)
    assert t.state.global_step == again.record.stages["train"].batches == 6 * STEPS
    assert again.record.run.status == "completed"
    assert (again.record.total.joules or 0) > (energy.record.total.joules or 0)


def test_one_of_several_evaluation_sets_is_checked_after_each_evaluation(tmp_path: Path) -> None:
    energy = energy_callback()
    stopping = EnergyEarlyStopping("eval_b_loss", min_gain_per_kwh=1e12, patience=2)
    t = trainer(tmp_path, [stopping, energy, paced(STEP_S)], validation=5, eval_strategy="steps", eval_steps=4)
    t.eval_dataset = {"a": Sentences(5), "b": Sentences(5)}
    t.train()
    assert t.state.global_step == 3 * 4
    record = energy.record
    assert record.run.reason is not None
    assert record.run.reason.startswith("eval_b_loss gained less than 1e+12 per kWh since its best")
    assert record.run.reason in record.warnings
    assert not any("finds no metric" in warning for warning in record.warnings)
    (best, *_) = [entry["eval_b_loss"] for entry in t.state.log_history if "eval_b_loss" in entry]
    assert record.early_stopping is not None
    assert record.early_stopping.best == best
    t.evaluate()  # outside a training nothing is checked
    assert energy.record.early_stopping == record.early_stopping


def test_a_loss_that_is_logged_after_each_epoch_is_checked_with_its_own_epoch(tmp_path: Path) -> None:
    energy = energy_callback()
    stopping = EnergyEarlyStopping("loss", min_gain_per_kwh=1e12)
    t = trainer(tmp_path, [energy, stopping, paced(STEP_S)], num_train_epochs=6, logging_strategy="epoch")
    t.train()
    assert t.state.global_step == 2 * STEPS
    assert energy.record.early_stopping is not None
    assert energy.record.early_stopping.best == t.state.log_history[0]["loss"]


def test_a_metric_of_energy_that_is_not_core_can_be_monitored(tmp_path: Path) -> None:
    energy = energy_callback()
    stopping = EnergyEarlyStopping("energy/train/joules", min_gain_per_kwh=1e12)
    t = trainer(tmp_path, [energy, stopping, paced(STEP_S)], num_train_epochs=6)
    t.train()
    assert t.state.global_step == 2 * STEPS


def test_an_evaluation_that_never_comes_is_told(tmp_path: Path) -> None:
    energy = energy_callback()
    trainer(tmp_path, [energy, EnergyEarlyStopping(min_gain_per_kwh=1)]).train()
    assert energy.record.run.status == "completed"
    assert any("finds no metric 'eval_loss', so it never stops" in warning for warning in energy.record.warnings)


def test_a_metric_that_is_no_number_is_told_and_training_goes_on(tmp_path: Path) -> None:
    class Named(TrainerCallback):
        def on_evaluate(self, *_: Any, metrics: dict[str, Any], **__: Any) -> None:
            metrics["eval_loss"] = "low"

    energy = energy_callback()
    stopping = EnergyEarlyStopping(min_gain_per_kwh=1e12)
    trainer(tmp_path, [Named(), energy, stopping], validation=5, eval_strategy="epoch", num_train_epochs=3).train()
    told = "EnergyEarlyStopping ignores 'eval_loss', as its value is no number but of type str."
    assert (energy.record.run.status, energy.record.warnings.count(told)) == ("completed", 1)
    assert not any("unexpected error" in warning for warning in energy.record.warnings)


def test_early_stopping_goes_on_where_a_checkpoint_left_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "validation": 5, "num_train_epochs": 9}
    first = energy_callback()
    around = AroundBatch(after=lambda step: time.sleep(STEP_S) if step != 3 * STEPS else _interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, [first, EnergyEarlyStopping(min_gain_per_kwh=1e12, patience=4), around], **options).train()
    assert first.record.early_stopping is not None
    again = energy_callback()
    t = trainer(tmp_path, [EnergyEarlyStopping(min_gain_per_kwh=1e12, patience=4), again, paced(STEP_S)], **options)
    t.train(resume_from_checkpoint=True)
    assert t.state.global_step == 5 * STEPS  # one check was the best, and four in a row gained too little
    assert again.record.early_stopping == replace(first.record.early_stopping, waited=4)


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_an_evaluation_alone_needs_no_energy_callback(tmp_path: Path) -> None:
    found = trainer(tmp_path, [EnergyBudget(kwh=1), EnergyEarlyStopping(min_gain_per_kwh=1)], validation=5).evaluate()
    assert "eval_loss" in found
