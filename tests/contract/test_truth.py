"""A real fit over the simulated NVIDIA driver, whose power the loop sets: what is measured is what is true."""

import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import frameworks
import pytest

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing.nvml import SimulatedDriver

framework = frameworks.load()

IDLE, WAIT, COMPUTE = 90.0, 90.0, 420.0


class World:
    """Sets the power, and adds up the true joules."""

    def __init__(self, driver: SimulatedDriver, energy: Any, waits: list[float], computes: list[float]) -> None:
        self.driver, self.energy, self.waits, self.computes = driver, energy, waits, computes
        self.random = random.Random(1)
        self.watts = IDLE
        self.drawn: list[tuple[int, float]] = []  # from when on, and how much
        self.before: tuple[int, float] | None = None

    def wait(self, index: int) -> None:
        """Fetch an item."""
        time.sleep(self.waits[index])

    def begin(self) -> None:
        """Begin to compute: the data are there. Before the run, they were only looked at."""
        if self.energy._meter.running:
            self.before = self.before or (monotonic_clock(), self.driver.true_joules())
            self.draw(COMPUTE)

    def compute(self, index: int) -> None:
        """Compute a batch."""
        time.sleep(self.computes[index])

    def end(self, _: int) -> None:
        """Wait for the next batch."""
        self.draw(WAIT)

    def draw(self, watts: float) -> None:
        self.watts = watts * (0.97 + 0.06 * self.random.random())
        before = monotonic_clock()
        self.driver.set_power(self.watts)
        self.drawn.append(((before + monotonic_clock()) // 2, self.watts))

    def true_joules(self) -> float:
        """Return the true energy of the run, whose power was even before the first batch and after it ended."""
        switches = self.energy._meter._timeline.look().switches
        then, joules = self.before or (0, 0.0)
        start = joules - IDLE * (then - switches[1][0]) / 1e9
        return self.driver.true_joules() - self.watts * (monotonic_clock() - switches[-1][0]) / 1e9 - start

    def true_wait(self) -> tuple[float, float]:
        """Return the true energy in J of the training's waits by its marks, and what was drawn in phases of the other power.

        Power changes some time after a mark, much later on a busy machine. What that adds to one phase and takes from the other
        cannot be separated.
        """
        timeline, buckets = self.energy._meter._timeline, self.energy._meter._stages.tally("train").buckets
        phases = [(begin, end, bucket) for (begin, bucket), (end, _) in pairwise(timeline.look().switches)]
        changes = [(0, IDLE), *self.drawn, (monotonic_clock(), 0.0)]
        powers = [(begin, end, watts) for (begin, watts), (end, _) in pairwise(changes)]
        overlaps = [
            (bucket, watts, max(0, min(end, until) - max(begin, since)) / 1e9)
            for since, until, bucket in phases
            for begin, end, watts in powers
        ]
        waits = [(watts, seconds) for bucket, watts, seconds in overlaps if bucket == buckets["data_wait"]]
        idle = sum(seconds for bucket, watts, seconds in overlaps if bucket == buckets["compute"] and watts < 2 * WAIT)
        busy = sum(seconds for watts, seconds in waits if watts > 2 * WAIT)
        return sum(watts * seconds for watts, seconds in waits), (idle + busy) * (COMPUTE - WAIT)


@pytest.mark.parametrize("period_s", [0.1, 0.02])
def test_total_stages_phases_and_wait_energy_are_true(driver: SimulatedDriver, tmp_path: Path, period_s: float) -> None:
    driver.start(period_s=period_s, watts=IDLE)
    rng = random.Random(2)
    count = 90
    energy = framework.EnergyCallback(devices=["nvml:*"], verbose=False, **framework.record_folder(tmp_path))
    world = World(
        driver,
        energy,
        [0.05 * (0.8 + 0.4 * rng.random()) for _ in range(count)],
        [0.2 * (0.8 + 0.4 * rng.random()) for _ in range(count)],
    )
    framework.Loops(tmp_path).fit(
        [energy],
        samples=count,
        batch_size=1,
        epochs=1,
        on_wait=world.wait,
        on_data=world.begin,
        on_batch=world.compute,
        after_batch=world.end,
    )
    record = energy.record
    total = record.total.joules
    assert total is not None
    assert total == pytest.approx(world.true_joules(), rel=0.001, abs=2 * period_s * IDLE)
    assert sum(stage.joules or 0 for stage in record.stages.values()) == pytest.approx(total, rel=1e-9)
    train = record.stages["train"]
    assert (train.batches, train.samples, record.total.provenance) == (count, count, "measured")
    wait = train.phases["data_wait"]
    assert wait.joules is not None
    assert wait.seconds is not None
    assert wait.relative_uncertainty is not None
    true_wait, misplaced = world.true_wait()
    assert wait.joules == pytest.approx(true_wait, abs=(0.02 + 2 * wait.relative_uncertainty) * true_wait + misplaced)
    others = sum(phase.joules or 0 for name, phase in train.phases.items() if name not in ("compute", "data_wait"))
    assert train.phases["compute"].joules == pytest.approx((train.joules or 0) - true_wait - others, rel=0.03)
