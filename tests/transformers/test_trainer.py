"""The callback through real Trainers: names, phases, samples, checkpoints, endings."""

import contextlib
import gc
import json
import re
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Warm
from loads import steady
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from trainer_models import AroundBatch, Sentences, paced, trainer
from transformers import Trainer, TrainerCallback

from ml_energy_callbacks import load_record
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.tensorboard.snapshots import decode
from ml_energy_callbacks.transformers import EnergyCallback

WATTS = 360.0


def callback(**options: Any) -> EnergyCallback:
    """Return a callback on a device of constant power."""
    return EnergyCallback(**{"verbose": False, "metrics": "all", "backends": [steady(WATTS)], **options})


def logged(t: Any, name: str) -> list[Mapping[str, float]]:
    """Return the entries of the Trainer's log that have a name."""
    return [entry for entry in t.state.log_history if name in entry]


def test_the_trainers_log_has_the_names_beside_its_own(tmp_path: Path) -> None:
    energy = callback(electricity_price=0.5, currency="EUR", carbon_intensity=100.0)
    t = trainer(tmp_path, [energy, paced(0.02)], validation=10)
    t.train()
    steps = logged(t, "energy/train/joules_step")
    assert [entry["step"] for entry in steps] == [entry["step"] for entry in logged(t, "loss")] == [5, 10, 15, 20]
    epochs = logged(t, "energy/train/joules")
    assert [(entry["step"], entry["epoch"]) for entry in epochs] == [(10, 1.0), (20, 2.0)]
    quantities = {name.removeprefix("energy/train/") for name in epochs[0] if name.startswith("energy/train/")}
    assert quantities >= {"joules", "watts", "joules_per_sample", "wh_per_1000_samples", "co2e_grams", "cost_eur"}
    for entry in epochs:
        assert entry["energy/train/watts"] == pytest.approx(WATTS, rel=0.1)
        assert entry["energy/train/joules_per_sample"] == pytest.approx(entry["energy/train/joules"] / 40)
    assert [entry["step"] for entry in logged(t, "energy/validate/joules")] == [10, 20]
    assert [entry["step"] for entry in logged(t, "eval_loss")] == [10, 20]
    assert epochs[0]["energy/forecast/kwh"] == pytest.approx(energy.record.total.kwh, rel=0.5)
    assert epochs[1]["energy/total/joules"] == pytest.approx(energy.record.total.joules, rel=0.1)
    forecast = energy.record.forecast
    assert forecast is not None
    assert forecast.error is not None


@pytest.mark.parametrize(("option", "steps"), [(0, []), (4, [4, 8])])
def test_log_every_n_steps_goes_before_the_trainers_own(tmp_path: Path, option: int, steps: list[int]) -> None:
    t = trainer(tmp_path, [callback(log_every_n_steps=option)], num_train_epochs=1)
    t.train()
    assert [entry["step"] for entry in logged(t, "energy/total/joules")] == [*steps, 10]
    assert [entry["step"] for entry in logged(t, "loss")] == [5, 10]


def test_a_log_that_is_due_at_an_epochs_end_is_still_written(tmp_path: Path) -> None:
    t = trainer(tmp_path, [callback()], logging_strategy="epoch")
    t.train()
    assert [entry["step"] for entry in logged(t, "loss")] == [10, 20]
    assert logged(t, "energy/train/joules_step") == []


def test_tensorboard_has_them_where_the_trainer_reports_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    t = trainer(tmp_path, [callback()], report_to=["tensorboard"])
    t.train()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    (first, second) = events.Scalars("train/energy/train/joules")
    assert (first.step, second.step) == (10, 20)
    assert second.value == pytest.approx(logged(t, "energy/train/joules")[1]["energy/train/joules"])


