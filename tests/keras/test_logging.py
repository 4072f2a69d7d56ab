"""Energy where a user of Keras already looks: History, progress bar, CSV, monitors, TensorBoard."""

import csv
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import keras
import pytest
from forked import Warm
from frameworks.keras_loops import arrays, net, on_one_backend
from lateness import Lateness
from loads import EXTRAPOLATED_S, steady
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from ml_energy_callbacks import load_record
from ml_energy_callbacks.keras import EnergyCallback

BACKEND = keras.backend.backend()
EPOCHS = 3
WATTS = 100.0


def fit(folder: Path, *others: Any, energy: EnergyCallback | None = None, **options: Any) -> tuple[Any, EnergyCallback]:
    energy = energy or EnergyCallback(backends=[steady(WATTS)], verbose=False, output_dir=folder, metrics="all")
    model = net()
    x, y = arrays(400)
    further = {"epochs": EPOCHS, "validation_data": (x, y), "verbose": 0, **options}
    model.fit(x, y, batch_size=10, callbacks=[energy, *others], **further)
    return model, energy


def scalars(folder: Path) -> dict[str, list[Any]]:
    events = EventAccumulator(str(folder / "energy")).Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def test_history_csv_tensorboard_and_record_say_the_same(tmp_path: Path) -> None:
    with Lateness() as late:
        model, energy = fit(tmp_path, keras.callbacks.CSVLogger(str(tmp_path / "log.csv")))
        x, y = arrays(40)
        model.evaluate(x, y, batch_size=10, callbacks=[energy], verbose=0)
        model.predict(x, batch_size=10, callbacks=[energy], verbose=0)
    history = model.history.history
    lengths = {name: len(values) for name, values in history.items()}
    assert set(lengths.values()) == {EPOCHS}  # one row for each epoch, as a data frame needs it
    names = ("joules", "watts", "joules_per_sample", "wh_per_1000_samples", "co2e_grams")
    assert {f"energy/{stage}/{name}" for stage in ("train", "validate") for name in names} <= set(history)
    assert {f"energy/total/{name}" for name in ("joules", "kwh", "co2e_grams", "relative_uncertainty")} <= set(history)

    record = load_record(tmp_path)
    assert record == energy.record
    with (tmp_path / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = scalars(tmp_path)
    for stage in ("train", "validate"):
        epochs = [epoch.joules for epoch in record.epochs if epoch.stage == stage]
        assert history[f"energy/{stage}/joules"] == epochs
        assert [float(row[f"energy/{stage}/joules"]) for row in rows] == pytest.approx(epochs)
    for stage in ("train", "validate", "test", "predict"):
        events = found[f"energy/{stage}/joules"]
        epochs = [epoch.joules for epoch in record.epochs if epoch.stage == stage]
        assert [event.value for event in events] == pytest.approx(epochs, rel=1e-6)
        assert [event.step for event in events] == [epoch.index for epoch in record.epochs if epoch.stage == stage]
        assert f"energy/{stage}/joules_per_sample" in found
    totals = [event.value for event in found["energy/total/joules"]]
    # What was extrapolated, by powers of which little is known at first, may be corrected by the next readings.
    fall = max(earlier - later for earlier, later in pairwise(totals))
    assert fall < WATTS * (EXTRAPOLATED_S + late.seconds)
    assert history["energy/total/joules"][-1] == pytest.approx(totals[2 * EPOCHS - 1], rel=1e-6)


@on_one_backend
def test_what_is_unknown_in_a_later_epoch_keeps_its_row(tmp_path: Path) -> None:
    class Rows(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return arrays(10)

    epochs = []
    energy = EnergyCallback(
        backends=[steady(WATTS)],
        batch_size_fn=lambda _: "unknown" if epochs[-1:] > [0] else 10,
        verbose=False,
        output_dir=tmp_path,
        metrics="all",
    )
    telling = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: epochs.append(epoch))
    history = net().fit(energy.watch(Rows()), epochs=EPOCHS, callbacks=[telling, energy], verbose=0).history
    assert {len(values) for values in history.values()} == {EPOCHS}
    first, *later = history["energy/train/joules_per_sample"]
    assert first > 0
    assert all(math.isnan(each) for each in later)
    assert all(each > 0 for each in history["energy/train/joules"])


@on_one_backend
def test_an_epoch_without_a_measurement_keeps_its_row(tmp_path: Path) -> None:
    energy = EnergyCallback(backends=[steady(WATTS)], verbose=False, output_dir=tmp_path, metrics="all")

    def stop(epoch: int, _: object) -> None:
        if epoch == 1:
            energy._meter.stop()

    stopping = keras.callbacks.LambdaCallback(on_epoch_begin=stop)
    model, _ = fit(tmp_path, stopping, energy=energy, epochs=3)
    history = model.history.history
    train = {name: values for name, values in history.items() if not name.startswith(("energy/validate/", "val_"))}
    assert {len(values) for values in train.values()} == {3}
    assert [math.isnan(each) for each in train["energy/train/joules"]] == [False, True, True]


@on_one_backend
def test_steps_are_logged_where_asked_for(tmp_path: Path) -> None:
    energy = EnergyCallback(backends=[steady(100)], verbose=False, output_dir=tmp_path, log_every_n_steps=15, metrics="all")
    _, energy = fit(tmp_path, energy=energy)
    found = scalars(tmp_path)
    assert [event.step for event in found["energy/train/joules_step"]] == [14, 29, 44, 59, 74, 89, 104, 119]
    steps = sum(event.value for event in found["energy/train/joules_step"])
    assert steps == pytest.approx(energy.record.stages["train"].joules, rel=0.2)
    assert "energy/train/joules_per_sample_step" in found


@on_one_backend
def test_energy_can_be_monitored_by_what_comes_after(tmp_path: Path) -> None:
    stopping = keras.callbacks.EarlyStopping(monitor="energy/total/joules", mode="min", patience=2)
    keeping = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.weights.h5"),
        monitor="energy/validate/joules_per_sample",
        mode="min",
        save_best_only=True,
        save_weights_only=True,
    )
    model, energy = fit(tmp_path, stopping, keeping, epochs=10)
    assert stopping.stopped_epoch == 2  # energy only grows: the first epoch is the best, and two more are waited for
    assert len(model.history.history["energy/total/joules"]) == 3
    assert (tmp_path / "best.weights.h5").exists()
    assert energy.record.run.status == "completed"


