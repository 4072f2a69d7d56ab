"""Power over time: equal slices of bounded number, gaps, runs that went on, and many devices."""

import random
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.attribution.power_trace import FIRST_SLICE_S, MOST_SLICES, PowerTrace
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.record.power import MOST_IN_ALL, join_power, limit_power, power_series
from ml_energy_callbacks.record.schema import PowerSeries
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, ScriptedPower, SteppedMeter
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE


def joules(series: PowerSeries) -> float:
    """Return the energy of full slices, in J."""
    return sum(watts * series.slice_s for watts in series.mean if watts is not None)


def is_ordered(series: PowerSeries) -> bool:
    known = [each for each in zip(series.low, series.mean, series.high, strict=True) if None not in each]
    return all(low <= mean <= high for low, mean, high in known)


# ------------------------------------------------------------------------------------------------------- one device


def test_slices_hold_the_energy_and_its_extremes() -> None:
    trace = PowerTrace()
    for i in range(100):
        trace.add(i * 0.05, (i + 1) * 0.05, 0.05 * (100.0 if i % 2 else 300.0))
    series = power_series(trace)
    assert (series.slice_s, series.start_s, len(series.mean)) == (FIRST_SLICE_S, 0.0, 50)
    assert series.mean == pytest.approx([200.0] * 50)
    assert series.low == pytest.approx([100.0] * 50, rel=0.01)
    assert series.high == pytest.approx([300.0] * 50, rel=0.01)


def test_slices_double_as_the_run_grows_and_keep_its_energy() -> None:
    trace, rng = PowerTrace(), random.Random(0)
    now = used = 0.0
    while now < 3600.0:
        seconds, watts = rng.uniform(0.03, 0.7), rng.uniform(50.0, 400.0)
        trace.add(now, now + seconds, watts * seconds)
        now, used = now + seconds, used + watts * seconds
    series = power_series(trace)
    assert MOST_SLICES / 2 < len(series.mean) <= MOST_SLICES
    assert series.slice_s * len(series.mean) == pytest.approx(now, abs=series.slice_s)
    assert joules(series) == pytest.approx(used, rel=0.001)
    assert is_ordered(series)


def test_an_odd_limit_loses_nothing() -> None:
    trace = PowerTrace()
    trace.most = 7
    for i in range(1000):
        trace.add(i * 1.0, i + 1.0, 250.0 if i < 500 else 50.0)
    series = power_series(trace)
    assert len(series.mean) <= 7
    assert joules(series) == pytest.approx(150_000.0, rel=0.2)  # the last slice is shorter
    assert (min(filter(None, series.low)), max(filter(None, series.high))) == (50.0, 250.0)


def test_unknown_time_is_null_and_never_zero() -> None:
    trace = PowerTrace()
    trace.add(1.0, 2.0, 100.0)
    trace.add(5.0, 6.0, 200.0)
    trace.skip(7.0)
    series = power_series(trace)
    assert series.start_s == pytest.approx(1.0)
    assert series.mean == [*[100.0] * 10, *[None] * 30, *[200.0] * 10, *[None] * 10]
    assert [watts is None for watts in series.low] == [watts is None for watts in series.mean]


def test_a_tiny_interval_is_no_extreme() -> None:
    trace = PowerTrace()
    trace.add(0.0, 0.1, 10.0)
    trace.add(0.1, 0.1001, 5.0)  # a knot that is dated a little early: 50 kW
    trace.add(0.1001, 0.2, 5.0)
    assert max(power_series(trace).high) == 100.0


def test_a_long_interval_costs_no_more_than_a_short_one() -> None:
    trace = PowerTrace()
    trace.add(0.0, 1e7, 1e9)
    trace.skip(2e7)
    series = power_series(trace)
    assert len(series.mean) <= MOST_SLICES
    assert {*series.mean} == {100.0, None}


def test_time_that_was_passed_already_is_not_passed_again() -> None:
    trace = PowerTrace()
    trace.add(0.0, 1.0, 100.0)
    trace.add(0.5, 1.0, 70.0)
    trace.add(0.9, 1.1, 20.0)
    assert power_series(trace).mean == pytest.approx([100.0] * 10 + [200.0])


# ------------------------------------------------------------------------------------------------------- several


def series(seconds: float, watts: float, slice_s: float = 0.1) -> PowerSeries:
    values: list[float | None] = [watts] * round(seconds / slice_s)
    return PowerSeries(slice_s=slice_s, mean=values, low=values, high=values)


def test_parts_of_a_run_follow_each_other() -> None:
    joined = join_power({"a": series(60, 100.0)}, {"a": series(400, 300.0, 0.2), "b": series(400, 50.0, 0.2)}, 61.05)
    a, b = joined["a"], joined["b"]
    assert (a.slice_s, a.start_s) == (0.2, 0.0)
    assert a.mean == [*[100.0] * 300, *[None] * 6, *[300.0] * 2000]
    assert b.start_s == pytest.approx(61.2)
    assert joules(a) == pytest.approx(60 * 100 + 400 * 300)


def test_a_part_without_power_is_unknown() -> None:
    joined = join_power({}, {"a": series(10, 100.0)}, 100.0)
    assert (joined["a"].start_s, len(joined["a"].mean)) == (100.0, 100)
    assert join_power({"a": series(10, 100.0)}, {}, 100.0) == {"a": series(10, 100.0)}


