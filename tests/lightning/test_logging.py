"""Energy where the user already looks: loggers, monitors, the progress bar, TensorBoard."""

import csv
import importlib.util
import itertools
import json
import signal
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Literal

import pytest
from forked import Forked, Warm
from lateness import Lateness
from lightning_models import loader, module, trainer
from loads import EXTRAPOLATED_S, steady
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from ml_energy_callbacks import load_record
from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.tensorboard.snapshots import decode

WATTS = 100.0
CORE = ("watts", "joules_per_sample")


def run(folder: Path, metrics: Literal["core", "all"] = "all", **options: Any) -> tuple[Any, EnergyCallback]:
    energy = EnergyCallback(backends=[steady(WATTS)], verbose=False, metrics=metrics)
    t, m = trainer(folder, [energy], **options), module()
    t.fit(m, loader(400), loader(40))
    t.test(m, loader(40), verbose=False)
    t.predict(m, loader(40))
    return t, energy


def test_a_root_directory_behind_a_url_takes_the_record(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False)
    root = "memory://bucket/root"
    t = trainer(tmp_path, [energy], default_root_dir=root)
    t.fit(module(), loader(40))
    assert energy.record_path == f"{root}/energy.json"
    assert load_record(root) == energy.record


def test_panels_are_not_written_behind_a_url(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False, output_dir=tmp_path)
    # Where TensorFlow is installed, the real one writes to no file system of fsspec's.
    kind = type("TensorBoardLogger", (DummyLogger,), {"log_dir": "memory://bucket/logs", "save_dir": None})
    t = trainer(tmp_path, [energy], logger=kind())
    t.fit(module(), loader(40))
    told = "TensorBoard's energy panels are not written: memory://bucket/logs is not a local folder."
    assert told in energy.record.warnings
    assert [path.name for path in tmp_path.iterdir()] == ["energy.json"]


