"""No joule is lost, none is made: phases sum to stages, stages to the counter's own difference."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.attribution.timeline import Timeline
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.metrics import OUTSIDE
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedCounter

REST_WATTS = 10.0


def test_buckets_sum_to_the_counters_difference(*, full: bool) -> None:
    given(
        seed=st.integers(0, 2**32),
        period_s=st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.7]),
        interval_s=st.sampled_from([0.01, 0.05, 0.5]),
        buckets=st.integers(1, 6),
    )(settings(max_examples=100 if full else 15, deadline=None)(conserves))()


def conserves(seed: int, period_s: float, interval_s: float, buckets: int) -> None:
    """Play a random run on a random counter, and look for a joule that was lost or made."""
    rng = random.Random(seed)
    clock = ManualClock()
    curve = PowerCurve(clock, REST_WATTS)
    counter = ScriptedCounter(curve, clock, period_s=period_s, offset_s=rng.random() * period_s, resolution_joules=1e-6)
    timeline = Timeline(clock)
    indices = [timeline.add_bucket(1) for _ in range(buckets)]
    ledger = Ledger(counter.device)
    poller = Poller([(counter, ledger)], timeline, interval_s)
    poller.random.seed(seed)

    def run_for(seconds: float) -> None:
        end = clock.now_ns + round(seconds * 1e9)
        while poller.next_poll < end:
            clock.now_ns = max(clock.now_ns, poller.next_poll)
            poller.poll()
        clock.now_ns = end

    first = counter.read()
    run_for(2.0)
    for _ in range(rng.randint(1, 60)):
        timeline.switch(rng.choice(indices))
        curve.set(rng.choice([REST_WATTS, 50.0, 400.0]))
        run_for(rng.expovariate(1 / rng.choice([0.01, 0.1, 1.0])))
    ended = timeline.switch(OUTSIDE)
    curve.set(REST_WATTS)
    run_for(2.0)
    poller.poll(ended)
    assert poller.known_until(ended)
    spread = sum(ledger.joules)
    assert ledger._knot is not None
    assert spread == pytest.approx(ledger._knot.joules, rel=1e-9)
    # What the counter has shown since is not spread yet. A poll that falls into the doubt about a refresh tells nothing, so
    # that it may be the rest of some polls.
    assert 0 <= counter.read() - first - spread + 1e-9 <= REST_WATTS * (2 * period_s + 4 * interval_s)
    poller.close()
    seconds = [total / 1e9 for total in timeline.look().totals]
    parts = [[seconds[i]] for i in indices]
    joules = [[ledger.joules[i]] for i in indices]
    ledger.fit()
    splits = [split for split, _ in ledger.split(1, [[i] for i in indices], parts, joules)]
    assert sum(split.joules for split in splits) == pytest.approx(sum(map(sum, joules)), rel=1e-9, abs=1e-9)
    assert all(split.joules >= 0 for split in splits)
    assert all(value >= 0 for value in ledger.joules)
