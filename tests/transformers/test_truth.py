"""A real training on a device whose power the loop sets: what is measured is what is true."""

import random
import time
from pathlib import Path

import pytest
from trainer_models import AroundBatch, trainer

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.transformers import EnergyCallback

WAIT, COMPUTE = 90.0, 420.0
BATCHES = 90


def test_total_and_phases_are_true(tmp_path: Path) -> None:
    rng = random.Random(2)
    curve = PowerCurve(monotonic_clock, WAIT)
    energy = EnergyCallback(
        verbose=False, backends=[ScriptedBackend([ScriptedCounter(curve, monotonic_clock, period_s=0.02)])], log_every_n_steps=0
    )
    waited = waited_s = 0.0

    def wait(_: int) -> None:
        nonlocal waited, waited_s
        before, begun = curve.joules(), time.perf_counter()
        time.sleep(0.04 * (0.6 + 0.8 * rng.random()))
        waited += curve.joules() - before
        waited_s += time.perf_counter() - begun

    def compute(_: int) -> None:
        time.sleep(0.08 * (0.6 + 0.8 * rng.random()))

    around = AroundBatch(lambda: curve.set(COMPUTE), compute, lambda _: curve.set(WAIT))
    options = {"samples": BATCHES, "per_device_train_batch_size": 1, "num_train_epochs": 1, "logging_strategy": "no"}
    t = trainer(tmp_path, [energy, around], on_wait=wait, **options)
    begun, joules = time.perf_counter(), curve.joules()
    t.train()
    seconds, joules = time.perf_counter() - begun, curve.joules() - joules
    record = energy.record
    train = record.stages["train"]
    assert (train.batches, train.samples) == (BATCHES, BATCHES)
    # Before the callback begins, and after it has ended, the Trainer is at work for a while, at the lower power.
    assert record.total.joules == pytest.approx(joules - WAIT * (seconds - record.total.seconds), rel=0.02)
    assert record.total.provenance == "measured"
    data_wait = train.phases["data_wait"]
    assert data_wait.seconds is not None
    assert data_wait.low_joules is not None
    assert data_wait.high_joules is not None
    # The Trainer's own way to the data passes at the same power, and takes longer on a busy machine.
    waited += WAIT * (data_wait.seconds - waited_s)
    assert 0.98 * data_wait.low_joules <= waited <= 1.02 * data_wait.high_joules
    if record.devices[0].refresh != "regular" and data_wait.joules is None:
        return  # on a busy machine too few of the counter's refreshes are seen in time
    assert data_wait.joules is not None
    assert data_wait.relative_uncertainty is not None
    assert data_wait.joules == pytest.approx(waited, rel=0.02 + 2 * data_wait.relative_uncertainty)
    others = train.phases["other"].joules or 0.0
    assert train.phases["compute"].joules == pytest.approx((train.joules or 0.0) - waited - others, rel=0.05)
