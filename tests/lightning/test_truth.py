"""A real fit against a simulated driver whose true energy is known."""

import random
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_models import module, trainer

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.testing.nvml import SimulatedDriver


class Slow(torch.utils.data.Dataset[Any]):
    """Takes so many seconds for each item, at the wait power."""

    def __init__(self, lengths: list[float]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.lengths[index])
        return torch.randn(8), torch.randn(1)


def fit(
    driver: SimulatedDriver, folder: Path, waits: list[float], computes: list[float], noise: float = 0.03
) -> tuple[EnergyCallback, dict[str, float]]:
    """Fit with batches of one sample and these times in s; return the callback and the true joules.

    A compute time below zero lasts until the clock shows a multiple of so many seconds.
    """
    true = {"wait": 0.0, "compute": 0.0}
    energy = EnergyCallback(devices=["nvml:*"], verbose=False)
    rng = random.Random(1)

    class World(pl.Callback):
        """Sets the power, and notes the truth at the hooks."""

        def setup(self, *_: Any, **__: Any) -> None:
            self.then = driver.true_joules()

        def on_fit_start(self, *_: Any) -> None:
            # Power was even since the callback began to measure: reckon back to that instant.
            elapsed = (monotonic_clock() - energy._meter._timeline.look().switches[1][0]) / 1e9
            true["start"] = driver.true_joules() - 90 * elapsed

        def teardown(self, *_: Any, **__: Any) -> None:
            elapsed = (monotonic_clock() - energy._meter._timeline.look().switches[-1][0]) / 1e9
            true["end"] = driver.true_joules() - 90 * elapsed

        def on_train_batch_start(self, *args: Any) -> None:
            now = driver.true_joules()
            true["wait"] += now - self.then
            self.then = now
            driver.set_power(420 * (1 - noise + 2 * noise * rng.random()))
            compute = computes[args[-1]]
            time.sleep(compute if compute >= 0 else -compute - time.monotonic() % -compute)

        def on_train_batch_end(self, *_: Any) -> None:
            driver.set_power(90 * (1 - noise + 2 * noise * rng.random()))
            now = driver.true_joules()
            true["compute"] += now - self.then
            self.then = now

        def on_train_epoch_start(self, *_: Any) -> None:
            self.then = driver.true_joules()

        def on_train_epoch_end(self, *_: Any) -> None:
            true["wait"] += driver.true_joules() - self.then
            driver.set_power(90)

    t = trainer(folder, [energy, World()], max_epochs=1)
    t.fit(module(), torch.utils.data.DataLoader(Slow(waits), batch_size=1))
    return energy, true


def test_phases_that_always_come_in_the_same_mix_are_none_with_the_reason(driver: SimulatedDriver, tmp_path: Path) -> None:
    driver.start(period_s=0.1)
    # A batch lasts one refresh: 20 ms of waiting, then computing until the tenth of a second is full.
    energy, _ = fit(driver, tmp_path, [0.02] * 40, [-0.1] * 40, noise=0.5)
    wait = energy.record.stages["train"].phases["data_wait"]
    assert wait.joules is None
    # Whether batches take as long as a refresh to half a percent, which is the better reason, is up to the machine.
    assert any(reason in (wait.reason or "") for reason in ("cannot be separated", "counter and batches coincide"))
