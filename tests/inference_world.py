"""A machine with known power in simulated time: the real bench and the real ledger, with a simulated meter."""

import random
from collections.abc import Callable

from ml_energy_callbacks.attribution.ledger import Ledger, Mark
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.inference.engine import Case, Measured, MeterBench, measure_cases
from ml_energy_callbacks.meter.points import Window
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedCounter

IDLE_WATTS, BUSY_WATTS = 90.0, 400.0
CALL_S = 0.04


class World:
    """One device whose counter refreshes on a grid; the power of the calls varies from block to block and from call to call."""

    def __init__(self, seed: int, *, noise: float = 0.03, refresh_s: float = 0.1) -> None:
        self._rng = random.Random(seed)
        self._noise = noise
        self._level = 1.0
        self.clock = ManualClock()
        self._curve = PowerCurve(self.clock, IDLE_WATTS)
        counter = ScriptedCounter(self._curve, self.clock, period_s=refresh_s, offset_s=self._rng.random() * refresh_s)
        self._timeline = Timeline(self.clock)
        bucket = self._timeline.add_bucket()
        self._ledger = Ledger(counter.device)
        self._poller = Poller([(counter, self._ledger)], self._timeline, 0.05)
        self._poller.random.seed(seed)
        self._timeline.switch(bucket)
        self.bench = MeterBench(self, lambda: refresh_s, self.clock, self.sleep)

    def sleep(self, seconds: float) -> None:
        """Idle; the following block uses slightly more or less power than the last one."""
        self._level = self._rng.gauss(1, self._noise)
        self._spend(seconds, IDLE_WATTS)

    def call(self, samples: int, cost: float) -> Callable[[], int]:
        """Return a call that uses, on average, ``cost`` times the energy of a call with cost 1."""

        def call() -> int:
            self.work(CALL_S * self._rng.uniform(0.97, 1.03), BUSY_WATTS * cost)
            return samples

        return call

    def generate(self, responses: int, joules: float) -> Callable[[], int]:
        """Return a call that generates responses with this energy each, on average."""

        def call() -> int:
            self._spend(responses * joules / BUSY_WATTS * self._rng.uniform(0.97, 1.03), BUSY_WATTS * self._level)
            return responses

        return call

    def work(self, seconds: float, watts: float) -> None:
        """Use this power, on average over the blocks."""
        self._spend(seconds, watts * self._level)

    def window(self) -> Window:
        return Window(self._mark)

    def _mark(self) -> Mark:
        look = self._timeline.look()
        mark = Mark(look.now, look.totals, frozenset([self._ledger.device.id]))
        self._ledger.add_mark(mark)
        return mark

    def _spend(self, seconds: float, watts: float) -> None:
        self._curve.set(watts)
        end = self.clock.now_ns + round(seconds * NS_PER_S)
        while self._poller.next_poll < end:
            self.clock.now_ns = max(self.clock.now_ns, self._poller.next_poll)
            self._poller.poll()
        self.clock.now_ns = max(self.clock.now_ns, end)
        self._curve.set(IDLE_WATTS)


def measured(
    world: World, costs: dict[str, float], *, samples: int = 4, relative_width: float = 0.05, max_seconds: float = 600.0
) -> Measured:
    """Measure calls with these costs."""
    cases = [Case(name, lambda cost=cost: world.call(samples, cost)) for name, cost in costs.items()]
    return measure_cases(
        cases, world.bench, relative_width=relative_width, max_seconds=max_seconds, seed=0, progress=lambda _: None
    )