def test_tensorboard_and_csv_hold_the_records_numbers(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path, name="tb"), CSVLogger(tmp_path, name="csv")]
    with Lateness() as late:
        _, energy = run(tmp_path, logger=loggers)
    folder = Path(loggers[0].log_dir)
    events = EventAccumulator(str(folder)).Reload()
    tags = set(events.Tags()["scalars"])
    for stage in ("train", "validate", "test", "predict"):
        assert {f"energy/{stage}/joules", f"energy/{stage}/joules_per_sample", f"energy/{stage}/watts"} <= tags
    assert {"energy/train/joules_step", "energy/total/kwh", "energy/total/co2e_grams"} <= tags
    assert {"energy/total/relative_uncertainty", "energy/total/measured_share"} <= tags
    logged = {
        stage: [event.value for event in events.Scalars(f"energy/{stage}/joules")]
        for stage in ("train", "validate", "test", "predict")
    }
    for stage, values in logged.items():
        epochs = [epoch.joules for epoch in energy.record.epochs if epoch.stage == stage]
        assert values == pytest.approx(epochs, rel=1e-5)
    totals = [event.value for event in events.Scalars("energy/total/joules")]
    assert totals[0] > 0
    # What was extrapolated, by powers of which little is known at first, may be corrected by the next readings.
    fall = max(earlier - later for earlier, later in itertools.pairwise(totals))
    assert fall < WATTS * (EXTRAPOLATED_S + late.seconds)
    assert energy.record_path == folder / "energy.json"

    with (Path(loggers[1].log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = [float(row["energy/train/joules"]) for row in rows if row.get("energy/train/joules")]
    assert values == pytest.approx(logged["train"], rel=1e-5)
    assert any(row.get("energy/predict/joules_per_sample") for row in rows)


def test_energy_can_be_monitored(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False)
    stopping = EarlyStopping("energy/total/joules", patience=2, mode="min", check_on_train_epoch_end=True)
    keeping = ModelCheckpoint(tmp_path / "kept", monitor="energy/validate/joules_per_sample", filename="best")
    t = trainer(tmp_path, [stopping, energy, keeping], max_epochs=20, enable_checkpointing=True)
    t.fit(module(), loader(), loader(8))
    assert t.current_epoch == 3  # energy only grows: the first epoch is the best, and two more are waited for
    assert keeping.best_model_path
    assert "energy/train/joules_per_sample" in t.callback_metrics


@pytest.mark.parametrize(("columns", "tokens"), [(80, None), (140, None), (140, 5)])
def test_the_progress_bar_shows_what_fits_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, tokens: int | None
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    energy = EnergyCallback(verbose=False, count_fn=None if tokens is None else lambda _: tokens)
    bar = TQDMProgressBar()
    trainer(tmp_path, [energy, bar], enable_progress_bar=True).fit(module(), loader(2000))
    shown = capfd.readouterr()
    last = (shown.out + shown.err).replace("\n", "\r").rstrip("\r").split("\r")[-1]
    assert "J/sample=" in last
    assert last.rstrip().endswith("]")  # tqdm cuts off what does not fit
    assert len(last) <= columns
    found = [label for label in ("J/token=", "W=", "kWh expected=") if label in last]
    assert found == ([] if columns < 120 else ["W=", "kWh expected="] if tokens is None else ["J/token=", "W="])


def test_core_metrics_are_logged_and_all_can_be_monitored(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    t, energy = run(tmp_path, "core", logger=logger)
    names = set(EventAccumulator(logger.log_dir).Reload().Tags()["scalars"])
    ours = {name for name in names if name.startswith("energy/")}
    stages = {f"energy/{stage}/{name}" for stage in ("train", "validate", "test", "predict") for name in CORE}
    totals = {"energy/total/kwh", "energy/total/co2e_grams"}
    forecast = {f"energy/forecast/kwh{end}" for end in ("", "_low", "_high")}
    assert ours == stages | {f"energy/train/{name}_step" for name in CORE} | totals | forecast
    assert {"energy/predict/joules", "energy/predict/co2e_grams", "energy/total/joules"} <= t.callback_metrics.keys()
    board = EventMultiplexer().AddRunsFromDirectory(logger.log_dir).Reload()
    snapshots = board.Tensors("energy", "energy/record")
    assert decode(snapshots[-1].tensor_proto.string_val[0], "the last one").total == energy.record.total


def test_each_energy_tag_has_its_description_and_unit(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb")
    run(tmp_path, logger=logger)
    events = EventMultiplexer().AddRun(logger.log_dir, "run").Reload()
    for tag, metadata in events.AllSummaryMetadata()["run"].items():
        assert bool(metadata.summary_description) == tag.startswith("energy/"), tag
    found = events.SummaryMetadata("run", "energy/train/joules_per_sample_step").summary_description
    assert found == "Energy of one sample in J, without compilation, of stage train in the steps since the previous log."


@pytest.mark.xdist_group("programs")
def test_the_panels_layout_is_in_a_run_of_its_own_and_tensorboard_serves_it(program: Warm, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="run")
    logger.experiment.add_custom_scalars({"Mine": {"loss": ["Multiline", ["loss"]]}})
    run(tmp_path, logger=logger)
    # TensorBoard's own command, in a process that has imported most of it.
    options = ("--logdir", tmp_path, "--port", 0, "--host", "127.0.0.1")
    command = importlib.util.find_spec("tensorboard.main")
    assert command is not None
    with program.start(command.origin, *options, folder=tmp_path) as server:
        address = wait_for_address(server)
        layout = ask(f"{address}data/plugin/custom_scalars/layout", lambda found: len(found["category"]) == 2)
        titles = {category["title"]: [chart["title"] for chart in category["chart"]] for category in layout["category"]}
        assert titles["Mine"] == ["loss"]
        stages = ("Training", "Validation", "Test", "Prediction")
        assert titles["Energy"] == [
            "Energy so far (kWh)",
            "Expected energy of the training, with its 95 % interval (kWh)",
            *(f"{stage}: energy per sample (J)" for stage in stages),
            *(f"{stage}: mean power (W)" for stage in stages),
            "CO2e so far (g)",
        ]
        query = urllib.parse.urlencode({"run": "run/version_0", "tag": "energy/.*/watts$"})
        found = ask(f"{address}data/plugin/custom_scalars/scalars?{query}", lambda found: "tag_to_events" in found)
        assert {"energy/train/watts", "energy/predict/watts"} <= set(found["tag_to_events"])
        server.send_signal(signal.SIGTERM)
        server.wait()


def wait_for_address(server: Forked) -> str:
    for _ in range(600):
        for word in server.errors.split():
            if word.startswith("http://127"):
                return word
        time.sleep(0.1)
    raise AssertionError(server.errors)


def ask(address: str, complete: Any) -> Any:
    """Ask until the answer is complete: TensorBoard loads in the background."""
    for _ in range(100):
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - loopback
            found = json.load(answer)
        if found and complete(found):
            return found
        time.sleep(0.2)
    msg = f"TensorBoard did not answer: {found}"
    raise AssertionError(msg)
