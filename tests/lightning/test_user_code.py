"""Training goes on with what users override, import, and run inside their hooks."""

import gc
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import PACKAGES, loader, module, trainer
from loads import steady
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import CSVLogger

from ml_energy_callbacks.carbon import ElectricityMaps
from ml_energy_callbacks.lightning import EnergyCallback

SCRIPT = """
import logging, sys
import only_lightning
{imports}
seen = []
handler = logging.Handler()
handler.emit = lambda record: seen.append(record.getMessage())
logging.getLogger("{package}").addHandler(handler)
from {package} import Trainer
from {package}.callbacks import Callback
import ml_energy_callbacks.lightning as ours
assert issubclass(ours.EnergyCallback, Callback)
Trainer(callbacks=[EnergyCallback(), ours.EnergyBudget(kwh=1)], accelerator="cpu", logger=False)
assert any("GPU available" in message for message in seen), seen
assert not {alone} or "{other}" not in sys.modules
"""


def subclass(module: Any, **methods: Any) -> Any:
    """Return the module with other methods."""
    module.__class__ = type("Own", (type(module),), methods)
    return module


def step_over_iterator(self: Any, dataloader_iter: Any) -> torch.Tensor:
    batch, *_ = next(dataloader_iter)
    return self._loss(batch)  # type: ignore[no-any-return]


def log_a_name(self: Any, name: str, value: Any) -> None:
    message = "the energy is logged without it"
    raise AssertionError(message)


def log_names(self: Any, metrics: Any) -> None:
    log_a_name(self, "", metrics)


@pytest.mark.filterwarnings("ignore:.*dataloader_iter.*")
@pytest.mark.parametrize(
    "methods",
    [{"training_step": step_over_iterator}, {"log": log_a_name}, {"log_dict": log_names}],
    ids=["dataloader_iter", "log", "log_dict"],
)
def test_a_module_with_methods_of_its_own_is_trained_and_measured(tmp_path: Path, methods: Any) -> None:
    energy = EnergyCallback(verbose=False)
    stopping = EarlyStopping("energy/total/joules", patience=1, mode="min", check_on_train_epoch_end=True)
    t = trainer(tmp_path, [energy, stopping], max_epochs=5)
    t.fit(subclass(module(), **methods, validation_step=lambda *_: None), loader(), loader(8))
    assert t.current_epoch == 2
    assert {"energy/train/joules", "energy/validate/joules"} <= t.callback_metrics.keys()
    assert energy.record.run.status == "completed"


@pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours last"])
@pytest.mark.parametrize("package", PACKAGES)
def test_handlers_of_the_package_in_use_still_hear_it(package: str, *, first: bool) -> None:
    """Its logger would replace that of the package that the program uses."""
    (other,) = set(PACKAGES) - {package}
    imports = [f"import {package}", "from ml_energy_callbacks.lightning import EnergyCallback"]
    # A program that has imported neither gets pytorch_lightning; what it imports itself afterwards goes before.
    alone = not first or package == "pytorch_lightning"
    lines = "\n".join(reversed(imports) if first else imports)
    script = SCRIPT.format(imports=lines, package=package, other=other, alone=alone)
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("columns", "names"), [("80", {"J/sample"}), ("100", {"J/sample", "W"})])
def test_the_progress_bar_gets_the_numbers_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str, names: set[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown: list[str] = []

    class Bar(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            shown.extend(f"{name} {value:.2f}" for name, value in trainer.progress_bar_metrics.items())

    trainer(tmp_path, [EnergyCallback(verbose=False), Bar()]).fit(module(), loader())
    assert {text.split()[0] for text in shown} & {"W", "J/sample", "kWh"} == names


class Inner(Callback):
    """Runs another trainer with the same callback, at the end of each epoch."""

    def __init__(self, folder: Path, energy: EnergyCallback, *, fails: bool) -> None:
        self.folder, self.energy, self.fails = folder, energy, fails

    def on_train_epoch_end(self, outer: Any, pl_module: Any) -> None:
        inner = trainer(self.folder, [self.energy])
        if not self.fails:
            inner.validate(module(), loader(8), verbose=False)
            return

        def fail(*_: Any) -> None:
            message = "mine"
            raise RuntimeError(message)

        with pytest.raises(RuntimeError, match="mine"):
            inner.validate(subclass(module(), validation_step=fail), loader(8), verbose=False)


@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_inside_anothers_hook_ends_no_measurement(tmp_path: Path, *, fails: bool) -> None:
    energy = EnergyCallback(verbose=False)
    t = trainer(tmp_path, [energy, Inner(tmp_path, energy, fails=fails)])
    t.fit(module(), loader())
    record = energy.record
    assert (record.run.status, record.stages["train"].samples) == ("completed", 80)
    assert record.stages["validate"].batches == (0 if fails else 4)
    assert [epoch.index for epoch in record.epochs if epoch.stage == "train"] == [0, 1]
    assert not energy.meter.running
    t.validate(module(), loader(8), verbose=False)
    assert energy.record.stages["validate"].samples == (8 if fails else 24)


def test_a_trainer_and_its_module_are_not_kept_alive(tmp_path: Path) -> None:
    """Whatever is left is Lightning's own cycle, as without the callback: here only the callback is kept."""
    energy = EnergyCallback(verbose=False)
    t, m = trainer(tmp_path, [energy]), module()
    t.fit(m, loader())
    alive = [weakref.ref(thing) for thing in (t, m)]
    del t, m
    energy.__dict__.pop("log", None), energy.__dict__.pop("log_dict", None)  # Lightning's own, of the module
    gc.collect()
    assert [thing() for thing in alive] == [None, None]


class Measured(type(module())):  # type: ignore[misc] - a class made at run time
    """Has its callback among its hyper-parameters."""

    def __init__(self, energy: EnergyCallback) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.energy = energy

    def configure_callbacks(self) -> list[Callback]:
        return [self.energy]


@pytest.mark.filterwarnings("ignore:.*(is an instance of|attribute 'energy').*")
def test_a_token_is_neither_in_the_hyperparameters_nor_in_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", "s3cret-t0ken")
    live = ElectricityMaps("FR", url="http://127.0.0.1:1")
    energy = EnergyCallback(backends=[steady(100.0)], carbon_intensity=live, verbose=False)
    t = trainer(tmp_path, None, logger=CSVLogger(tmp_path), enable_checkpointing=True)
    t.fit(Measured(energy), loader())
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"hparams.yaml", "energy.json"} <= {path.name for path in written}
    assert any(path.suffix == ".ckpt" and b"EnergyCallback" in data for path, data in written.items())
    assert b"EnergyCallback" in written[Path(t.log_dir) / "hparams.yaml"]
    assert [path for path, data in written.items() if b"s3cret" in data] == []


class OutOfTime(Exception):  # noqa: N818 - a user's own
    """What a user's time limit raises."""


def end_in_time(*_: object) -> None:
    raise OutOfTime


class Slow(CSVLogger):
    """A logger during which the time is over."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if any(name.startswith("energy/train") for name in metrics):
            signal.raise_signal(signal.SIGUSR1)


def count_slowly(_: Any) -> int:
    signal.raise_signal(signal.SIGUSR1)
    return 4


@pytest.mark.parametrize(
    ("logger", "options"), [(Slow, {}), (CSVLogger, {"batch_size_fn": count_slowly})], ids=["in a logger", "in batch_size_fn"]
)
def test_a_time_limit_ends_the_training_wherever_it_comes(tmp_path: Path, logger: Any, options: Any) -> None:
    energy = EnergyCallback(backends=[steady(100.0)], verbose=False, **options)
    before = signal.signal(signal.SIGUSR1, end_in_time)
    try:
        with pytest.raises(OutOfTime):
            trainer(tmp_path, [energy], logger=logger(tmp_path)).fit(module(), loader())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert energy.record.run.status == "failed"
