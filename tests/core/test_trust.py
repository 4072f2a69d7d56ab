"""Which counters are believed: those that stand still, jump, run back, copy another or disagree with their power are not."""

import random
from dataclasses import dataclass, replace

import pytest

from ml_energy_callbacks.attribution.cross_check import CrossCheck
from ml_energy_callbacks.attribution.knots import KnotFinder
from ml_energy_callbacks.backends.discovery import discover
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.readings import Device, Kind, Reading
from ml_energy_callbacks.testing import (
    Curve,
    ManualClock,
    PowerCurve,
    ScriptedBackend,
    ScriptedCounter,
    SquareCurve,
    SteppedMeter,
)

COUNTER = ScriptedCounter(PowerCurve(monotonic_clock, 100), monotonic_clock).device


def named(number: int, **changes: object) -> Device:
    return replace(COUNTER, id=f"scripted:{number}", **changes)


@dataclass(slots=True)
class CounterWithPower(ScriptedCounter):
    """A counter that tells its power, too."""

    power: Curve | None = None

    def watts(self) -> float:
        assert self.power is not None
        return self.power.watts(self.clock())


def counter(number: int = 0, watts: float = 100, clock: Clock = monotonic_clock) -> ScriptedCounter:
    curve = PowerCurve(clock, watts)
    return ScriptedCounter(curve, clock, device=named(number), period_s=0.02, start_joules=1000 * (number + 1))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def meter(clock: ManualClock, *sources: ScriptedCounter) -> SteppedMeter:
    return SteppedMeter(clock, backends=[ScriptedBackend(list(sources))], carbon_intensity=1, verbose=False)


def test_a_counter_that_stands_still_is_refused_and_unknown_not_zero(clock: ManualClock) -> None:
    with meter(clock, counter(0, clock=clock), counter(1, watts=0, clock=clock)) as m:
        clock.advance(0.3)
    assert [device.id for device in m.record.devices] == ["scripted:0"]
    assert any("scripted:1 is frozen" in warning for warning in m.record.warnings)
    with meter(clock, counter(1, watts=0, clock=clock)) as m:
        clock.advance(0.1)
    assert m.record.total.joules is None


def test_where_the_counter_stands_still_a_device_that_tells_its_power_is_measured_by_that(clock: ManualClock) -> None:
    power = PowerCurve(clock, 80)
    still = CounterWithPower(PowerCurve(clock, 0), clock, device=named(0), power=power)
    with meter(clock, still) as m:
        clock.advance(0.5)
    (device,) = m.record.devices
    assert (device.method, device.provenance) == ("power_integration", "measured")
    assert device.joules == pytest.approx(80 * m.record.total.seconds, rel=0.1)
    assert "is frozen" in (device.note or "")


def test_a_counter_that_copies_another_counts_once() -> None:
    curve = PowerCurve(monotonic_clock, 100)
    one, copy = (ScriptedCounter(curve, monotonic_clock, device=named(i), period_s=0.001) for i in (0, 1))
    own = ScriptedCounter(curve, monotonic_clock, device=named(2), period_s=0.001, start_joules=50)
    found = discover(backends=[ScriptedBackend([one, copy, own])])
    assert [source.device.id for source in found.sources] == ["scripted:0", "scripted:2"]
    assert "scripted:1 has the same counter as scripted:0" in found.refused["scripted:1"]


def follow(finder: KnotFinder, values: list[tuple[float, float | None]]) -> None:
    for seconds, value in values:
        time_ns = round(seconds * NS_PER_S)
        finder.add_reading(Reading(time_ns, time_ns + 1000, value))


def test_a_counter_that_freezes_in_mid_run_is_a_gap_and_goes_on() -> None:
    finder = KnotFinder(named(0, update_period_s=0.001))
    moving = [(i / 10, 100.0 + 10 * i) for i in range(20)]
    frozen = [(2 + i / 10, 290.0) for i in range(100)]
    follow(finder, [*moving, *frozen])
    assert finder.frozen
    assert finder.silent
    assert finder.missing_at(12 * NS_PER_S) / NS_PER_S == pytest.approx(10.1, abs=0.2)
    follow(finder, [(12.1, 300.0), (12.2, 310.0)])
    assert not finder.silent
    assert finder.missing_ns / NS_PER_S == pytest.approx(10.2, abs=0.2)
    assert finder.joules == pytest.approx(210)


