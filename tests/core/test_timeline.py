"""Time in each bucket, exact, for any instant of the near past."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_energy_callbacks.attribution.timeline import Timeline, TimelineReader
from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.testing import ManualClock


def test_totals_are_the_time_spent_in_each_bucket() -> None:
    clock = ManualClock()
    timeline = Timeline(clock)
    a, b = timeline.add_bucket(), timeline.add_bucket()
    timeline.switch(a)
    clock.advance(2)
    timeline.switch(b)
    clock.advance(3)
    assert timeline.look().totals == [0, 2_000_000_000, 3_000_000_000]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000)), max_size=60), st.integers(0, 20_000))
def test_totals_of_the_past_are_those_that_a_look_then_would_have_shown(switches: list[tuple[int, int]], back: int) -> None:
    clock = ManualClock(1_000_000)
    timeline = Timeline(clock)
    for _ in range(3):
        timeline.add_bucket()
    history: list[tuple[int, list[int], int]] = []

    def pass_time(steps: int) -> None:
        for _ in range(steps):
            look = timeline.look()
            history.append((clock.now_ns, look.totals, look.running))
            clock.now_ns += 1

    for bucket, length in switches:
        timeline.switch(bucket)
        pass_time(length % 40)
    pass_time(5)
    reader = TimelineReader(timeline)
    instant, totals, bucket = history[-1 - back % len(history)]
    seen, running = reader.at(instant)
    assert seen == [float(t) for t in totals]
    assert running == bucket or instant in {time for time, _, _ in history}


def test_a_signal_that_looks_in_the_middle_of_a_look_breaks_nothing() -> None:
    timeline = Timeline(monotonic_clock)
    a, b = timeline.add_bucket(1), timeline.add_bucket(1)
    looks = 0

    def look(*_: object) -> None:
        nonlocal looks
        looks += 1
        timeline.look()

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        begun, batches = timeline.switch(a), 0
        while looks <= 100 and monotonic_clock() < begun + 30 * NS_PER_S:
            for _ in range(50):
                timeline.switch(a)
                timeline.queue.append(("batches", timeline.clock(), b, 1, 2, None))
                batches += 1
            timeline.look()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    last = timeline.look()
    assert looks > 100
    assert (last.counts[1].batches, last.counts[1].samples) == (batches, 2 * batches)
    assert sum(last.totals[1:]) == pytest.approx(last.now - begun, rel=0.001)


def test_memory_of_single_switches_ends_and_time_is_then_interpolated_between_looks() -> None:
    clock = ManualClock()
    timeline = Timeline(clock)
    a, b = timeline.add_bucket(), timeline.add_bucket()
    reader = TimelineReader(timeline)
    start = clock.now_ns
    for _ in range(5000):
        timeline.switch(a)
        clock.now_ns += 1000
        timeline.switch(b)
        clock.now_ns += 3000
    reader.refresh()
    totals, _ = reader.at(start + 4_000_000)
    assert totals[a] == pytest.approx(1_000_000, abs=4000)
    assert totals[b] == pytest.approx(3_000_000, abs=4000)
