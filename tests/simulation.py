"""A simulated training loop: waits and computations of varying length and power, under a manual clock."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat

from ml_energy_callbacks.attribution.ledger import Ledger, Mark
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedCounter

WAIT_WATTS, COMPUTE_WATTS = 90.0, 420.0


@dataclass
class Outcome:
    """The measured and the true values."""

    wait_joules: float
    wait_half_width: float
    wait_resolved: bool
    true_wait_joules: float
    true_joules: float
    joules: float
    batch_errors: list[float] = field(default_factory=list)
    grid: str = ""
    polls: int = 0

    @property
    def wait_error(self) -> float:
        """Relative error of the wait energy."""
        return self.wait_joules / self.true_wait_joules - 1

    @property
    def holds(self) -> bool:
        """Whether the truth lies in the stated interval."""
        return abs(self.wait_joules - self.true_wait_joules) <= self.wait_half_width


def simulate(
    *,
    refresh_s: float,
    wait_s: float,
    compute_s: float,
    seed: int,
    spread: float = 0.2,
    noise: float = 0.03,
    duration_s: float = 60.0,
    interval_s: float = 0.05,
    latency_s: float = 0.0002,
) -> Outcome:
    """Simulate one run, and return what was measured."""
    rng = random.Random(seed)
    clock = ManualClock()
    curve = PowerCurve(clock, WAIT_WATTS)
    counter = ScriptedCounter(curve, clock, period_s=refresh_s, offset_s=rng.random() * refresh_s)
    timeline = Timeline(clock)
    wait, compute = timeline.add_bucket(1), timeline.add_bucket(1)
    ledger = Ledger(counter.device)
    poller = Poller([(counter, ledger)], timeline, interval_s)
    poller.random.seed(seed)

    def vary(value: float, share: float) -> float:
        return value * (1 + share * (2 * rng.random() - 1))

    true = {wait: 0.0, compute: 0.0}
    batches: list[tuple[Mark, Mark, float]] = []
    polls = 0
    reviews = _reviews(clock.now_ns)
    review = next(reviews)

    def run_until(instant: int) -> None:
        nonlocal polls, review
        while poller.next_poll < instant:
            if clock.now_ns >= review:
                ledger.fit()
                review = next(reviews)
            clock.now_ns = max(clock.now_ns, poller.next_poll + round(rng.random() * latency_s * NS_PER_S))
            poller.poll()
            polls += 1
        clock.now_ns = max(clock.now_ns, instant)

    start = clock.now_ns
    end = start + round(duration_s * NS_PER_S)
    while clock.now_ns < end:
        for bucket, length, watts in ((wait, wait_s, WAIT_WATTS), (compute, compute_s, COMPUTE_WATTS)):
            begin_ns = timeline.switch(bucket)
            curve.set(vary(watts, noise))
            before = curve.joules()
            opened = _mark(timeline, ledger) if bucket == compute else None
            run_until(begin_ns + round(vary(length, spread) * NS_PER_S))
            true[bucket] += curve.joules() - before
            if opened is not None:
                batches.append((opened, _mark(timeline, ledger), curve.joules() - before))
    ended = timeline.switch(0)
    curve.set(WAIT_WATTS)
    while not poller.known_until(ended):
        run_until(poller.next_poll + 1)
    grid = ledger.finder.grid.regularity
    poller.close()
    seconds = [t / NS_PER_S for t in timeline.look().totals]
    ledger.fit()
    times, used = ([[values[bucket]] for bucket in (wait, compute)] for values in (seconds, ledger.joules))
    splits = [split for split, _ in ledger.split(1, [[wait], [compute]], times, used)]
    errors = [abs((b.joules[ledger.device.id] - a.joules[ledger.device.id]) / truth - 1) for a, b, truth in batches[5:]]
    return Outcome(
        splits[0].joules,
        splits[0].half_width,
        splits[0].resolved,
        true[wait],
        sum(true.values()),
        sum(ledger.joules[1:]),
        errors,
        grid,
        polls,
    )


def _reviews(now: int) -> Iterator[int]:
    """Yield when a meter reviews what it knows: after 1, 2 and 4 s, then every 5 s."""
    for pause in chain((1, 2, 4), repeat(5)):
        now += pause * NS_PER_S
        yield now


def _mark(timeline: Timeline, ledger: Ledger) -> Mark:
    look = timeline.look()
    mark = Mark(look.now, look.totals)
    ledger.add_mark(mark)
    return mark