@on_one_backend
def test_a_monitor_that_comes_before_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    energy = EnergyCallback(output_dir=tmp_path)
    stopping = keras.callbacks.EarlyStopping(monitor="energy/total/joules", mode="min")
    x, y = arrays(20)
    with pytest.warns(UserWarning, match="not available"):  # Keras's own, at the end of the first epoch
        net().fit(x, y, callbacks=[stopping, energy], verbose=0)
    assert "put EnergyCallback before EarlyStopping" in caplog.text
    assert any("put EnergyCallback before EarlyStopping" in warning for warning in energy.record.warnings)


@on_one_backend
@pytest.mark.parametrize("verbose", [1, 2])
def test_the_progress_bar_has_a_short_line_of_energy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], verbose: Literal[1, 2]
) -> None:
    energy = EnergyCallback(output_dir=tmp_path, location="FRA", backends=[steady(WATTS)])
    fit(tmp_path, energy=energy, verbose=verbose)
    out = capfd.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("Energy: ")]
    assert len(lines) == EPOCHS
    for line in lines:
        assert re.fullmatch(r"Energy: \S+ W, \S+ m?J/sample, \S+ m?Wh of \S+ m?Wh expected", line)
    assert "energy/" not in out
    assert out.count("val_loss: ") == EPOCHS
    assert out.count("\nEnergy  ") == 1
    assert "J/sample" in out
    fit(tmp_path, energy=EnergyCallback(), verbose=0)
    assert "Energy" not in capfd.readouterr().out