def test_phases_and_stages_are_those_of_the_loop(tmp_path: Path) -> None:
    """Data take 5 ms a sample, a step 40 ms beside its own work, a log of the Trainer 30 ms; on a busy machine more."""
    instants: list[tuple[str, float]] = []

    def note(what: str, sleep_s: float = 0.0) -> None:
        instants.append((f"before {what}", time.perf_counter()))
        time.sleep(sleep_s)
        instants.append((f"after {what}", time.perf_counter()))

    class SlowLog(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            note("log", 0.03)

    def seconds_between(first: str, last: str) -> float:
        """Add up the time from each first instant of a name to the next last one."""
        total, begun = 0.0, None
        for name, instant in instants:
            if name == first and begun is None:
                begun = instant
            if name == last and begun is not None:
                total, begun = total + instant - begun, None
        return total

    energy = callback()
    around = AroundBatch(inside=lambda _: note("step", 0.04), after=lambda _: note("end"))
    options = {"on_wait": lambda _: note("data", 0.005), "logging_steps": 1, "num_train_epochs": 1}
    t = trainer(tmp_path, [energy, around, SlowLog()], **options)
    t.train()
    record = energy.record
    train = record.stages["train"]
    assert (train.batches, train.samples) == (10, 40)
    seconds = {name: phase.seconds or 0.0 for name, phase in train.phases.items()}
    samples_s, steps_s, logs_s = (seconds_between(f"before {what}", f"after {what}") for what in ("data", "step", "log"))
    assert max(0.2, samples_s) <= seconds["data_wait"] < 0.2 + samples_s
    assert max(0.4, steps_s) <= seconds["compute"] < 0.2 + seconds_between("before step", "after end")
    assert max(20 * 0.03, logs_s) <= seconds["other"] < 1.2 + logs_s
    assert train.joules == pytest.approx(WATTS * train.seconds, rel=0.03)
    assert record.total.joules == pytest.approx(WATTS * record.total.seconds, rel=0.03)
    assert record.total.joules == pytest.approx(sum(stage.joules or 0 for stage in record.stages.values()), rel=1e-9)


def test_an_evaluation_is_seen_from_its_first_batch_on(tmp_path: Path) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], validation=5)
    t.eval_dataset = Sentences(5, lambda _: time.sleep(0.04))
    began = time.perf_counter()
    t.evaluate()
    test = energy.record.stages["test"]
    assert 0.2 <= test.seconds <= time.perf_counter() - began
    assert (test.phases["data_wait"].seconds or 0) >= 0.2
    assert (test.batches, test.samples) == (1, 5)
    assert len(logged(t, "energy/test/joules")) == 1


def test_several_evaluation_data_sets_are_one_validation(tmp_path: Path) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], validation=5, num_train_epochs=1)
    t.eval_dataset = {"a": Sentences(7), "b": Sentences(3)}
    t.train()
    validate = energy.record.stages["validate"]
    assert (validate.batches, validate.samples) == (3, 10)
    assert len(logged(t, "energy/validate/joules")) == 1


def test_prediction_is_a_stage_of_its_own(tmp_path: Path) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy])
    assert len(t.predict(Sentences(12)).predictions) == 12
    predict = energy.record.stages["predict"]
    assert (predict.batches, predict.samples) == (3, 12)
    assert "test" not in energy.record.stages
    assert len(logged(t, "energy/predict/joules_per_sample")) == 1


def test_accumulated_batches_are_counted_each(tmp_path: Path) -> None:
    energy = callback()
    t = trainer(tmp_path, [energy], samples=42, gradient_accumulation_steps=4, num_train_epochs=2, logging_steps=1)
    t.train()
    assert t.state.global_step == 6
    train = energy.record.stages["train"]
    assert (train.batches, train.samples) == (22, 84)
    assert [entry["step"] for entry in logged(t, "energy/train/joules_step")] == [1, 2, 3, 4, 5, 6]


