"""Ranges of energy: of phases in the record, whether they can be told or not, and of windows."""

import io
import random
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.report.quantities import quantity
from ml_energy_callbacks.report.table import render
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter


def train(*, spread: float, batches: int = 300) -> tuple[RunRecord, float]:
    """Train with a cycle that takes as long as a refresh, more or less; return the record and the true energy of waiting."""
    clock, rng = ManualClock(), random.Random(1)
    curve = PowerCurve(clock, 90.0)
    counter = ScriptedCounter(curve, clock, period_s=0.1, offset_s=0.03)
    true = 0.0
    meter = SteppedMeter(clock, backends=[ScriptedBackend([counter])], carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        for _ in range(batches):
            before = curve.joules()
            clock.advance(0.03 * (1 + spread * rng.uniform(-1, 1)))
            true += curve.joules() - before
            with meter.batch(samples=1):
                curve.set(300.0)
                clock.advance(0.07 * (1 + spread * rng.uniform(-1, 1)))
            curve.set(90.0)
    return meter.record, true


def test_a_phase_that_cannot_be_told_is_a_range() -> None:
    record, true = train(spread=0.0)
    wait = record.stages["train"].phases["data_wait"]
    assert wait.joules is None
    assert wait.reason is not None
    assert "coincide" in wait.reason
    assert wait.low_joules is not None
    assert wait.high_joules is not None
    assert 0 <= wait.low_joules <= true <= wait.high_joules <= (record.total.joules or 0.0)


def test_a_phase_that_is_told_is_in_its_range() -> None:
    record, true = train(spread=0.3)
    wait = record.stages["train"].phases["data_wait"]
    assert wait.joules is not None
    assert wait.low_joules is not None
    assert wait.high_joules is not None
    assert wait.low_joules <= true <= wait.high_joules
    assert wait.low_joules <= wait.joules <= wait.high_joules
    assert wait.relative_uncertainty == pytest.approx((wait.high_joules - wait.joules) / wait.joules, rel=0.2)


def test_ranges_of_a_resumed_run_add_up() -> None:
    record, true = train(spread=0.0)
    both = add_records(record, record).stages["train"].phases["data_wait"]
    assert both.joules is None
    assert both.low_joules is not None
    assert both.high_joules is not None
    assert both.low_joules <= 2 * true <= both.high_joules


def test_tables_show_the_range() -> None:
    record, _ = train(spread=0.0)
    wait = record.stages["train"].phases["data_wait"]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(record))
    assert wait.low_joules is not None
    assert f"{quantity(wait.low_joules)} to " in console.export_text()


def test_records_of_earlier_releases_have_no_ranges() -> None:
    record, _ = train(spread=0.3, batches=60)
    fields = msgspec.json.decode(encode_record(record))
    for phase in fields["stages"]["train"]["phases"].values():
        del phase["low_joules"], phase["high_joules"]
    for device in fields["devices"]:
        del device["latency_s"], device["latency_source"]
    older = decode_record(msgspec.json.encode(fields), "energy.json")
    assert older.stages["train"].phases["data_wait"].low_joules is None
    assert older.devices[0].latency_s is None
    assert older.devices[0].latency_source is None


def test_windows_hold_what_was_used_in_them() -> None:
    clock, rng = ManualClock(), random.Random(2)
    curve = PowerCurve(clock, 90.0)
    counter = ScriptedCounter(curve, clock, period_s=0.1)
    windows = []
    with SteppedMeter(clock, backends=[ScriptedBackend([counter])], carbon_intensity=1, verbose=False) as meter:
        with meter.stage("train"):
            for _ in range(200):
                clock.advance(0.04 * rng.uniform(0.7, 1.3))
                before = curve.joules()
                with meter.window() as window, meter.batch(samples=1):
                    curve.set(300.0)
                    clock.advance(0.15 * rng.uniform(0.7, 1.3))
                curve.set(90.0)
                windows.append((window, curve.joules() - before))
        clock.advance(0.5)
    known = [(window, true) for window, true in windows[30:] if window.joules is not None]
    assert len(known) >= 150
    held = [(window.low_joules or 0.0) <= true <= (window.high_joules or 0.0) for window, true in known]
    assert sum(held) >= 0.9 * len(held)
    assert sorted(abs((window.joules or 0.0) / true - 1) for window, true in known)[len(known) // 2] < 0.03


def test_a_window_without_a_device_has_no_range(tmp_path: Path) -> None:
    clock = ManualClock()
    meter = SteppedMeter(clock, backends=[], output_dir=tmp_path, carbon_intensity=1, verbose=False)
    with meter, meter.window() as window:
        clock.advance(1.0)
    assert (window.joules, window.low_joules, window.high_joules) == (None, None, None)
