"""Early stopping by gain per kWh, and forecasts: the rules alone."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from ml_energy_callbacks.control import Forecaster, GainRule, Spent
from ml_energy_callbacks.record.schema import StoppingRecord

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def rule(**options: object) -> GainRule:
    return GainRule("Stop", **{"monitor": "val_loss", "min_gain_per_kwh": 0.1, "patience": 2, "mode": "min", **options})  # type: ignore[arg-type]


def test_a_gain_has_to_pay_for_the_energy_since_the_best() -> None:
    stop = rule()
    assert stop.check_value(1.0, 1.0) is None
    assert stop.check_value(0.8, 2.0) is None  # 0.2 for 1 kWh
    assert stop.state.best == 0.8
    assert stop.check_value(0.75, 3.0) is None  # 0.05 for 1 kWh: the first poor one
    assert (stop.state.best, stop.state.waited) == (0.8, 1)
    assert stop.check_value(0.59, 4.0) is None  # 0.21 for 2 kWh
    assert (stop.state.best, stop.state.waited) == (0.59, 0)
    assert stop.check_value(0.58, 5.0) is None
    assert stop.check_value(0.57, 6.0) == "val_loss gained less than 0.1 per kWh since its best, 0.59, 2 times in a row."


def test_energy_that_falls_makes_no_gain_worth_it() -> None:
    stop = rule(min_gain_per_kwh=1e12)
    assert stop.check_value(1.0, 2.0) is None
    assert stop.check_value(0.9, 1.9) is None  # what was extrapolated at first was too much
    assert stop.check_value(0.8, 3.0) is not None


def test_more_may_be_better_and_what_is_no_number_is_no_gain() -> None:
    stop = rule(mode="max", patience=3, min_gain_per_kwh=1.0)
    for value, kwh in ((0.2, 0.1), (0.5, 0.2), (float("nan"), 0.3), (float("inf"), 0.4)):
        assert stop.check_value(value, kwh) is None
    assert (stop.state.best, stop.state.waited) == (0.5, 2)
    assert stop.check_value(0.4, 0.5) is not None
    first = rule(patience=1)
    assert first.check_value(float("nan"), 0.1) == "val_loss gained less than 0.1 per kWh."


def test_a_restored_rule_goes_on_and_another_metrics_state_is_left() -> None:
    kept = StoppingRecord(monitor="val_loss", mode="min", min_gain_per_kwh=9.0, patience=9, best=0.5, best_kwh=2.0, waited=1)
    stop = rule()
    stop.restore_state(kept)
    assert stop.check_value(0.5, 3.0) is not None
    assert stop.state.patience == 2
    other = rule(monitor="accuracy", mode="max")
    other.restore_state(kept)
    assert other.state.best is None


def spent(done: float, kwh: float, seconds: float, compile_kwh: float = 0.0, compile_seconds: float = 0.0) -> Spent:
    return Spent(done, kwh, seconds, apart_kwh=compile_kwh, apart_seconds=compile_seconds, co2e_grams=100 * kwh, cost=0.5 * kwh)


def test_a_forecast_leaves_out_compiling_and_what_was_before() -> None:
    forecaster = Forecaster(spent(0.0, 5.0, 100.0))
    found = forecaster.forecast_after(spent(0.1, 8.0, 400.0, compile_kwh=1.0, compile_seconds=100.0), NOW)
    assert found is not None
    assert found.kwh == pytest.approx(8 + 9 * 2)
    assert found.seconds_left == pytest.approx(9 * 200)
    assert found.ends_at == (NOW + timedelta(seconds=1800)).isoformat()
    assert (found.co2e_grams, found.cost) == (pytest.approx(2600), pytest.approx(13))
    assert 0 < found.kwh_low < found.kwh < found.kwh_high
    assert forecaster.forecast_after(spent(0.1, 8.0, 400.0), NOW) is None


def test_validations_that_are_not_part_of_every_epoch_are_expected_as_often_as_they_come() -> None:
    forecaster = Forecaster(spent(0.0, 0.0, 0.0))
    assert forecaster.forecast_after(spent(1 / 6, 1.0, 10.0), NOW, validations=2) is None  # what one takes is not known yet
    assert forecaster.forecast_after(spent(2 / 6, 2.0, 20.0), NOW, validations=2) is None
    seen = Spent(0.5, 8.0, 80.0, apart_kwh=5.0, apart_seconds=50.0, validations=1, validation_kwh=5.0, validation_seconds=50.0)
    found = forecaster.forecast_after(seen, NOW, validations=1)
    assert found is not None
    assert found.kwh == pytest.approx(8 + 3 * 1 + 5)
    assert found.seconds_left == pytest.approx(3 * 10 + 50)


def test_validations_before_the_first_epoch_that_is_seen_tell_nothing() -> None:
    def after(done: float, train: float, validations: int, validate: float) -> Spent:
        return Spent(
            done,
            train + validate,
            0.0,
            apart_kwh=validate,
            validations=validations,
            validation_kwh=validate,
            validation_seconds=0.0,
        )

    forecaster = Forecaster(after(0.4, 4.0, 2, 0.0))  # another process took them, as before a training is resumed
    assert forecaster.forecast_after(after(0.5, 5.0, 2, 0.0), NOW, validations=3) is None
    found = forecaster.forecast_after(after(0.6, 6.0, 3, 5.0), NOW, validations=2)
    assert found is not None
    assert found.kwh == pytest.approx(11 + 4 * 1 + 2 * 5)
    forecaster = Forecaster(after(0.0, 0.0, 0, 15.0))  # those of another training are among the energy
    found = forecaster.forecast_after(after(0.2, 2.0, 1, 20.0), NOW, validations=4)
    assert found is not None
    assert found.kwh == pytest.approx(22 + 8 * 1 + 4 * 5)


def test_at_the_end_a_forecast_is_what_was_used() -> None:
    forecaster = Forecaster(spent(0.0, 0.0, 0.0))
    forecaster.forecast_after(spent(0.5, 3.0, 10.0), NOW)
    found = forecaster.forecast_after(spent(1.0, 7.0, 20.0), NOW)
    assert found is not None
    assert (found.kwh_low, found.kwh, found.kwh_high, found.seconds_left) == (7.0, 7.0, 7.0, 0.0)


@pytest.mark.parametrize("spread", [0.01, 0.1, 0.2])
def test_the_interval_holds_the_truth_as_often_as_it_says(spread: float, *, full: bool) -> None:
    """Epochs of a random length each; the first forecasts lean on an assumed spread, the later ones on what was seen."""
    source, inside = random.Random(7), {1: 0, 5: 0, 15: 0}
    runs = 400 if full else 100
    for _ in range(runs):
        epochs = [source.gauss(1.0, spread) for _ in range(20)]
        forecaster, so_far = Forecaster(spent(0.0, 0.0, 0.0)), 0.0
        for index, kwh in enumerate(epochs, 1):
            so_far += kwh
            found = forecaster.forecast_after(spent(index / 20, so_far, float(index)), NOW)
            if index in inside and found is not None:
                inside[index] += found.kwh_low <= sum(epochs) <= found.kwh_high
    assert all(count >= 0.9 * runs for after, count in inside.items() if after > 5 or spread <= 0.1), inside
