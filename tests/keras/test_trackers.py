"""Trackers' own callbacks for Keras have our keys beside the loss, and TensorBoard's table of runs has a row of ours."""

import warnings
from pathlib import Path
from typing import Any

import keras
import pytest
import trackers
from frameworks.keras_loops import arrays, net, on_one_backend
from loads import steady

from ml_energy_callbacks.keras import EnergyCallback

EPOCHS = 3

only_with_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="wandb's callback needs it, and the keys are the same on each"
)


def fit(energy: EnergyCallback, *others: Any) -> None:
    x, y = arrays(100)
    net().fit(x, y, epochs=EPOCHS, batch_size=10, validation_data=(x, y), callbacks=[energy, *others], verbose=0)


def epochs(energy: EnergyCallback, stage: str) -> list[Any]:
    return [epoch.joules for epoch in energy.record.epochs if epoch.stage == stage]


@only_with_tensorflow
def test_weights_and_biases_has_our_keys_beside_the_loss(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        import wandb  # noqa: PLC0415 - not every test environment has it
        from wandb.integration.keras import WandbMetricsLogger  # noqa: PLC0415 - as above

        energy = EnergyCallback(backends=[steady(100)], verbose=False, location="FRA", metrics="all")
        with wandb.init(project="mine", dir=tmp_path, mode="offline"):
            fit(energy, WandbMetricsLogger())
    run = trackers.read_wandb(tmp_path)
    for stage in ("train", "validate"):
        series = run.series(f"epoch/energy/{stage}/joules", "epoch/epoch")
        assert series == [(index, pytest.approx(joules)) for index, joules in enumerate(epochs(energy, stage))]
    assert [step for step, _ in run.series("epoch/loss", "epoch/epoch")] == list(range(EPOCHS))
    assert run.summary["epoch/energy/total/joules"] == pytest.approx(energy.record.total.joules, rel=0.3)


@only_with_tensorflow
@pytest.mark.parametrize("automatic", [False, True])
def test_mlflow_has_our_keys_beside_the_loss(automatic: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    with warnings.catch_warnings(action="ignore"):
        import mlflow.tensorflow  # noqa: PLC0415 - not every test environment has it
        from mlflow.keras import MlflowCallback  # noqa: PLC0415 - as above

        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("mine", artifact_location=(tmp_path / "files").as_uri()))
        energy = EnergyCallback(verbose=False, location="FRA", metrics="all")
        mlflow.tensorflow.autolog(disable=not automatic, log_models=False, checkpoint=False)
        try:
            with mlflow.start_run() as run:
                fit(energy, *([] if automatic else [MlflowCallback()]))
        finally:
            mlflow.tensorflow.autolog(disable=True)
        mlflow.flush_async_logging()
        history = mlflow.MlflowClient().get_metric_history
        for stage in ("train", "validate"):
            series = [(found.step, found.value) for found in history(run.info.run_id, f"energy/{stage}/joules")]
            assert series == [(index, pytest.approx(joules)) for index, joules in enumerate(epochs(energy, stage))]
        assert [found.step for found in history(run.info.run_id, "loss")] == list(range(EPOCHS))


@on_one_backend
def test_tensorboards_table_of_runs_has_the_options_and_the_whole_runs_energy(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False, location="FRA", pue=1.2, output_dir=tmp_path)
    fit(energy)
    (row,) = trackers.read_hparams(tmp_path)
    assert row.run == "energy"
    assert row.hyperparameters["energy/location"] == "FRA"
    assert row.hyperparameters["energy/pue"] == 1.2
    total = energy.record.total
    for name, value in (("kwh", total.kwh), ("co2e_grams", total.co2e_grams)):
        assert row.metrics[f"energy/total/{name}"] == pytest.approx(value, rel=1e-6)