def test_a_device_that_draws_nothing_by_its_power_is_no_frozen_counter() -> None:
    finder = KnotFinder(named(0, method="power_integration"))
    follow(finder, [(i / 10, 0.0) for i in range(100)])
    assert not finder.frozen
    assert finder.joules == 0


def test_a_counter_that_runs_backwards_gives_no_energy() -> None:
    finder = KnotFinder(named(0, update_period_s=0.001))
    follow(finder, [(i / 10, 1000.0 - i) for i in range(50)])
    assert finder.joules == 0
    assert finder.missing_ns / NS_PER_S == pytest.approx(4.9, abs=0.1)
    assert finder.resets == 49


@pytest.mark.parametrize("nonsense", [1e12, float("nan"), float("inf"), None])
@pytest.mark.parametrize("wrap", [None, 65_532.6])
def test_one_nonsensical_value_costs_its_own_moment_alone(nonsense: float | None, wrap: float | None) -> None:
    finder = KnotFinder(named(0, update_period_s=0.001, wrap_joules=wrap))
    good = [(i / 10, 100.0 + 10 * i) for i in range(100)]
    good[50] = (5.0, nonsense)
    follow(finder, good)
    assert finder.joules == pytest.approx(990, abs=21)
    assert 0.05 < finder.missing_ns / NS_PER_S < 0.25


@pytest.mark.parametrize("watts", [-5.0, float("nan"), 1e9])
def test_a_nonsensical_power_is_a_gap(watts: float) -> None:
    finder = KnotFinder(named(0, method="power_integration"))
    readings: list[tuple[float, float | None]] = [(i / 10, 100.0) for i in range(21)]
    readings[10] = (1.0, watts)
    follow(finder, readings)
    assert finder.joules == pytest.approx(180)
    assert finder.missing_ns / NS_PER_S == pytest.approx(0.2, abs=0.01)


def test_what_a_model_that_fell_silent_did_not_count_is_a_gap_and_no_zero() -> None:
    finder = KnotFinder(named(0, method="model", provenance="estimated", update_period_s=0.0))
    counted: list[tuple[float, float | None]] = [(i / 10, 10.0 * i) for i in range(21)]
    silent: list[tuple[float, float | None]] = [(2 + i / 10, None) for i in range(1, 30)]
    follow(finder, [*counted, *silent])
    time_ns = 5 * NS_PER_S
    (knot,) = finder.add_reading(Reading(time_ns, time_ns + 1000, 200.0))  # it did not go on counting
    assert knot.starts
    assert finder.missing_ns / NS_PER_S == pytest.approx(3.0, abs=0.01)
    follow(finder, [(5.1, 210.0)])
    assert finder.joules == pytest.approx(210)


@pytest.mark.parametrize(("kind", "accepted"), [("dram", False), ("gpu", True)])
def test_what_is_plausible_goes_by_the_kind_of_device(kind: Kind, *, accepted: bool) -> None:
    finder = KnotFinder(named(0, update_period_s=0.001, kind=kind))
    follow(finder, [(0, 0.0), (0.1, 10.0), (1.1, 2010.0)])  # 2 kW
    assert finder.joules == (2010 if accepted else 10)


def test_a_wrap_and_a_reset_are_told_apart() -> None:
    device = named(0, update_period_s=0.001, kind="cpu", wrap_joules=65_532.6)
    wrapped = KnotFinder(device)
    follow(wrapped, [(0, 65_500.0), (0.1, 65_520.0), (0.2, 7.4)])
    assert (wrapped.joules, wrapped.resets) == (pytest.approx(40), 0)
    reset = KnotFinder(device)
    follow(reset, [(0, 30_000.0), (0.1, 30_020.0), (0.2, 5.0), (0.3, 25.0)])
    assert (reset.joules, reset.resets) == (pytest.approx(40), 1)


def test_after_a_silence_in_which_a_counter_may_have_wrapped_more_than_once_its_energy_is_unknown() -> None:
    device = named(0, update_period_s=0.001, kind="cpu", wrap_joules=65_532.6)
    finder = KnotFinder(device)
    follow(finder, [(0, 100.0), (0.1, 110.0), (60.0, 50.0), (60.1, 60.0)])
    assert finder.joules == pytest.approx(20)
    assert finder.missing_ns / NS_PER_S == pytest.approx(59.9, abs=0.1)


