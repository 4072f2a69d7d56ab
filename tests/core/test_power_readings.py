"""Readings of power: when they were renewed, of which time they are the mean, and what they say beside a counter."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from worlds import COMPUTE, WAIT, Floats, Shown, ShownTwice, World, measure, readings

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.attribution.renewals import Renewal, Renewals
from ml_energy_callbacks.backends.drivers.power_windows import window_of
from ml_energy_callbacks.clock import NS_PER_S
from ml_energy_callbacks.meter.points import Window
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.record.schema import EpochRecord
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedPower, SteppedMeter
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE

PERIOD_NS = 100_000_000


def renewals_of(values: list[float], seed: int = 1) -> list[Renewal]:
    """Poll readings that are renewed every 100 ms, as a meter does, and return the renewals that were found."""
    rng, found, now = random.Random(seed), Renewals(), PERIOD_NS
    seen: list[Renewal] = []
    while now < PERIOD_NS * len(values):
        renewal = found.add(now, now + 1000, values[now // PERIOD_NS])
        seen += [] if renewal is None else [renewal]
        usual = now + round(rng.uniform(0.03, 0.07) * NS_PER_S)
        wish, span = found.grid.next_poll(now + 1000), found.grid.span(now + 1000, usual)
        now = min(usual, wish or usual) if wish is not None or span is None else rng.randint(*span)
    return seen


def test_renewals_of_power_are_found_within_milliseconds() -> None:
    rng = random.Random(2)
    late = [seen for seen in renewals_of([rng.uniform(100, 300) for _ in range(300)]) if seen.time_ns > 5 * NS_PER_S]
    assert len(late) > 200
    for seen in late:
        off = (seen.time_ns + PERIOD_NS // 2) % PERIOD_NS - PERIOD_NS // 2
        assert abs(off) <= min(2_500_000, seen.sigma_ns * 3**0.5 + 1)


@pytest.mark.parametrize("powers", [2, 4])
def test_a_power_that_is_renewed_unchanged_does_not_end_the_grid(powers: int) -> None:
    for seed in range(10):
        rng = random.Random(seed)
        values = [100.0 + 10 * rng.randrange(powers) for _ in range(300)]  # often the same as before
        late = [seen for seen in renewals_of(values, seed) if seen.time_ns > 5 * NS_PER_S]
        assert len(late) > 100
        # Of two powers that are shown in turn by chance, the grid is not always found.
        assert powers == 2 or sum(seen.sigma_ns <= 5_000_000 for seen in late) >= 0.9 * len(late)
        for seen in late:
            off = (seen.time_ns + PERIOD_NS // 2) % PERIOD_NS - PERIOD_NS // 2
            assert abs(off) <= seen.sigma_ns * 3**0.5 + 1


class Fall:
    """A power of about 400 W that falls to about 60 W after 8 s."""

    def joules(self, times: Floats) -> Floats:
        """Return the energy in J up to each instant."""
        joules: Floats = 400 * times - 340 * (times - 8).clip(0) + 0.2 * np.sin(47 * times)
        return joules


@pytest.mark.parametrize("window_s", [0.025, 0.1, 1.0])
def test_the_energy_of_a_run_ends_where_the_run_ends(window_s: float) -> None:
    for seed in range(4):
        world = World(np.array([0.0, 8.0]), np.array([COMPUTE]), Fall(), counts=False, window_s=window_s)
        run = measure(world, seed)
        # Without dating back, it would be off by 340 W for 0.06 to 0.55 s. A renewal is known to some ms.
        slack = 340 * (0.03 if window_s < 0.1 else 0.01 + (window_s + 0.1) / 8)
        assert run.joules == pytest.approx(8 * 400, abs=slack)


@pytest.mark.parametrize("window_s", [0.025, 0.1, 1.0])
def test_phases_by_readings_of_power_hold(window_s: float) -> None:
    for seed in (1, 3):
        run = measure(readings(window_s)(seed), seed)
        assert run.holds()
        assert run.holds(COMPUTE)


def test_readings_of_an_unknown_window_give_a_range() -> None:
    run = measure(readings(0.1)(1), 1, power_window_s=None)
    assert not run.reported()
    assert run.holds()


# ------------------------------------------------------------------------------------------------ windows of a run


def windows(world: World, seed: int, seconds: float) -> list[tuple[float, Window]]:
    """Return windows of a run after each other, each with its true energy."""
    instants = np.arange(10.0, 50.0, seconds)
    run = measure(world, seed, asked_s=instants.tolist())
    true = np.diff(world.power.joules(instants))
    found = []
    for joules, (start, end) in zip(true.tolist(), pairwise(run.asked), strict=True):
        edges = iter((start, end))
        with Window(lambda edges=edges: next(edges)) as window:
            pass
        found.append((joules, window))
    return found


@pytest.mark.parametrize("window_s", [0.025, 0.1, 1.0])
def test_intervals_of_short_windows_hold_with_readings_of_power(window_s: float) -> None:
    held = []
    for seed in (1, 2, 3):
        for true, window in windows(readings(window_s)(seed), seed, 1.3):
            assert window.low_joules is not None
            assert window.high_joules is not None
            held.append(window.low_joules <= true <= window.high_joules)
    assert sum(held) >= 0.9 * len(held)


@pytest.mark.parametrize("counts", [False, True])
def test_a_card_that_samples_its_power_has_wider_windows(*, counts: bool) -> None:
    world = readings(0.025, counts=counts)(1)
    halves = []
    for seconds in (0.5, 2.0):
        each = [window for _, window in windows(world, 1, seconds)]
        ends = [(window.high_joules or 0.0, window.joules or 0.0) for window in each]
        assert all(joules > 0 for _, joules in ends)
        halves.append(np.median([(high - joules) / joules for high, joules in ends]))
    mean, deviation = _spread(world)
    for half, seconds in zip(halves, (0.5, 2.0), strict=True):
        assert half > 1.6 * deviation / mean * (0.1 / seconds) ** 0.5
    assert halves[0] > 1.5 * halves[1]


class Renewed(ScriptedPower):
    """A power that is renewed every 100 ms."""

    def read(self) -> float:
        """Return the power in W at the last renewal."""
        return self.curve.watts(self.clock() // 100_000_000 * 100_000_000)


def an_epoch(window_s: float, seconds: float) -> EpochRecord:
    """Return an epoch of a training whose GPU reports means over a window."""
    clock, rng = ManualClock(), random.Random(5)
    curve = PowerCurve(clock, 90.0)
    device = replace(SCRIPTED_DEVICE, method="power_integration", power_window_s=window_s)
    backends = [ScriptedBackend([Renewed(curve, clock, device=device)])]
    meter = SteppedMeter(clock, backends=backends, carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        for index in range(4):
            since, end = meter.point(), clock() + round(seconds * NS_PER_S)
            while clock() < end:
                clock.advance(0.05 * rng.uniform(0.6, 1.4))
                with meter.batch(samples=1):
                    curve.set(350.0)
                    clock.advance(0.1 * rng.uniform(0.6, 1.4))
                curve.set(90.0)
            assert meter.record.stages
            meter.close_epoch("train", index, since)
    return meter.record.epochs[-1]


def test_a_card_that_samples_its_power_has_wider_epochs() -> None:
    sampled, whole = an_epoch(0.025, 3.0), an_epoch(0.1, 3.0)
    deviation = 260 * (1 / 3 * 2 / 3) ** 0.5  # of power, in W
    cost = 2 * deviation * 0.1**0.5 * sampled.seconds**0.5
    assert sampled.sampling_joules == pytest.approx(cost, rel=0.3)
    assert whole.sampling_joules == 0


def _spread(world: World) -> tuple[float, float]:
    """Return the mean and the standard deviation of the power in windows of 25 ms, in W."""
    ends = np.arange(1.0, 50.0, 0.1)
    watts = (world.power.joules(ends) - world.power.joules(ends - 0.025)) / 0.025
    return float(watts.mean()), float(watts.std())


# ----------------------------------------------------------------------------------------------- beside a counter


@pytest.mark.parametrize("window_s", [0.025, 1.0])
def test_of_counter_and_power_the_narrower_interval_is_told(window_s: float) -> None:
    narrower = 0
    for seed in (1, 3):
        world = readings(window_s, counts=True, refresh_s=0.1)(seed)
        alone, both = measure(replace(world, window_s=None), seed), measure(world, seed)
        assert both.holds()
        assert not both.ledger.contradictory
        # With its power, too, the counter is polled at other instants.
        assert both.splits[WAIT].half_width <= 1.05 * alone.splits[WAIT].half_width
        narrower += both.splits[WAIT].half_width < 0.999 * alone.splits[WAIT].half_width
    assert narrower == 0 or window_s < 1


def test_where_counter_and_power_contradict_the_interval_contains_both() -> None:
    world = readings(1.0, counts=True)(1)
    alone, both = measure(replace(world, window_s=None), 1), measure(world, 1, power_window_s=0.025)
    assert both.ledger.contradictory
    assert both.holds()
    assert both.splits[WAIT].high > alone.splits[WAIT].high


class ShownTheOtherWayRound(ShownTwice):
    """A device whose power is below its mean where its counter says that it is above."""

    def watts(self) -> float:
        """Return the power that it shows now, in W."""
        end = self.world.edges[-1]
        mean = float(self.world.power.joules(end) / end)
        return mean + (mean - super().watts()) / 2


def run_of(world: World, device: Device, shown: type[Shown] = Shown) -> RunRecord:
    """Return the record of a training in a world, as a meter makes it."""
    clock = ManualClock()
    zero = clock() + round(1.9 * NS_PER_S)
    backend = ScriptedBackend([shown(world, clock, zero, 1, device)])
    with SteppedMeter(clock, backends=[backend], carbon_intensity=1, verbose=False) as meter:
        clock.advance((zero - clock()) / NS_PER_S)
        with meter.stage("train"):
            for wait, compute in np.diff(world.edges).reshape(-1, 2):
                clock.advance(float(wait))
                with meter.batch():
                    clock.advance(float(compute))
    return meter.record


def test_a_contradiction_of_counter_and_power_is_one_warning() -> None:
    world = replace(readings(0.025, counts=True)(1), edges=readings(0.025)(1).edges[:201])
    for shown, times in ((ShownTheOtherWayRound, 1), (ShownTwice, 0)):
        said = run_of(world, replace(SCRIPTED_DEVICE, power_window_s=0.025), shown).warnings
        assert sum("contradict each other" in warning for warning in said) == times


def test_the_reason_of_a_range_is_the_unknown_window() -> None:
    world = replace(readings(0.1)(1), edges=readings(0.1)(1).edges[:61])
    record = run_of(world, replace(SCRIPTED_DEVICE, method="power_integration"))
    wait = record.stages["train"].phases["data_wait"]
    assert wait.joules is None
    assert wait.low_joules is not None
    assert "a mean over a time that is unknown" in (wait.reason or "")


# ---------------------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("NVIDIA A100-SXM4-80GB", 0.025),
        ("NVIDIA A100 80GB PCIe", 0.025),
        ("NVIDIA H100 80GB HBM3", 0.025),
        ("NVIDIA GeForce RTX 3090", 0.1),
        ("NVIDIA RTX A5000", 0.1),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA A1000", None),
        ("Simulated GPU", None),
    ],
)
def test_only_measured_cards_have_a_known_window(name: str, seconds: float | None) -> None:
    assert window_of(name) == seconds
