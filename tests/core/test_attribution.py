"""Marks on a ledger: a window's edge has the energy up to it, or nothing where that is not known."""

import pytest

from ml_energy_callbacks.attribution.ledger import Ledger, Mark
from ml_energy_callbacks.attribution.timeline import Edge, Timeline, TimelineReader
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.readings import Device, Reading
from ml_energy_callbacks.testing import ManualClock

COUNTER = Device(
    id="x:0",
    name="x",
    kind="cpu",
    backend="x",
    method="energy_counter",
    provenance="measured",
    relative_uncertainty=0.05,
    update_period_s=0.001,
)


class World:
    """One device of 10 W under a manual clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.timeline = Timeline(self.clock)
        self.bucket = self.timeline.add_bucket(1)
        self.reader = TimelineReader(self.timeline)
        self.ledger = Ledger(COUNTER, 0.05)
        self.start = self.timeline.switch(self.bucket)

    def read(self, seconds: float, offset: float = 0.0, *, fails: bool = False) -> None:
        """Go on for so long with a reading each 0.1 s, at 10 W; each fails, or is off by so many joules."""
        for _ in range(round(seconds * 10)):
            self.clock.now_ns += NS_PER_S // 10
            joules = 10.0 * (self.clock() - self.start) / NS_PER_S + offset
            self.reader.refresh()
            self.ledger.add_readings([(Reading(self.clock(), self.clock(), None if fails else joules), None)], self.reader)

    def mark(self) -> Mark:
        look = self.timeline.look()
        mark = Mark(look.now, look.totals, frozenset({"x:0"}))
        self.ledger.add_mark(mark)
        return mark


@pytest.mark.parametrize("pending", [False, True])
def test_a_mark_in_a_gap_is_never_told_and_one_behind_it_knows_of_the_gap(pending: bool) -> None:  # noqa: FBT001
    world = World()
    world.read(1)
    if pending:  # an edge that its device has yet to pass: what comes after is provisional
        world.timeline.queue.append(("switch", Edge(world.clock(), world.clock()), world.bucket, 0, None, None))
    before = world.mark()
    world.read(1)
    world.read(1, fails=True)
    inside = world.mark()
    world.read(1, fails=True)
    world.read(1, offset=-30.0)  # it began anew
    behind = world.mark()
    world.read(1, offset=-30.0)
    world.timeline.forget_edges()
    world.read(0.2, offset=-30.0)
    assert before.joules["x:0"] == pytest.approx(9, abs=0.1)  # the first reading is at 0.1 s
    assert "x:0" not in inside.joules
    assert behind.gaps["x:0"] == before.gaps["x:0"] + 1


def test_a_device_that_is_not_read_after_a_pause_leaves_the_marks_of_then_unknown() -> None:
    world = World()
    world.read(4)
    world.ledger.pause(world.reader, world.reader.refresh())
    world.ledger.reopen(COUNTER, 0.05)
    marks = [world.mark(), world.mark()]
    world.clock.now_ns += NS_PER_S
    world.ledger.pause(world.reader, world.reader.refresh())
    assert [mark.joules for mark in marks] == [{}, {}]


class Steady:
    """A device that tells its power, which never changes."""

    device = Device(
        id="steady:0",
        name="steady",
        kind="gpu",
        backend="steady",
        method="power_integration",
        provenance="measured",
        relative_uncertainty=0.05,
        update_period_s=None,
    )

    def read(self) -> float:
        return 35.0

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("interval_s", [0.05, 0.4, 1.0])
def test_a_power_that_stays_the_same_is_news_all_the_same(interval_s: float) -> None:
    clock = ManualClock()
    timeline = Timeline(clock)
    bucket = timeline.add_bucket(1)
    ledger = Ledger(Steady.device, interval_s)
    poller = Poller([(Steady(), ledger)], timeline, interval_s)
    start = timeline.switch(bucket)
    while not poller.ready:
        clock.now_ns = max(clock.now_ns + 1000, poller.next_poll)
        poller.poll()
    assert (clock() - start) / NS_PER_S <= 1.5 * interval_s
    look = timeline.look()
    mark = Mark(look.now, look.totals, frozenset({"steady:0"}))
    ledger.add_mark(mark)
    while not mark.joules:
        clock.now_ns = max(clock.now_ns + 1000, poller.next_poll)
        poller.poll()
    assert (clock() - mark.time_ns) / NS_PER_S <= 1.5 * interval_s


def test_no_reading_waits_for_longer_than_the_longer_of_a_fifth_of_a_second_and_the_interval() -> None:
    for interval_s in (0.05, 0.3, 1.0):
        clock = ManualClock()
        timeline = Timeline(clock)
        timeline.switch(timeline.add_bucket(1))

        class Counting(Steady):
            device = COUNTER

            def read(self, clock: ManualClock = clock) -> float:
                return clock() / NS_PER_S * 10

        ledger = Ledger(COUNTER, interval_s)
        poller = Poller([(Counting(), ledger)], timeline, interval_s)
        for _ in range(300):
            clock.now_ns = max(clock.now_ns + 1000, poller.next_poll)
            poller.poll()
            if ledger.known_until is not None:
                assert clock() - ledger.known_until <= max(0.2, 0.1 * interval_s) * NS_PER_S
