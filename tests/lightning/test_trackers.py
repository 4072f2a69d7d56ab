"""Each logger that people use, read back with its own reader, says what the record says; none of them needs a network."""

import csv
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trackers
import yaml
from forked import Warm
from lightning_models import PACKAGES, loader, module, trainer
from loads import steady
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ml_energy_callbacks import load_record
from ml_energy_callbacks.carbon import CarbonIntensity
from ml_energy_callbacks.carbon.provider import Constant
from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.record.schema import RunRecord

HYPERPARAMETERS = {
    "energy/location": "FRA",
    "energy/electricity_price": 0.25,
    "energy/currency": "EUR",
    "energy/pue": 1.2,
}

TRACKED = pytest.mark.xdist_group("programs")

Series = Callable[[str], list[tuple[int, float]]]


@pytest.fixture(scope="module")
def folder(program: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run with four loggers wrote."""
    folder = tmp_path_factory.mktemp("tracked")
    with trackers.listening_proxy() as (environment, requests):
        done = program.run(Path(__file__).with_name("track.py"), folder, folder=folder, environment=environment)
    assert requests == []
    assert "a connection to" not in done.errors
    assert "a search for" not in done.errors
    return folder


@pytest.fixture(scope="module")
def record(folder: Path) -> RunRecord:
    record = load_record(folder)
    assert record.warnings == []
    assert record.run.status == "completed"
    return record


def tensorboard(folder: Path) -> Series:
    events = EventAccumulator(str(folder / "tb" / "version_0")).Reload()
    return lambda name: [(event.step, event.value) for event in events.Scalars(name)]


def csv_file(folder: Path) -> Series:
    with (folder / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return lambda name: [(int(row["step"]), float(row[name])) for row in rows if row[name]]


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient  # noqa: PLC0415 - the other workers need not import it

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def mlflow(folder: Path) -> Series:
    client, run = mlflow_run(folder)
    return lambda name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def wandb(folder: Path) -> Series:
    return trackers.read_wandb(folder).series


@TRACKED
@pytest.mark.parametrize("reader", [tensorboard, csv_file, mlflow, wandb])
def test_a_logger_holds_the_records_numbers_at_the_steps_of_the_loss(
    reader: Callable[[Path], Series], folder: Path, record: RunRecord
) -> None:
    series = reader(folder)
    for stage in ("train", "validate", "test", "predict"):
        epochs = [epoch.joules for epoch in record.epochs if epoch.stage == stage]
        assert [value for _, value in series(f"energy/{stage}/joules")] == pytest.approx(epochs, rel=1e-5)
    for name in ("joules", "watts", "joules_per_sample", "co2e_grams", "cost_eur"):
        assert [step for step, _ in series(f"energy/train/{name}_step")] == [step for step, _ in series("loss_step")]
        assert [step for step, _ in series(f"energy/train/{name}")] == [step for step, _ in series("loss_epoch")]
        assert [step for step, _ in series(f"energy/validate/{name}")] == [step for step, _ in series("val_loss")]
    for name in ("joules", "kwh", "co2e_grams"):
        assert series(f"energy/total/{name}")[-1][1] == pytest.approx(getattr(record.total, name), rel=1e-6)
    assert series("energy/total/cost_eur")[-1][1] == pytest.approx(record.total.cost, rel=1e-6)


@TRACKED
def test_the_tables_of_runs_show_the_options_and_the_whole_runs_energy(folder: Path, record: RunRecord) -> None:
    total = {"joules": record.total.joules, "kwh": record.total.kwh, "co2e_grams": record.total.co2e_grams}
    totals = {f"energy/total/{name}": value for name, value in total.items()} | {"energy/total/cost_eur": record.total.cost}

    (row,) = trackers.read_hparams(folder)  # one row, which has the user's own, too
    assert row.run == "tb/version_0"
    assert row.hyperparameters == pytest.approx({**HYPERPARAMETERS, "lr": 0.01})
    assert row.metrics.pop("energy/train/joules_per_sample") > 0
    assert row.metrics == pytest.approx({"energy/total/kwh": record.total.kwh, "hp_metric": -1}, rel=1e-6)

    run = mlflow_run(folder)[1]
    assert run.data.params == {name: str(value) for name, value in {**HYPERPARAMETERS, "lr": 0.01}.items()}
    assert {name: run.data.metrics[name] for name in totals} == pytest.approx(totals)
    assert run.info.status == "FINISHED"

    found = trackers.read_wandb(folder)
    assert {name: value for name, value in found.config.items() if name != "_wandb"} == {**HYPERPARAMETERS, "lr": 0.01}
    assert {name: found.summary[name] for name in totals} == pytest.approx(totals)

    assert yaml.safe_load((folder / "csv" / "version_0" / "hparams.yaml").read_text()) == {**HYPERPARAMETERS, "lr": 0.01}
    # What a checkpoint's model is made of again stays the user's own.
    assert yaml.safe_load((folder / "tb" / "version_0" / "hparams.yaml").read_text()) == {"lr": 0.01}


@pytest.mark.parametrize("package", [PACKAGES[0], pytest.param(PACKAGES[1], marks=pytest.mark.full)])
def test_what_the_user_tells_tensorboard_is_shown_as_it_is(package: str, tmp_path: Path) -> None:
    loggers = __import__(f"{package}.loggers", fromlist=["TensorBoardLogger"])
    logger = loggers.TensorBoardLogger(tmp_path, name="tb")
    energy = EnergyCallback(verbose=False, location="FRA", carbon_intensity=50)
    trainer(tmp_path, [energy], package, logger=logger).fit(module(package), loader())
    (row,) = trackers.read_hparams(tmp_path)
    assert row.run == "tb/version_0/energy"
    assert row.hyperparameters["energy/carbon_intensity"] == 50
    assert row.metrics.pop("energy/train/joules_per_sample") > 0
    assert row.metrics == pytest.approx({"energy/total/kwh": energy.record.total.kwh}, rel=1e-6)

    logger.log_hyperparams({"mine": 3}, {"accuracy": 0.5})
    logger.finalize("success")
    rows = {row.run: row for row in trackers.read_hparams(tmp_path)}
    assert rows["tb/version_0"] == ("tb/version_0", {"mine": 3}, {"accuracy": 0.5})


def test_each_option_is_told_as_a_number_or_a_text(tmp_path: Path) -> None:
    (tmp_path / "series.csv").write_text("time,g_per_kwh\n2020-01-01T00:00:00Z,50\n2100-01-01T00:00:00Z,50\n", encoding="utf-8")
    cases: list[tuple[dict[str, Any], dict[str, float | str]]] = [
        ({"carbon_intensity": CarbonIntensity(40, "here", "me", 2026)}, {"energy/carbon_intensity": 40.0}),
        ({"carbon_intensity": tmp_path / "series.csv"}, {"energy/carbon_intensity": str(tmp_path / "series.csv")}),
        ({"carbon_intensity": Constant(CarbonIntensity(40, "here", "me", 2026))}, {"energy/carbon_intensity": "Constant"}),
        ({"pue": np.float32(1.5)}, {"energy/pue": 1.5}),
        ({"electricity_price": Decimal("0.5")}, {"energy/electricity_price": 0.5, "energy/currency": "USD"}),
        ({"devices": ["cpu-model:*", "rapl:*"]}, {"energy/devices": "cpu-model:*, rapl:*"}),
        (
            {"electricity_price": {"06:00": 0.3, "22:00": 0.2}},
            {"energy/electricity_price": "{'06:00': 0.3, '22:00': 0.2}", "energy/currency": "USD"},
        ),
    ]
    for options, told in cases:
        assert EnergyCallback(**options)._hyperparameters == told
    same = {"devices": "auto", "pue": 1.0, "currency": "EUR", "output_dir": tmp_path}
    assert EnergyCallback(**same)._hyperparameters == {}  # what says the default is no choice


def test_a_run_that_fails_has_its_totals_in_the_logger(tmp_path: Path) -> None:
    model, logger, energy = module(), CSVLogger(tmp_path), EnergyCallback(verbose=False, location="FRA", metrics="all")
    model.on_validation_start = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, [energy], logger=logger, num_sanity_val_steps=0).fit(model, loader(), loader())
    assert energy.record.run.status == "failed"
    with (Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    assert float(last["energy/total/joules"]) == pytest.approx(energy.record.total.joules)


def test_a_logger_that_fails_is_told_of_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(CSVLogger):
        asked = 0

        def log_hyperparams(self, params: Any = None) -> None:
            msg = "no such server\nand much more"
            raise ConnectionError(msg)

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "energy/train/joules_step" in metrics:
                self.asked += 1
                msg = f"no answer at step {step}"
                raise ConnectionError(msg)

    failing, other = Failing(tmp_path, name="failing"), CSVLogger(tmp_path, name="other")
    energy = EnergyCallback(location="FRA", metrics="all")
    trainer(tmp_path, [energy], logger=[failing, other]).fit(module(), loader(200))
    assert energy.record.run.status == "completed"
    assert energy.record.warnings == ["Failing failed when EnergyCallback logged to it (ConnectionError: no such server)."]
    assert caplog.text.count("Failing failed") == 1
    assert failing.asked == 1  # it is not asked again and again
    with (Path(other.log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        assert sum(bool(row["energy/train/joules_step"]) for row in csv.DictReader(file)) == 50


@TRACKED
def test_a_run_of_mlflow_that_goes_on_with_other_options_is_warned_of_and_logged(folder: Path, tmp_path: Path) -> None:
    def fit(pue: float, run_id: str | None = None) -> tuple[MLFlowLogger, EnergyCallback]:
        logger = MLFlowLogger("other", tracking_uri=f"sqlite:///{folder}/mlflow.db", run_id=run_id)
        # A counter, as the logger keeps a busy machine from reading power often enough, which the record would warn of.
        energy = EnergyCallback(backends=[steady(100)], verbose=False, location="FRA", pue=pue, metrics="all")
        trainer(tmp_path, [energy], logger=logger).fit(module(), loader())
        return logger, energy

    with warnings.catch_warnings(action="ignore"):
        logger, first = fit(1.2)
        _, second = fit(1.5, logger.run_id)
        run = logger.experiment.get_run(logger.run_id)
    assert first.record.warnings == []
    (warning,) = second.record.warnings
    assert warning.startswith("MLFlowLogger failed when EnergyCallback logged to it (MlflowException: ")
    assert run.data.params["energy/pue"] == "1.2"
    history = logger.experiment.get_metric_history(logger.run_id, "energy/total/joules")
    assert any(found.value == pytest.approx(second.record.total.joules) for found in history)


def test_tensorboard_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    _ = logger.experiment
    (Path(logger.log_dir) / "energy").write_text("a file where our run would go", encoding="utf-8")
    energy = EnergyCallback(backends=[steady(100)], verbose=False, location="FRA", metrics="all")
    trainer(tmp_path, [energy], logger=logger).fit(module(), loader())
    (warning,) = energy.record.warnings
    assert warning == "TensorBoard's energy run could not be written (File exists)."
    events = EventAccumulator(str(logger.log_dir)).Reload()
    assert "energy/train/joules" in events.Tags()["scalars"]
