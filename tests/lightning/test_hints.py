"""A real fit on slow data reports what they cost."""

import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_models import module, trainer

from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.report.hints import find_hints
from ml_energy_callbacks.testing.nvml import SimulatedDriver

IDLE, COMPUTE = 90.0, 420.0


class Slow(torch.utils.data.Dataset[Any]):
    """Takes so many seconds for each item."""

    def __init__(self, items: int, seconds: float) -> None:
        self.items, self.seconds = items, seconds

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return torch.randn(8), torch.randn(1)


class World(pl.Callback):
    """Draws much power while it computes, and adds up the true joules of the rest of the epoch."""

    def __init__(self, driver: SimulatedDriver, seconds: float, fail_at: int | None) -> None:
        self.driver, self.seconds, self.fail_at = driver, seconds, fail_at
        self.joules = self.waited = self.then = 0.0

    def _pass(self) -> float:
        now = self.driver.true_joules()
        passed, self.then = now - self.then, now
        self.joules += passed
        return passed

    def on_train_start(self, *_: Any) -> None:
        self.then = self.driver.true_joules()

    def on_train_batch_start(self, *args: Any) -> None:
        self.waited += self._pass()
        self.driver.set_power(COMPUTE)
        time.sleep(self.seconds)
        if args[-1] == self.fail_at:
            raise KeyboardInterrupt

    def on_train_batch_end(self, *_: Any) -> None:
        self._pass()
        self.driver.set_power(IDLE)


@pytest.mark.parametrize(("wait", "compute", "fail_at"), [(0.2, 0.05, None), (0.2, 0.05, 20), (0.002, 0.2, None)])
def test_the_hint_bounds_the_true_share_and_joules(
    driver: SimulatedDriver,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    wait: float,
    compute: float,
    fail_at: int | None,
) -> None:
    driver.start(period_s=0.02, watts=IDLE)
    energy, world = EnergyCallback(devices=["nvml:*"]), World(driver, compute, fail_at)
    data = torch.utils.data.DataLoader(Slow(24, wait), batch_size=1)
    with caplog.at_level(logging.INFO):
        try:
            trainer(tmp_path, [energy, world], max_epochs=1).fit(module(), data)
        except SystemExit:  # Lightning's own end of an interrupted fit
            assert fail_at is not None
    logged = re.findall(r"Train [^:]*: (.*? avoidable [^)]*\))", " ".join(caplog.text.split()))
    found = find_hints(energy.record)
    assert logged == [hint.short for hint in found]
    share = world.waited / world.joules  # on a busy machine, waits take longer than they should
    if share < 0.1:
        assert found == []
    if share < 0.3:
        return
    (hint,) = found
    assert 0.6 * world.waited <= hint.joules <= world.waited
    assert 0.7 * share <= hint.share <= 1.02 * share  # the stage has some energy before and after the epoch
    percent = int(100 * hint.share + 1e-7)  # a lower bound is rounded down
    assert hint.text.startswith(f"Waiting for data used at least {percent} % of the energy of train: ")