@on_one_backend
def test_core_metrics_and_those_that_are_monitored_are_logged(tmp_path: Path) -> None:
    stopping = keras.callbacks.EarlyStopping(monitor="energy/total/joules", mode="min", patience=9)
    energy = EnergyCallback(backends=[steady(WATTS)], verbose=False, output_dir=tmp_path)
    model, _ = fit(tmp_path, stopping, energy=energy)
    ours = {name for name in model.history.history if name.startswith("energy/")}
    stages = {f"energy/{stage}/{name}" for stage in ("train", "validate") for name in ("watts", "joules_per_sample")}
    totals = {f"energy/total/{name}" for name in ("kwh", "co2e_grams", "joules")}
    assert ours == stages | totals | {f"energy/forecast/kwh{end}" for end in ("", "_low", "_high")}
    assert set(scalars(tmp_path)) == ours
    events = EventMultiplexer().AddRun(str(tmp_path / "energy"), "energy").Reload()
    assert events.SummaryMetadata("energy", "energy/train/watts").summary_description.startswith("Mean power in W")


@on_one_backend
def test_validation_now_and_then_has_its_keys_in_those_epochs(tmp_path: Path) -> None:
    model, _ = fit(tmp_path, epochs=4, validation_freq=2)
    history = model.history.history
    assert len(history["energy/train/joules"]) == 4
    assert len(history["energy/validate/joules"]) == len(history["val_loss"]) == 2


@on_one_backend
def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, energy = fit(tmp_path, energy=EnergyCallback(verbose=False))
    assert energy.record_path is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's TensorBoard callback needs TensorFlow")
def test_kerass_tensorboard_callback_tells_the_folder(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    board = keras.callbacks.TensorBoard(str(logs), update_freq=20)
    _, energy = fit(tmp_path, board, energy=EnergyCallback(verbose=False, metrics="all"))
    assert energy.record_path == logs / "energy.json"
    found = scalars(logs)
    assert len(found["energy/train/joules"]) == EPOCHS
    assert [event.step for event in found["energy/train/joules_step"]] == [19, 39, 59, 79, 99, 119]
    own = EventAccumulator(str(logs / "train"), size_guidance={"tensors": 0}).Reload()
    assert "epoch_loss" in own.Tags()["tensors"]
    # The record goes where the user says, the scalars stay beside Keras's own.
    elsewhere = EnergyCallback(verbose=False, output_dir=tmp_path / "mine")
    fit(tmp_path, keras.callbacks.TensorBoard(str(tmp_path / "logs2")), energy=elsewhere)
    assert elsewhere.record_path == tmp_path / "mine" / "energy.json"
    assert scalars(tmp_path / "logs2")


@on_one_backend
def test_the_panels_are_there_once(tmp_path: Path) -> None:
    model, energy = fit(tmp_path)
    model.predict(arrays(4)[0], callbacks=[energy], verbose=0)
    layouts = 0
    for file in (tmp_path / "energy").glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        layouts += "custom_scalars__config__" in events.Tags()["tensors"]
    assert layouts == 1


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it is the backend")
@pytest.mark.xdist_group("programs")
def test_without_tensorflow_a_fit_writes_scalars_too(tmp_path: Path, program: Warm) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
from importlib.util import find_spec
from pathlib import Path

from frameworks.keras_loops import EnergyCallback, Loops

assert find_spec("tensorflow") is None
folder = Path.cwd()
Loops(folder).fit([EnergyCallback(verbose=False, output_dir=folder, metrics="all")])
assert "tensorflow" not in sys.modules
"""
    )
    program.run(script, folder=tmp_path)
    assert len(scalars(tmp_path)["energy/train/joules"]) == 2


@on_one_backend
def test_a_folder_that_fills_up_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                # As good as a full disk: what is written from now on goes to the device that is always full.
                energy._board._file.path = Path("/dev/full")  # type: ignore[union-attr] - it is there

    energy = EnergyCallback(output_dir=tmp_path)
    fit(tmp_path, Full(), energy=energy)
    assert energy.record.run.status == "completed"
    assert "could not be written (No space left on device)" in caplog.text
