"""Counters that fall, jump and return: what counts is what the device drew."""

from dataclasses import dataclass, replace

import pytest

from ml_energy_callbacks.attribution.counters import EnergyCounter
from ml_energy_callbacks.attribution.knots import KnotFinder
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.readings import Kind, Reading
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.nvml import SimulatedDriver

WATTS = 140.0
MISSING = "was reset or jumped; its energy just before that is not included"
RETURNED = "jumped and returned; what it showed in between was not counted"


@dataclass(slots=True)
class Jumping(ScriptedCounter):
    """A counter that a test moves away from its level, or to one value.

    Attributes:
        moved: It shows so many joules more.
        shows: It shows this instead.
    """

    moved: float = 0.0
    shows: float | None = None

    def read(self) -> float:
        return ScriptedCounter.read(self) + self.moved if self.shows is None else self.shows


def jumping(clock: ManualClock, start_joules: float, **changes: object) -> Jumping:
    counter = Jumping(PowerCurve(clock, WATTS), clock, period_s=0.02, start_joules=start_joules)
    counter.device = replace(counter.device, **changes)
    return counter


def stepped(clock: ManualClock, *sources: ScriptedCounter) -> SteppedMeter:
    return SteppedMeter(clock, backends=[ScriptedBackend(list(sources))], carbon_intensity=1, verbose=False)


def true_joules(record: RunRecord, watts: float = WATTS) -> float:
    return watts * record.total.seconds


@pytest.mark.parametrize("kind", ["gpu", "cpu", "board"])
def test_a_counter_that_falls_and_comes_back_counts_once(kind: Kind) -> None:
    clock = ManualClock()
    counter = jumping(clock, 72_688.7, kind=kind)
    with stepped(clock, counter) as m:
        clock.advance(1.5)
        counter.moved = -213.5
        clock.advance(0.1)
        counter.moved = 0.0
        clock.advance(1.4)
    # As the reads fall, the energy of the 0.1 s in which it was away, and of a wait between reads, may be missing.
    assert m.record.total.joules == pytest.approx(true_joules(m.record), abs=WATTS * 0.17)
    assert [RETURNED in warning for warning in m.record.warnings] == [True]


@pytest.mark.parametrize("kind", ["gpu", "cpu", "board"])
@pytest.mark.parametrize("wrap", [None, 65_532.6, 262_143.3])
@pytest.mark.parametrize("shows", [0.0, 30_200.0])
def test_one_false_reading_adds_no_energy(kind: Kind, wrap: float | None, shows: float) -> None:
    clock = ManualClock()
    counter = jumping(clock, 30_000.0, kind=kind, wrap_joules=wrap)
    with stepped(clock, counter) as m:
        clock.advance(0.5)
        counter.shows = shows
        clock.advance(0.06)  # one reading, or two
        counter.shows = None
        clock.advance(2.5)
    assert m.record.total.joules == pytest.approx(true_joules(m.record), rel=0.01)
    assert m.record.devices[0].missing_s < 0.3
    assert not any(MISSING in warning for warning in m.record.warnings)


def test_a_counter_that_stays_on_its_new_level_goes_on_from_there() -> None:
    clock = ManualClock()
    counter = jumping(clock, 30_000.0)
    with stepped(clock, counter) as m:
        clock.advance(1.0)
        counter.moved = -30_000.0
        clock.advance(1.0)
        counter.failing = True
        clock.advance(600)  # much more than the fall is counted in one step
        counter.failing = False
        clock.advance(1.0)
    assert m.record.total.joules == pytest.approx(true_joules(m.record), rel=0.01)
    assert any(MISSING in warning for warning in m.record.warnings)


def test_a_fall_that_stays_is_told_while_the_run_goes_on() -> None:
    clock = ManualClock()
    counter = jumping(clock, 30_000.0)
    with stepped(clock, counter) as m:
        clock.advance(1.5)
        counter.moved = -30_000.0
        clock.advance(3.0)  # the review at 3 s
        assert not m.record.warnings
        clock.advance(6.0)
        assert any(MISSING in warning for warning in m.record.warnings)


@pytest.mark.parametrize("joules", [-900.0, 900.0])
def test_a_gpu_that_jumps_eight_times_counts_what_it_drew(driver: SimulatedDriver, joules: float) -> None:
    clock = ManualClock()
    driver.start(curves=[PowerCurve(clock, WATTS)], clock=clock)
    driver.set_limit(300)
    with SteppedMeter(clock, devices=["nvml:*"], carbon_intensity=1, verbose=False) as m:
        clock.advance(1.0)
        for turn in range(8):
            driver.jump(joules * (-1) ** turn)
            clock.advance(0.5)
    assert m.record.total.joules == pytest.approx(true_joules(m.record), rel=0.05)
    assert not any(MISSING in warning for warning in m.record.warnings)


@pytest.mark.parametrize("joules", [-900.0, 900.0])
def test_power_stands_in_where_a_counter_jumps_for_good(driver: SimulatedDriver, joules: float) -> None:
    for _ in range(4):  # polls are at random instants
        clock = ManualClock()
        driver.start(curves=[PowerCurve(clock, WATTS)], clock=clock)
        driver.jump(50_000)
        with SteppedMeter(clock, devices=["nvml:*"], carbon_intensity=1, verbose=False) as m:
            for _ in range(8):
                clock.advance(0.5)
                driver.jump(joules)
            clock.advance(0.5)
        refresh = 0.1 * WATTS  # the simulated counter jumps between two refreshes
        assert m.record.total.joules == pytest.approx(true_joules(m.record), abs=8 * refresh)
        (warning,) = m.record.warnings
        assert warning.endswith("jumped; its power was integrated in that moment instead.")


def follow(finder: KnotFinder, values: list[tuple[float, float]]) -> float:
    for seconds, value in values:
        time_ns = round(seconds * NS_PER_S)
        finder.add_reading(Reading(time_ns, time_ns + 1000, value))
    return finder.joules


def test_what_follows_a_fall_is_bounded_by_the_devices_own_limit() -> None:
    device = replace(jumping(ManualClock(), 0).device, update_period_s=0.001, max_watts=100.0)
    finder = KnotFinder(device)
    falls = [(i / 10, 1000.0 + 5 * i) for i in range(10)] + [(1.0, 500.0), (1.1, 600.0), (1.2, 605.0)]
    assert follow(finder, falls) == pytest.approx(45 + 5)  # 100 J in 0.1 s are 1 kW
    assert finder.resets == 2


def test_a_counter_returns_by_way_of_several_falls() -> None:
    counter = EnergyCounter(max_watts=700.0)
    levels = [0.0, 0.0, -900.0, -1800.0, -900.0, 0.0, 0.0]
    steps = [counter.advance(i * NS_PER_S // 10, 5000 + 14.0 * i + level) for i, level in enumerate(levels)]
    assert steps == ["first", "normal", "reset", "reset", "reset", "returned", "normal"]
    assert counter.joules == pytest.approx(14.0 * 6)
