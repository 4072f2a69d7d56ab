"""What a crashed fit used after its last checkpoint is in the record of the fit that resumes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from lightning_models import loader, module, trainer
from loads import steady

from ml_energy_callbacks import RunRecord, load_record
from ml_energy_callbacks.lightning import EnergyCallback

WATTS = 100.0
CHECKPOINT, CRASH, STEPS = 20, 38, 60


class Crash(pl.Callback):
    """Fail after a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            message = "power cut"
            raise RuntimeError(message)


def in_versions(folder: Path, attempt: int) -> dict[str, Any]:
    """Let each attempt have a directory of Lightning's, as is usual."""
    del attempt
    return {"logger": pl.loggers.CSVLogger(folder)}


def in_one_directory(folder: Path, attempt: int) -> dict[str, Any]:
    del attempt
    return {"default_root_dir": folder}


def in_directories_of_their_own(folder: Path, attempt: int) -> dict[str, Any]:
    """Let each attempt have a directory by its time, as Hydra does."""
    return {"default_root_dir": folder / f"day {attempt}" / "run"}


def fit(folder: Path, crash: int | None, resume: Path | None = None, **options: Any) -> RunRecord:
    """Train for an epoch."""
    energy = EnergyCallback(backends=[steady(WATTS)], carbon_intensity=1, raw_readings=True, verbose=False)
    keeping = pl.callbacks.ModelCheckpoint(folder / "kept", every_n_train_steps=CHECKPOINT, save_top_k=-1)
    t = trainer(folder, [energy, Crash(crash), keeping], max_epochs=1, enable_checkpointing=True, **options)
    arguments = (module(), loader(STEPS * 4, 4))
    if crash is None:
        t.fit(*arguments, ckpt_path=resume)
    else:
        with pytest.raises(RuntimeError, match="power cut"):
            t.fit(*arguments, ckpt_path=resume)
    assert load_record(energy.record_path) == energy.record
    return energy.record


@pytest.mark.parametrize("place", [in_versions, in_one_directory, in_directories_of_their_own])
def test_a_resumed_fit_has_what_its_crashed_attempts_used(tmp_path: Path, place: Callable[[Path, int], dict[str, Any]]) -> None:
    crashed = fit(tmp_path, CRASH, **place(tmp_path, 0))
    (checkpoint,) = (tmp_path / "kept").iterdir()
    assert crashed.stages["train"].samples == CRASH * 4
    record = fit(tmp_path, None, checkpoint, **place(tmp_path, 1))
    train = record.stages["train"]
    assert (record.run.id, train.samples) == (crashed.run.id, (CRASH + STEPS - CHECKPOINT) * 4)
    assert record.total.seconds > crashed.total.seconds
    assert record.total.joules == pytest.approx(WATTS * record.total.seconds, rel=0.1)
    found = record.verify()
    assert found.same is (True if place is in_one_directory else None), found
    assert found.same or "keep them beside the record" in (found.reason or "")


def test_a_pipe_beside_the_record_is_no_obstacle(tmp_path: Path) -> None:
    fit(tmp_path / "a", CRASH, default_root_dir=tmp_path / "a")
    (checkpoint,) = (tmp_path / "a" / "kept").iterdir()
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "energy.json")
    record = fit(tmp_path / "a", None, checkpoint, default_root_dir=tmp_path / "a")
    assert record.stages["train"].samples == (CRASH + STEPS - CHECKPOINT) * 4


@pytest.mark.parametrize("place", [in_versions, in_one_directory])
def test_a_fit_that_resumes_twice_from_one_checkpoint_has_all_attempts(
    tmp_path: Path, place: Callable[[Path, int], dict[str, Any]]
) -> None:
    fit(tmp_path, CRASH, **place(tmp_path, 0))
    (checkpoint,) = (tmp_path / "kept").iterdir()
    fit(tmp_path, CHECKPOINT + 5, checkpoint, **place(tmp_path, 1))
    record = fit(tmp_path, None, checkpoint, **place(tmp_path, 2))
    assert record.stages["train"].samples == (CRASH + 5 + STEPS - CHECKPOINT) * 4
