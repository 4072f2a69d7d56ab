"""Raw values of a device become joules that only grow."""

import pytest

from ml_energy_callbacks.attribution.counters import EnergyCounter, PowerIntegral
from ml_energy_callbacks.clock import NS_PER_S


@pytest.mark.parametrize(
    ("wrap", "values", "steps", "joules"),
    [
        (None, [5.0, 6.0, 6.0, 9.0], ["first", "normal", "normal", "normal"], 4.0),
        (100.0, [95.0, 98.0, 3.0, 4.0], ["first", "normal", "wrapped", "normal"], 9.0),
        (None, [95.0, 98.0, 3.0, 4.0], ["first", "normal", "reset", "normal"], 4.0),
        (262_144.0, [200_000.0, 10.0], ["first", "reset"], 0.0),
        (None, [10.0, 1e6, 1e6 + 1], ["first", "reset", "normal"], 1.0),
    ],
    ids=["normal", "wrap", "reset", "a-reset-is-no-wrap", "implausible-jump"],
)
def test_a_counter_is_unwrapped(wrap: float | None, values: list[float], steps: list[str], joules: float) -> None:
    counter = EnergyCounter(wrap)
    assert [counter.advance(i * NS_PER_S, value) for i, value in enumerate(values)] == steps
    assert counter.joules == pytest.approx(joules)


def test_power_is_integrated_by_the_trapezoidal_rule() -> None:
    integral = PowerIntegral()
    steps = [integral.advance(i * NS_PER_S // 2, watts) for i, watts in enumerate([100.0, 200.0, 200.0])]
    assert steps == ["first", "normal", "normal"]
    assert integral.joules == pytest.approx(75 + 100)


def test_power_is_not_integrated_over_a_gap() -> None:
    integral = PowerIntegral()
    steps = [integral.advance(second * NS_PER_S, 100.0) for second in (0, 1, 5, 6)]
    assert steps == ["first", "normal", "reset", "normal"]
    assert integral.joules == pytest.approx(200)
