"""The callback in real trainers of both packages."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import programs_environment
from lightning_models import PACKAGES, loader, module, trainer

from ml_energy_callbacks import load_record
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter


@pytest.mark.parametrize("package", PACKAGES)
def test_every_stage_is_measured(tmp_path: Path, package: str, no_thread_lives: Callable[[], bool]) -> None:
    energy = EnergyCallback(location="FRA", electricity_price=0.3, currency="EUR", verbose=False)
    t, m = trainer(tmp_path, [energy], package), module(package)
    t.fit(m, loader(), loader(10, 5))
    t.validate(m, loader(10, 5), verbose=False)
    t.test(m, loader(12, 4), verbose=False)
    t.predict(m, loader(6, 4))
    record = energy.record
    counts = {name: (stage.batches, stage.samples) for name, stage in record.stages.items()}
    assert counts == {
        "other": (0, None),
        "sanity_check": (2, 10),
        "train": (20, 80),
        "validate": (6, 30),
        "test": (3, 12),
        "predict": (2, 6),
    }
    assert [(epoch.stage, epoch.index, epoch.samples) for epoch in record.epochs] == [
        ("validate", 0, 10),
        ("train", 0, 40),
        ("validate", 1, 10),
        ("train", 1, 40),
        ("validate", 2, 10),
        ("test", 2, 12),
        ("predict", 2, 6),
    ]
    total = record.total.joules
    assert total is not None
    assert total > 0
    assert sum(stage.joules or 0 for stage in record.stages.values()) == pytest.approx(total, rel=1e-9)
    assert sum(device.joules or 0 for device in record.devices) == pytest.approx(total, rel=1e-9)
    assert record.total.co2e_grams == pytest.approx(total / 3.6e6 * 56.039)
    assert record.total.cost == pytest.approx(total / 3.6e6 * 0.3)
    assert record.run.framework.startswith(f"{package} 2.")
    assert record.run.status == "completed"
    assert energy.record_path == tmp_path / "energy.json"
    assert load_record(tmp_path) == record
    assert no_thread_lives()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_users_step_has_substages_and_a_wrong_name_stops_nothing(tmp_path: Path, package: str) -> None:
    energy = EnergyCallback(location="FRA", verbose=False)
    t, m = trainer(tmp_path, [energy], package), module(package)
    phases = []

    def predict_step(batch: Any, *_: Any) -> int:
        with energy.meter.stage("predict/encode"), energy.meter.stage("predict/no name"):
            phases.append(energy.meter.phase)
        with energy.meter.stage("predict/decode"):
            pass
        phases.append(energy.meter.phase)
        return len(batch)

    m.predict_step = predict_step
    t.predict(m, loader(6, 4))
    predict = energy.record.stages["predict"]
    assert phases == ["compute"] * 4
    assert (predict.batches, predict.samples) == (2, 6)
    assert list(predict.substages) == ["encode", "decode"]
    assert {*predict.substages["encode"].phases} == {"compute"}
    assert sum("'predict/no name'" in warning for warning in energy.record.warnings) == 1


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"accumulate_grad_batches": 3}, {"train": 20, "validate": 4}),
        ({"val_check_interval": 0.5}, {"train": 20, "validate": 8}),
        ({"limit_train_batches": 3, "limit_val_batches": 0}, {"train": 6}),
        ({"limit_train_batches": 0}, {}),
        ({"fast_dev_run": True}, {"train": 1, "validate": 1}),
        ({"num_sanity_val_steps": 0, "max_steps": 7, "max_epochs": -1}, {"train": 7}),
    ],
    ids="-".join,
)
def test_the_trainers_options_are_followed(
    tmp_path: Path, options: dict[str, Any], batches: dict[str, int], no_thread_lives: Callable[[], bool]
) -> None:
    energy = EnergyCallback(verbose=False)
    trainer(tmp_path, [energy], **options).fit(module(), loader(), loader(10, 5))
    stages = energy.record.stages
    assert {name: stages[name].batches for name in stages if name not in ("other", "sanity_check")} == batches
    assert (tmp_path / "energy.json").exists() == ("fast_dev_run" not in options)
    assert no_thread_lives()


def test_several_dataloaders_are_counted_together(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False)
    trainer(tmp_path, [energy], max_epochs=1).fit(module(), loader(), [loader(10, 5), loader(7, 3)])
    validate = energy.record.stages["validate"]
    assert (validate.batches, validate.samples) == (5, 17)


def test_a_validation_of_another_batch_size_leaves_the_training_batches_known(tmp_path: Path) -> None:
    energy = EnergyCallback(verbose=False)
    trainer(tmp_path, [energy], max_epochs=1, val_check_interval=3).fit(module(), loader(38, 4), loader(13, 6))
    stages = energy.record.stages
    assert (stages["train"].batches, stages["train"].samples) == (10, 38)
    assert (stages["validate"].batches, stages["validate"].samples) == (9, 39)
    assert energy.record.warnings == [text for text in energy.record.warnings if "batch_size_fn" not in text]


class TooLong(torch.utils.data.Sampler[int]):
    """Says that there is more than there is."""

    def __init__(self, said: float) -> None:
        self._said = said

    def __len__(self) -> int:
        return int(self._said)

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


def test_a_sampler_that_promises_too_much_is_not_believed(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(40, 8), torch.randn(40, 1))
    energy = EnergyCallback(verbose=False)
    batches = torch.utils.data.DataLoader(data, batch_size=4, sampler=TooLong(40))
    trainer(tmp_path, [energy], max_epochs=1).fit(module(), batches)
    # The batch of 2 came where a whole one was due.
    assert (energy.record.stages["train"].batches, energy.record.stages["train"].samples) == (3, None)


class Stream(torch.utils.data.IterableDataset[Any]):
    """Yields samples, each worker its own part."""

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        for _ in range(10 if worker is None else 5):
            yield torch.randn(8), torch.randn(1)


class Measured(Stream):
    """Says how many there are."""

    def __len__(self) -> int:
        return 40


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined", "ignore:Length of IterableDataset")
@pytest.mark.parametrize(("data", "workers"), [(Stream(), 0), (Measured(), 0), (Measured(), 2)])
def test_a_streams_batches_are_looked_at_one_by_one(tmp_path: Path, data: Any, workers: int) -> None:
    """A small one in mid-stream, where nobody knows whether it is the last, is in doubt."""
    energy = EnergyCallback(verbose=False)
    batches = torch.utils.data.DataLoader(data, batch_size=4, num_workers=workers)
    t, m = trainer(tmp_path, [energy], max_epochs=1, limit_val_batches=3), module()
    t.fit(m, batches, batches)
    t.predict(m, batches)
    for stage in ("train", "predict"):
        assert energy.record.stages[stage].batches == (3 if workers == 0 else 4)
        assert energy.record.stages[stage].samples is None


def test_batches_of_nested_arrays_are_counted(tmp_path: Path) -> None:
    class Nested(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 22

        def __getitem__(self, index: int) -> Any:
            return {"inputs": {"a": torch.randn(8), "b": torch.randn(3)}, "target": torch.randn(1)}

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        return pl_module.layer(batch["inputs"]["a"]).mean()  # type: ignore[no-any-return]

    pl_module = module()
    pl_module.training_step = training_step
    energy = EnergyCallback(verbose=False)
    trainer(tmp_path, [energy], max_epochs=2).fit(pl_module, torch.utils.data.DataLoader(Nested(), batch_size=4))
    assert (energy.record.stages["train"].batches, energy.record.stages["train"].samples) == (12, 44)


def test_a_collation_that_leaves_samples_out_is_not_taken_for_whole_batches(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.arange(80.0).reshape(10, 8), torch.randn(10, 1))

    def collate(items: list[Any]) -> Any:
        return torch.utils.data.default_collate([item for item in items if item[0][0] != 40])

    energy = EnergyCallback(verbose=False)
    batches = torch.utils.data.DataLoader(data, batch_size=5, collate_fn=collate)
    trainer(tmp_path, [energy], max_epochs=1).fit(module(), batches, None)
    assert (energy.record.stages["train"].batches, energy.record.stages["train"].samples) == (2, 9)


def test_limit_0_in_test_and_predict_measures_nothing_and_breaks_nothing(
    tmp_path: Path, no_thread_lives: Callable[[], bool]
) -> None:
    energy = EnergyCallback(verbose=False)
    t = trainer(tmp_path, [energy], limit_test_batches=0, limit_predict_batches=0)
    t.test(module(), loader(), verbose=False)
    t.predict(module(), loader())
    assert set(energy.record.stages) <= {"other"}
    assert no_thread_lives()


def test_a_batch_of_unknown_size_is_said_and_gives_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Any:
            return torch.randn(8), torch.randn(1)

    def collate(items: list[Any]) -> Any:
        return [torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items]), "a note"]

    data = torch.utils.data.DataLoader(Odd(), batch_size=4, collate_fn=collate)
    unknown, known = EnergyCallback(), EnergyCallback(batch_size_fn=lambda batch: len(batch[0]), verbose=False)
    trainer(tmp_path / "a", [unknown], max_epochs=1).fit(module(), data)
    trainer(tmp_path / "b", [known], max_epochs=1).fit(module(), data)
    assert unknown.record.stages["train"].joules_per_sample is None
    assert any("batch_size_fn" in warning for warning in unknown.record.warnings)
    assert "batch_size_fn" in caplog.text
    assert known.record.stages["train"].samples == 8


def _ragged_loader() -> Any:
    """Return batches of 4 sequences of different lengths, whose ``shape`` raises RuntimeError."""

    def collate(items: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.nested_tensor(items)

    sequences: Any = [torch.randn(2 + index % 3, 8) for index in range(12)]
    return torch.utils.data.DataLoader(sequences, batch_size=4, collate_fn=collate)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(("batch_size_fn", "samples"), [(None, None), (lambda batch: batch.size(0), 12)])
def test_batches_whose_attributes_raise_train_on(tmp_path: Path, batch_size_fn: Any, samples: int | None) -> None:
    with pytest.raises(RuntimeError, match="sizes"):
        _ = next(iter(_ragged_loader())).shape
    model = module()
    model.training_step = lambda batch, *_: model.layer(batch.to_padded_tensor(0.0)).mean()
    model.validation_step = model.training_step
    energy = EnergyCallback(batch_size_fn=batch_size_fn, verbose=False)
    trainer(tmp_path, [energy], max_epochs=1).fit(model, _ragged_loader(), _ragged_loader())
    for stage in ("train", "validate"):
        assert (energy.record.stages[stage].batches, energy.record.stages[stage].samples) == (3, samples)
    unknown = any("give EnergyCallback a batch_size_fn" in warning for warning in energy.record.warnings)
    assert unknown == (samples is None)


def test_a_loader_whose_attributes_raise_trains_on(tmp_path: Path) -> None:
    class Strange(torch.utils.data.DataLoader[Any]):
        asked = False

        def __getattribute__(self, name: str) -> Any:
            if name == "batch_size" and Strange.asked:
                raise RuntimeError(name)
            return super().__getattribute__(name)

    data = Strange(loader().dataset, batch_size=4)
    energy = EnergyCallback(verbose=False)
    t = trainer(tmp_path, [energy], max_epochs=1)
    Strange.asked = True
    t.fit(module(), data)
    assert (energy.record.stages["train"].batches, energy.record.stages["train"].samples) == (10, 40)


@pytest.mark.parametrize(("could", "devices"), [(True, ["scripted:cpu"]), (False, ["scripted:0", "scripted:cpu"])])
def test_a_training_on_the_processor_leaves_out_gpus_that_torch_could_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, could: bool, devices: list[str]
) -> None:
    counters = [ScriptedCounter(PowerCurve(monotonic_clock, 50.0), monotonic_clock) for _ in range(2)]
    counters[1].device = replace(counters[1].device, id="scripted:cpu", kind="cpu")
    energy = EnergyCallback(backends=[ScriptedBackend(counters)], verbose=False)
    run = trainer(tmp_path, [energy])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: could)
    run.fit(module(), loader())
    assert [device.id for device in energy.record.devices] == devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_training_on_a_gpu_that_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in WSL2: the trainer computes on CUDA, and nothing reports the GPU's energy."""
    counter = ScriptedCounter(PowerCurve(monotonic_clock, 50.0), monotonic_clock)
    counter.device = replace(counter.device, id="scripted:cpu", kind="cpu")
    energy = EnergyCallback(backends=[ScriptedBackend([counter])], verbose=False)
    t, m = trainer(tmp_path, [energy]), module()
    monkeypatch.setattr(type(t.strategy), "root_device", property(lambda _: torch.device("cuda", 0)))
    energy.setup(t, m, "fit")
    energy.teardown(t, m, "fit")
    assert any("runs on a GPU, but no GPU can be read" in warning for warning in energy.record.warnings)
    assert energy.record.total.lower_bound


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("package", [PACKAGES[0], pytest.param(PACKAGES[1], marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("checkpoint", "epochs"),
    [
        ({"every_n_train_steps": 3}, [(0, 10), (1, 40), (2, 40)]),  # amid an epoch
        ({"every_n_train_steps": 4}, [(1, 40), (2, 40)]),  # before its validation
        ({"save_on_train_epoch_end": False}, [(1, 40), (2, 40)]),  # after its validation: its end comes again
        ({"save_on_train_epoch_end": True}, [(1, 40), (2, 40)]),
    ],
)
def test_a_training_that_goes_on_from_a_checkpoint_tells_what_each_epoch_took_from_there_on(
    tmp_path: Path, package: str, checkpoint: dict[str, Any], epochs: list[tuple[int, int]]
) -> None:
    checkpoints = importlib.import_module(f"{package}.callbacks").ModelCheckpoint

    def fit(epochs: int, *callbacks: Any, **options: Any) -> Any:
        keep = checkpoints(tmp_path / f"{epochs}", save_top_k=-1, **checkpoint)
        t = trainer(tmp_path, [keep, *callbacks], package, max_epochs=epochs, enable_checkpointing=True)
        t.fit(module(package), loader(40, 10), loader(10, 5), **options)
        return t

    fit(1)
    (kept,) = (tmp_path / "1").iterdir()
    energy = EnergyCallback(verbose=False)
    t = fit(3, energy, ckpt_path=kept)
    assert [(epoch.index, epoch.samples) for epoch in energy.record.epochs if epoch.stage == "train"] == epochs
    assert energy.record.stages["train"].samples == sum(samples for _, samples in epochs)
    assert t.callback_metrics["energy/train/joules_per_sample"] > 0


@pytest.mark.parametrize("package", PACKAGES)
def test_a_subclass_of_the_trainer_is_measured(tmp_path: Path, package: str) -> None:
    energy = EnergyCallback(verbose=False)
    t = trainer(tmp_path, [energy], package, max_epochs=1)
    t.__class__ = type("Own", (type(t),), {"__module__": "__main__"})
    t.fit(module(package), loader())
    assert energy.record.run.framework.startswith(f"{package} 2.")
    assert energy.record.run.status == "completed"


def test_threads_that_cannot_start_end_no_training(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "core" / "threadless.py"
    environment = programs_environment(OMP_NUM_THREADS="1", ML_ENERGY_FRAMEWORK="lightning")
    command = [sys.executable, str(script), str(tmp_path), "auto", "lightning"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert ended.returncode == 0, ended.stderr
    told = [warning for warning in json.loads(ended.stdout.splitlines()[-1]) if "No thread can be started" in warning]
    assert len(told) == 1
    assert load_record(tmp_path).run.status == "completed"
