"""The power curves of the simulated world: the integral in closed form is the integral."""

import pytest

from ml_energy_callbacks.testing import Curve, ManualClock, PowerCurve, SineCurve, SquareCurve, StepCurve


def set_as_it_goes(ramp_s: float = 0.0) -> PowerCurve:
    clock = ManualClock(0)
    curve = PowerCurve(clock, 40, ramp_s)
    for seconds, watts in ((0.5, 300), (0.25, 0), (0.03, 200), (0.72, 120)):
        clock.advance(seconds)
        curve.set(watts)
    return curve


@pytest.mark.parametrize(
    "curve",
    [
        StepCurve([(0, 50), (0.3, 250), (1.1, 10)], start_ns=200_000_000),
        SquareCurve(50, 400, period_s=0.17, duty=0.3, start_ns=90_000_000),
        SineCurve(200, 150, period_s=0.4, start_ns=70_000_000),
        set_as_it_goes(),
        set_as_it_goes(ramp_s=0.05),
    ],
    ids=["steps", "squares", "sines", "set", "ramps"],
)
def test_joules_are_the_integral_of_watts(curve: Curve) -> None:
    step = 100_000  # 0.1 ms
    for begin, end in ((0, 2_000_000_000), (130_000_000, 1_370_000_000)):
        summed = sum(curve.watts(t + step // 2) for t in range(begin, end, step)) * step / 1e9
        assert curve.joules(end) - curve.joules(begin) == pytest.approx(summed, rel=1e-3)


def test_power_changes_linearly_within_a_ramp() -> None:
    clock = ManualClock(0)
    curve = PowerCurve(clock, 100, ramp_s=0.02)
    curve.set(300)
    assert [curve.watts(round(seconds * 1e9)) for seconds in (-1, 0, 0.005, 0.02, 5)] == [100, 100, 150, 300, 300]
    clock.advance(0.01)
    curve.set(0)  # before the ramp has ended
    assert [curve.watts(round(seconds * 1e9)) for seconds in (0.01, 0.02, 0.03)] == [200, 100, 0]