def test_many_devices_have_fewer_slices_of_one_length() -> None:
    many = {f"gpu-{i}": series(200 if i else 0.5, 100.0 + i) for i in range(96)}
    limited = limit_power(many)
    assert sum(len(each.mean) for each in limited.values()) <= MOST_IN_ALL
    assert len({each.slice_s for each in limited.values()}) == 1
    for name, each in many.items():
        assert {*limited[name].mean} == {*each.mean}
    assert limit_power({}) == {}


def test_a_late_series_keeps_its_place_when_slices_double() -> None:
    late = PowerSeries(slice_s=0.1, start_s=0.3, mean=[1.0, 3.0, 5.0], low=[1.0, 2.0, 4.0], high=[2.0, 4.0, 6.0])
    limited = limit_power({"late": late, "long": series(10, 1.0, 0.2)})
    found = limited["late"]
    assert (found.slice_s, round(found.start_s, 6)) == (0.2, 0.2)
    assert (found.mean, found.low, found.high) == ([1.0, 4.0], [1.0, 2.0], [2.0, 6.0])


# ------------------------------------------------------------------------------------------------------- a run


def run(seconds: float, *, power: bool = False, pause: Callable[[ManualClock, ScriptedPower], None] | None = None) -> RunRecord:
    """Return the record of a run whose power is 100 W and 300 W in turns of 0.5 s."""
    clock = ManualClock()
    curve = PowerCurve(clock, 100.0)
    device = replace(SCRIPTED_DEVICE, id="scripted:gpu", max_watts=1000.0)
    source = ScriptedPower(curve, clock) if power else ScriptedCounter(curve, clock, offset_s=0.03, device=device)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([source])], carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        for i in range(round(seconds / 0.5)):
            curve.set(300.0 if i % 2 else 100.0)
            with meter.batch(samples=1):
                clock.advance(0.5)
            if pause is not None and i == 9:
                pause(clock, source)
    return meter.record


@pytest.mark.parametrize("power", [False, True], ids=["counter", "power"])
def test_the_series_of_a_run_is_its_energy_over_time(*, power: bool) -> None:
    record = run(30, power=power)
    (found,) = record.power.values()
    assert [*record.power] == [record.devices[0].id]
    assert len(found.mean) * found.slice_s == pytest.approx(record.total.seconds, abs=0.2)
    assert joules(found) == pytest.approx(record.total.joules, rel=0.01)
    assert is_ordered(found)
    assert min(filter(None, found.low)) == pytest.approx(100.0, rel=0.15)
    assert max(filter(None, found.high)) == pytest.approx(300.0, rel=0.15)
    assert decode_record(encode_record(record), "energy.json").power == record.power


def test_a_device_that_fails_has_a_gap() -> None:
    def fail(clock: ManualClock, source: ScriptedPower) -> None:
        source.failing = True
        clock.advance(3.0)
        source.failing = False

    record = run(10, power=True, pause=fail)
    (found,) = record.power.values()
    gap = sum(watts is None for watts in found.mean) * found.slice_s
    assert gap == pytest.approx(3.0, abs=0.3)
    assert record.devices[0].missing_s == pytest.approx(gap, abs=0.3)
    assert found.mean.index(None) * found.slice_s == pytest.approx(5.0, abs=0.3)


def test_a_device_that_fails_to_the_end_has_a_gap_there() -> None:
    def fail(_: ManualClock, source: ScriptedPower) -> None:
        source.failing = True

    record = run(10, power=True, pause=fail)
    (found,) = record.power.values()
    assert len(found.mean) * found.slice_s == pytest.approx(record.total.seconds, abs=0.2)
    assert found.mean[-1] is None


def test_a_run_that_went_on_has_both_parts() -> None:
    earlier, later = run(10), run(20)
    record = add_records(earlier, later)
    (found,) = record.power.values()
    assert joules(found) == pytest.approx(record.total.joules, rel=0.02)
    assert len(found.mean) * found.slice_s == pytest.approx(record.total.seconds, abs=0.3)


def test_a_meter_that_starts_again_leaves_out_the_pause() -> None:
    clock = ManualClock()
    curve = PowerCurve(clock, 100.0)
    meter = SteppedMeter(clock, backends=[ScriptedBackend([ScriptedCounter(curve, clock)])], carbon_intensity=1, verbose=False)
    for _ in range(2):
        with meter, meter.stage("train"):
            clock.advance(5.0)
        clock.advance(1000.0)
    (found,) = meter.record.power.values()
    assert len(found.mean) * found.slice_s == pytest.approx(meter.record.total.seconds, abs=0.2)
    assert joules(found) == pytest.approx(meter.record.total.joules or 0.0, rel=0.02)


def test_older_records_have_no_power() -> None:
    fields = msgspec.json.decode(encode_record(run(2)))
    del fields["power"]
    assert decode_record(msgspec.json.encode(fields), "energy.json").power == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"slice_s": 0.0}, "Expected `float` > 0"),
        ({"mean": []}, "has slices of which something is missing"),
        ({"mean": [-5.0], "low": [1.0], "high": [1.0]}, "Expected `float`"),
    ],
)
def test_a_damaged_series_is_refused(change: dict[str, object], reason: str) -> None:
    fields = msgspec.json.decode(encode_record(run(2)))
    fields["power"]["scripted:gpu"].update(change)
    with pytest.raises(RecordError, match=reason):
        decode_record(msgspec.json.encode(fields), "energy.json")


def test_power_of_an_unknown_device_is_refused() -> None:
    fields = msgspec.json.decode(encode_record(run(2)))
    fields["power"]["other"] = fields["power"].pop("scripted:gpu")
    with pytest.raises(RecordError, match="there is power of a device 'other' that the run has not"):
        decode_record(msgspec.json.encode(fields), "energy.json")