def test_a_counter_is_held_against_its_power() -> None:
    curve = SquareCurve(100, 300, 0.5)
    for factor, suspicious in ((1.0, False), (1.05, False), (1.25, True), (0.6, True)):
        check = CrossCheck()
        for i in range(600):
            now = i * NS_PER_S // 20
            check.add_pair(now, factor * curve.joules(now), curve.watts(now), 0)
        assert check.difference == pytest.approx(factor - 1, abs=0.01)
        assert check.suspicious is suspicious


def test_chance_accuses_no_good_counter(*, full: bool) -> None:
    accused, seeds = 0, 100 if full else 30
    for seed in range(seeds):
        rng = random.Random(seed)
        curve = SquareCurve(90, 420, 0.1)
        check, now = CrossCheck(), 0
        for _ in range(600):
            now += round((0.03 + 0.04 * rng.random()) * NS_PER_S)
            check.add_pair(now, curve.joules(now), curve.watts(now), 0)
            if check.suspicious:
                accused += 1
                break
    assert accused <= 0.01 * seeds


def test_one_nonsensical_power_does_not_spoil_the_check(clock: ManualClock) -> None:
    power = PowerCurve(clock, 100)
    good = CounterWithPower(PowerCurve(clock, 100), clock, device=named(0), period_s=0.02, power=power)
    with meter(clock, good) as m:
        clock.advance(1.5)
        power.set(4_294_967.295)
        clock.advance(0.2)
        power.set(100)
        clock.advance(1.5)
    assert m.record.devices[0].cross_check == pytest.approx(0, abs=0.05)


def test_a_counter_that_copies_another_backends_counts_once_and_a_backend_given_twice_as_well() -> None:
    curve = PowerCurve(monotonic_clock, 100)
    one, copy = (ScriptedCounter(curve, monotonic_clock, device=named(i), period_s=0.02) for i in (0, 1))
    copy.device = replace(copy.device, id="other:0", backend="other")
    found = discover(backends=[ScriptedBackend([one]), ScriptedBackend([copy])])
    assert [source.device.id for source in found.sources] == ["scripted:0"]
    found = discover(backends=[ScriptedBackend([one]), ScriptedBackend([one])])
    assert [source.device.id for source in found.sources] == ["scripted:0"]


def test_a_device_of_an_unknown_kind_is_a_fault_of_its_backend() -> None:
    odd = counter(0)
    odd.device = replace(odd.device, kind="npu")  # type: ignore[arg-type]
    found = discover(backends=[ScriptedBackend([odd], name="odd"), ScriptedBackend([counter(1)])])
    assert [source.device.id for source in found.sources] == ["scripted:1"]
    assert "'npu'" in found.unavailable["odd"].reason


def test_a_counter_that_says_that_it_is_slow_is_waited_for() -> None:
    slow = counter(0)
    slow.period_s, slow.device = 1.5, replace(slow.device, update_period_s=1.5)
    assert len(discover(backends=[ScriptedBackend([slow])]).sources) == 1


def test_a_counter_that_disagrees_with_its_power_is_told_and_is_less_sure(clock: ManualClock) -> None:
    curve, power = PowerCurve(clock, 130), PowerCurve(clock, 100)
    off = CounterWithPower(curve, clock, device=replace(named(0), relative_uncertainty=0.1), period_s=0.02, power=power)
    with meter(clock, off) as m:
        clock.advance(3)
    (device,) = m.record.devices
    assert device.cross_check == pytest.approx(0.3, abs=0.05)
    assert device.relative_uncertainty == pytest.approx(0.3, abs=0.05)
    assert m.record.total.relative_uncertainty == pytest.approx(0.3, abs=0.05)
    assert any("differs from the device's integrated power" in warning for warning in m.record.warnings)


def test_how_regular_a_counters_refresh_is_stands_in_the_record(clock: ManualClock) -> None:
    with meter(clock, counter(0, clock=clock)) as m:
        clock.advance(0.8)
    (device,) = m.record.devices
    assert device.refresh == "regular"
    assert device.update_period_s == pytest.approx(0.02, rel=0.01)
    assert device.refresh_jitter_s == pytest.approx(0, abs=0.004)