def test_data_of_unknown_length_are_counted_by_their_batches(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            data = Sentences(14)
            return (data[i] for i in range(len(data)))

    energy = callback()
    t = trainer(tmp_path, [energy], max_steps=8, eval_strategy="no")
    t.train_dataset = Stream()
    t.train()
    train = energy.record.stages["train"]
    assert (train.batches, train.samples) == (8, 28)
    assert [epoch.index for epoch in energy.record.epochs] == [0, 1]


@pytest.mark.parametrize(("batch_size_fn", "samples"), [(None, None), (lambda batch: len(batch["input_ids"]) // 2, 20)])
def test_batches_that_do_not_tell_their_samples(tmp_path: Path, batch_size_fn: Any, samples: int | None) -> None:
    """Two rows are one sample, as in contrastive learning."""

    def pairs(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        names = ("input_ids", "attention_mask", "labels")
        return {name: torch.stack([torch.as_tensor(row[name]) for row in [*rows, *rows]]) for name in names}

    energy = callback(batch_size_fn=batch_size_fn)
    t = trainer(tmp_path, [energy], samples=20, num_train_epochs=1)
    t.data_collator = pairs
    t.train()
    assert energy.record.stages["train"].samples == samples
    assert any("give EnergyCallback a batch_size_fn" in warning for warning in energy.record.warnings) == (samples is None)


def test_a_resumed_training_goes_on_from_the_checkpoints_totals(tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 12:
            message = "power cut"
            raise RuntimeError(message)

    first = callback()
    options: dict[str, Any] = {"save_strategy": "epoch", "validation": 5}
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path, [first, paced(0.01), AroundBatch(after=stop)], **options).train()
    interrupted = first.record
    assert (interrupted.run.status, interrupted.stages["train"].samples) == ("failed", 13 * 4)
    assert load_record(tmp_path / "checkpoint-10").stages["train"].samples == 40
    second = callback()
    t = trainer(tmp_path, [second, paced(0.01)], **options)
    t.train(resume_from_checkpoint=True)
    record = second.record
    assert record.run.id == interrupted.run.id
    assert record.run.status == "completed"
    # What passed after the checkpoint was used as well.
    assert record.stages["train"].samples == 13 * 4 + 40
    assert [epoch.index for epoch in record.epochs if epoch.stage == "train"] == [0, 1]
    assert record.total.joules > (interrupted.total.joules or 0)
    assert load_record(tmp_path) == record


def test_a_resumed_training_finds_the_record_in_another_directory(tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 12:
            message = "power cut"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(
            tmp_path, [callback(output_dir=tmp_path / "a"), paced(0.01), AroundBatch(after=stop)], save_strategy="epoch"
        ).train()
    second = callback(output_dir=tmp_path / "elsewhere" / "b")
    trainer(tmp_path, [second, paced(0.01)], save_strategy="epoch").train(resume_from_checkpoint=True)
    assert second.record.stages["train"].samples == 13 * 4 + 40


def test_a_checkpoint_without_a_record_starts_at_zero(tmp_path: Path) -> None:
    trainer(tmp_path, [], num_train_epochs=1, save_strategy="epoch").train()
    energy = callback()
    trainer(tmp_path, [energy], save_strategy="epoch").train(resume_from_checkpoint=True)
    assert energy.record.stages["train"].samples == 40
    assert [epoch.index for epoch in energy.record.epochs] == [1]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("mine"), "failed"), (KeyboardInterrupt(), "stopped")], ids=["error", "interrupt"]
)
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_exception_in_an_evaluation_ends_the_run(tmp_path: Path, error: BaseException, status: str, stage: str) -> None:
    def fail(_: int) -> None:
        raise error

    energy = callback()
    t = trainer(tmp_path, [energy], validation=5)
    t.eval_dataset = Sentences(5, fail)
    try:
        t.train() if stage == "validate" else t.evaluate()
    except (RuntimeError, KeyboardInterrupt):
        record = energy.record
    assert record.run.status == status
    assert stage in record.stages
    assert load_record(tmp_path) == record


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(RuntimeError("mine"), "failed", "RuntimeError: mine"), (KeyboardInterrupt(), "stopped", "KeyboardInterrupt")],
    ids=["error", "interrupt"],
)
def test_an_exception_that_is_handled_at_once_is_told_all_the_same(
    tmp_path: Path, error: BaseException, status: str, reason: str
) -> None:
    def fail(_: int) -> None:
        raise error

    energy = callback()
    with contextlib.suppress(RuntimeError, KeyboardInterrupt):
        trainer(tmp_path, [energy, AroundBatch(after=fail)]).train()
    assert not energy.meter.running
    assert (energy.record.run.status, energy.record.run.reason) == (status, reason)
    assert load_record(tmp_path) == energy.record


def test_a_training_that_ended_by_an_exception_stops_by_itself(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        message = "mine"
        raise RuntimeError(message)

    energy = callback()
    with pytest.raises(RuntimeError, match="mine"):
        trainer(tmp_path, [energy, AroundBatch(after=fail)]).train()
    deadline = time.monotonic() + 10
    while energy.meter.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert load_record(tmp_path).run.status == "failed"
    trainer(tmp_path, [energy], num_train_epochs=1).train()
    assert energy.record.run.status == "completed"
    assert energy.record.stages["train"].samples == 4 + 40


def test_smaller_batches_after_too_large_ones_are_one_training(tmp_path: Path) -> None:
    class Small(Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            if len(inputs["input_ids"]) > 4:
                message = "CUDA out of memory."
                raise RuntimeError(message)
            return super().training_step(model, inputs, *args, **options)

    energy = callback()
    t = trainer(tmp_path, [energy], kind=Small, auto_find_batch_size=True, per_device_train_batch_size=8, num_train_epochs=1)
    t.train()
    train = energy.record.stages["train"]
    assert energy.record.run.status == "completed"
    assert train.samples is not None
    assert train.samples / train.batches <= 4
    assert 40 <= train.samples < 48
    assert [(epoch.stage, epoch.samples) for epoch in energy.record.epochs] == [("train", 40)]


def test_a_callback_that_is_added_later_measures_the_next_training(tmp_path: Path) -> None:
    t = trainer(tmp_path, [], validation=5)
    energy = callback()
    t.add_callback(energy)
    t.train()
    counts = {name: stage.samples for name, stage in energy.record.stages.items() if name != "other"}
    assert counts == {"train": 80, "validate": 10}
    t.pop_callback(energy)
    t.evaluate()
    assert "test" not in energy.record.stages


def test_hooks_that_no_trainer_calls_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="requires the Trainer of transformers: pass it in Trainer"):
        callback().on_train_begin(None, None, None)


def test_output_dir_goes_before_the_trainers(tmp_path: Path) -> None:
    energy = callback(output_dir=tmp_path / "energy")
    trainer(tmp_path / "trainer", [energy], num_train_epochs=1).train()
    assert energy.record_path == tmp_path / "energy" / "energy.json"
    assert json.loads((tmp_path / "energy" / "energy.json").read_text(encoding="utf-8"))["run"]["status"] == "completed"
    assert not (tmp_path / "trainer" / "energy.json").exists()


def test_the_headline_ends_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, [callback(verbose=True, carbon_intensity=100.0)], num_train_epochs=1).train()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Energy  ") for line in lines)
    assert any(line.startswith("Train  ") and "J/sample" in line for line in lines)


def test_it_does_not_keep_a_trainer_alive(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False)
    t = trainer(tmp_path, [energy], validation=5, num_train_epochs=1)
    t.train()
    seen = weakref.ref(t)
    del t
    gc.collect()
    assert seen() is None
    assert energy.record.stages["train"].samples == 40


@pytest.mark.xdist_group("programs")
def test_the_example_of_the_page_runs(program: Warm, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "transformers.md").read_text(encoding="utf-8")
    example = re.search(r"^```python no-test\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert example is not None
    (tmp_path / "example.py").write_text(example[1], encoding="utf-8")
    assert "Energy  " in program.run(tmp_path / "example.py", folder=tmp_path).output


def test_tensorboard_has_described_core_metrics_and_the_energy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    energy = callback(metrics="core", location="FRA")
    t = trainer(tmp_path, [energy], validation=10, report_to=["tensorboard"], metric_for_best_model="loss")
    t.train()
    board = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "board")).Reload()
    tags = board.AllSummaryMetadata()["."]
    ours = {tag.removeprefix("train/") for tag in tags if "energy/" in tag}
    stages = {f"energy/{stage}/{name}" for stage in ("train", "validate") for name in ("watts", "joules_per_sample")}
    steps = {"energy/train/watts_step", "energy/train/joules_per_sample_step"}
    totals = {"energy/total/kwh", "energy/total/co2e_grams"}
    assert ours == stages | steps | totals | {f"energy/forecast/kwh{end}" for end in ("", "_low", "_high")}
    assert tags["train/energy/validate/watts"].summary_description.startswith("Mean power in W, of stage validate")
    run = board.AllSummaryMetadata()["energy"]
    assert {"energy/total/kwh", "energy/train/joules_per_sample", "eval_loss"} <= run.keys()
    snapshot = board.Tensors("energy", "energy/record")[-1].tensor_proto.string_val[0]
    assert decode(snapshot, "it").total == energy.record.total
