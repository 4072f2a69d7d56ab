"""Ranges of energy: of phases in the record and in live metrics, whether they can be separated or not."""

import io
import random
import re
from dataclasses import replace

import msgspec
import pytest
from rich.console import Console

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.attribution.timeline import Counts
from ml_energy_callbacks.meter.points import Point, Span
from ml_energy_callbacks.meter.summary import Tally
from ml_energy_callbacks.metrics import PHASES, StageFigures, add_stage_figures
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.record.schema import PhaseRecord
from ml_energy_callbacks.report.table import render
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE


class Training:
    """A training on some GPUs of the same power under a manual clock: waits of 30 ms and batches of 70 ms.

    Attributes:
        meter: The meter.
        waited: True energy of waiting so far, in J.
        computed: True energy of computing so far, in J.
    """

    def __init__(self, *, spread: float, gpus: int = 1, late_s: float = 0.0) -> None:
        """Let lengths vary by a share, and counters be late."""
        self.clock, self._rng, self._spread = ManualClock(), random.Random(1), spread
        self.wait_watts = 90.0
        self._curve, self._gpus = PowerCurve(self.clock, self.wait_watts), gpus
        self.waited = self.computed = 0.0
        sources = [
            ScriptedCounter(
                self._curve,
                lambda: self.clock() - round(late_s * 1e9),
                period_s=0.1,
                offset_s=0.03 + 0.01 * gpu,
                device=replace(SCRIPTED_DEVICE, id=f"scripted:{gpu}", latency_s=late_s),
            )
            for gpu in range(gpus)
        ]
        self.meter = SteppedMeter(self.clock, backends=[ScriptedBackend(sources)], carbon_intensity=1, verbose=False)

    def joules(self) -> float:
        """Return the true energy so far, in J."""
        return self._gpus * self._curve.joules()

    def compute(self, seconds: float) -> None:
        """Compute for some time."""
        self._curve.set(300.0)
        self.clock.advance(seconds)
        self._curve.set(self.wait_watts)

    def batches(self, count: int) -> None:
        """Train for some batches, with the meter started and in the stage."""
        for _ in range(count):
            before = self.joules()
            self.clock.advance(0.03 * (1 + self._spread * self._rng.uniform(-1, 1)))
            self.waited += self.joules() - before
            before = self.joules()
            with self.meter.batch(samples=1):
                self.compute(0.07 * (1 + self._spread * self._rng.uniform(-1, 1)))
            self.computed += self.joules() - before


def train(*, spread: float, batches: int = 300) -> tuple[RunRecord, float]:
    """Train with a cycle that takes as long as a refresh, more or less; return the record and the true energy of waiting."""
    training = Training(spread=spread)
    with training.meter, training.meter.stage("train"):
        training.batches(batches)
    return training.meter.record, training.waited


def test_a_phase_that_cannot_be_separated_is_a_range() -> None:
    record, true = train(spread=0.0)
    wait = record.stages["train"].phases["data_wait"]
    assert wait.joules is None
    assert wait.reason is not None
    assert "coincide" in wait.reason
    assert wait.low_joules is not None
    assert wait.high_joules is not None
    assert wait.reason.endswith(f"The phase used between {wait.low_joules:,.1f} and {wait.high_joules:,.1f} J.")
    assert 0 <= wait.low_joules <= true <= wait.high_joules <= 1.02 * (record.total.joules or 0.0)


def test_a_separated_phase_is_within_its_range() -> None:
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
    once = record.stages["train"].phases["data_wait"]
    assert both.joules is None
    assert (both.low_joules, both.high_joules) == (2 * (once.low_joules or 0.0), 2 * (once.high_joules or 0.0))
    assert 0 < 2 * true <= (both.high_joules or 0.0)
    assert (both.reason or "").endswith(f"The phase used between {both.low_joules:,.1f} and {both.high_joules:,.1f} J.")
    assert (both.reason or "").count("between") == 1


def test_a_phase_that_used_nothing_is_known_in_a_resumed_run() -> None:
    record = msgspec.convert(msgspec.to_builtins(train(spread=0.0)[0]), RunRecord)
    nothing = PhaseRecord(joules=0.0, seconds=0.0, relative_uncertainty=0.0, low_joules=0.0, high_joules=0.0)
    record.stages["train"].phases["other"] = nothing
    assert add_records(record, record).stages["train"].phases["other"] == nothing


def test_a_resumed_run_is_told_if_its_summed_interval_allows() -> None:
    short, true = train(spread=0.3, batches=8)
    long, true_later = train(spread=0.3)
    first, later = (record.stages["train"].phases["data_wait"] for record in (short, long))
    assert first.joules is None
    assert first.low_joules is not None
    assert first.high_joules is not None
    both = add_records(short, long).stages["train"].phases["data_wait"]
    assert both.joules == pytest.approx((later.joules or 0.0) + (first.low_joules + first.high_joules) / 2)
    assert both.reason is None
    assert both.low_joules == pytest.approx(first.low_joules + (later.low_joules or 0.0))
    assert both.high_joules == pytest.approx(first.high_joules + (later.high_joules or 0.0))
    assert both.low_joules is not None
    assert both.low_joules <= true + true_later <= (both.high_joules or 0.0)


def without_ranges(record: RunRecord) -> RunRecord:
    """Return a record as an earlier release has written it."""
    older = msgspec.convert(msgspec.to_builtins(record), RunRecord)
    for phase in older.stages["train"].phases.values():
        phase.low_joules = phase.high_joules = None
    return older


def test_a_resumed_run_of_an_earlier_release_has_ranges() -> None:
    record, true = train(spread=0.3)
    both = add_records(without_ranges(record), record).stages["train"].phases["data_wait"]
    assert both.joules is not None
    assert both.relative_uncertainty is not None
    half = both.joules * both.relative_uncertainty
    assert both.low_joules == pytest.approx(both.joules - half)
    assert both.high_joules == pytest.approx(both.joules + half)
    assert both.low_joules is not None
    assert both.low_joules <= 2 * true <= (both.high_joules or 0.0)


def test_an_unknown_phase_of_an_earlier_release_is_within_its_stage() -> None:
    older = without_ranges(train(spread=0.0)[0])
    record, _ = train(spread=0.3)
    before, later = older.stages["train"], record.stages["train"].phases["data_wait"]
    assert before.phases["data_wait"].joules is None
    both = add_records(older, record).stages["train"].phases["data_wait"]
    assert both.low_joules == later.low_joules
    assert both.high_joules == pytest.approx((later.high_joules or 0.0) + (before.joules or 0.0))
    assert both.joules is None
    assert (both.reason or "").startswith("Refreshes of the counter and batches coincide")


def test_the_interval_of_a_resumed_run_is_as_wide_as_its_parts() -> None:
    record, _ = train(spread=0.3)
    once = record.stages["train"].phases["data_wait"]
    both = add_records(record, record).stages["train"].phases["data_wait"]
    assert both.joules == pytest.approx(2 * (once.joules or 0.0))
    assert both.relative_uncertainty == pytest.approx(once.relative_uncertainty)


def test_devices_that_are_all_late_are_late_together() -> None:
    training = Training(spread=0.3, gpus=4, late_s=0.003)
    with training.meter, training.meter.stage("train"):
        training.batches(300)
    wait = training.meter.record.stages["train"].phases["data_wait"]
    assert (wait.low_joules or 0.0) <= training.waited <= (wait.high_joules or 0.0)
    spread = ((wait.high_joules or 0.0) - (wait.low_joules or 0.0)) / 2
    assert spread >= 0.9 * 4 * 300 * 0.003 * 210  # J: each of them is late at each of the waits


def test_windows_of_devices_that_are_all_late_hold() -> None:
    training = Training(spread=0.3, gpus=8, late_s=0.002)
    windows = []
    with training.meter as meter, meter.stage("train"):
        training.batches(60)
        for _ in range(40):
            training.clock.advance(0.02)
            before = training.joules()
            window = meter.window()
            with window:
                training.clock.advance(0.01)
                batch = meter.batch(samples=1)
                batch.__enter__()
                training.compute(0.03)
            windows.append((window, training.joules() - before))
            training.compute(0.03)
            batch.__exit__(None, None, None)
            training.batches(1)
    held = [(window.low_joules or 0.0) <= true <= (window.high_joules or 0.0) for window, true in windows if window.joules]
    assert len(held) >= 38
    assert sum(held) >= 0.95 * len(held)


def test_a_step_that_holds_both_bounds_computing_and_waiting() -> None:
    training = Training(spread=0.3)
    with training.meter:
        training.meter.begin_stage("train", "step", during="step", between="step")
        training.batches(30)
        training.meter.end_stage()
    record = training.meter.record
    step = record.stages["train"].phases["step"]
    for phase in ("compute", "data_wait"):
        found = record.stages["train"].phases[phase]
        assert (found.joules, found.seconds, found.low_joules, found.high_joules) == (None, None, 0.0, step.high_joules)
        twice = add_records(record, record).stages["train"].phases[phase]
        assert (twice.joules, twice.seconds, twice.low_joules) == (None, None, 0.0)
        assert twice.high_joules == pytest.approx(2 * (step.high_joules or 0.0))
        assert twice.reason == found.reason


def shown(record: RunRecord, width: int) -> str:
    """Return the tables at a width of the terminal."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(record, verbose=True))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_show_the_range(width: int) -> None:
    record, _ = train(spread=0.0)
    wait = record.stages["train"].phases["data_wait"]
    assert wait.low_joules is not None
    assert wait.high_joules is not None
    (row,) = (line for line in shown(record, width).splitlines() if line.split()[:2] == ["train", "data_wait"])
    low, high = map(float, re.findall(r"([\d.]+) to ([\d.]+) ", row)[0])
    assert (low, high) == pytest.approx((wait.low_joules / 1000, wait.high_joules / 1000), abs=0.001)


def test_the_only_phase_of_a_stage_has_the_uncertainty_of_its_ends() -> None:
    training = Training(spread=0.3)
    with training.meter, training.meter.stage("predict"), training.meter.batch(samples=1):
        training.clock.advance(0.33)
    phase = training.meter.record.stages["predict"].phases["compute"]
    assert phase.joules is not None
    assert phase.low_joules is not None
    assert phase.high_joules is not None
    half = max(phase.high_joules - phase.joules, phase.joules - phase.low_joules)
    assert half > 0
    assert phase.relative_uncertainty == pytest.approx(half / phase.joules)
    (row,) = (line for line in shown(training.meter.record, 120).splitlines() if line.split()[:2] == ["predict", "compute"])
    low, high = map(float, re.findall(r"([\d.]+) to ([\d.]+) ", row)[0])
    assert (low, high) == pytest.approx((phase.low_joules, phase.high_joules), abs=0.05)


def test_the_table_explains_a_range_above_its_stage() -> None:
    training = Training(spread=0.0)
    with training.meter, training.meter.stage("train"):
        training.batches(1)
    record = training.meter.record
    stage = record.stages["train"]
    assert (stage.phases["data_wait"].high_joules or 0.0) > (stage.joules or 0.0)
    assert "A range may exceed its stage" in shown(record, 200)
    longer, _ = train(spread=0.3)
    assert "A range may exceed its stage" not in shown(longer, 200)


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


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_live_metrics_bound_the_phases_of_each_epoch(spread: float) -> None:
    training = Training(spread=spread)
    meter = training.meter
    with meter, meter.stage("train"):
        for index in range(4):
            since, before = meter.point(), {"data_wait": training.waited, "compute": training.computed}
            training.batches(100)
            assert meter.record.stages  # as a review would
            metrics, _ = meter.close_epoch("train", index, since)
            for phase, true in (("data_wait", training.waited), ("compute", training.computed)):
                name = f"energy/train/{phase}_joules"
                low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
                assert 0 <= low <= true - before[phase] <= high <= metrics["energy/train/joules"]
                assert (name in metrics) == (spread > 0)
                if spread:
                    assert low <= metrics[name] <= high
    phases, whole = meter.record.stages["train"].phases, meter.metrics("train")
    for phase in ("data_wait", "compute"):
        name = f"energy/train/{phase}_joules"
        assert whole[f"{name}_low"] == pytest.approx(phases[phase].low_joules, rel=0.02, abs=1.0)
        assert whole[f"{name}_high"] == pytest.approx(phases[phase].high_joules, rel=0.02, abs=1.0)


def epochs(training: Training, waits: list[float], batches: int, reviews: int) -> list[tuple[dict[str, float], float]]:
    """Return the metrics of epochs that wait at these powers in W, reviewed after so many batches, and the true waiting."""
    found, meter = [], training.meter
    with meter, meter.stage("train"):
        for index, watts in enumerate(waits):
            since, before = meter.point(), training.waited
            training.wait_watts = watts
            training.compute(0.0)
            for _ in range(batches // reviews):
                training.batches(reviews)
                assert meter.record.stages
            found.append((meter.close_epoch("train", index, since)[0], training.waited - before))
    return found


def test_an_epoch_before_the_first_fit_is_divided_by_the_last() -> None:
    (first, true), *_ = epochs(Training(spread=0.3), [90.0], 100, 50)
    told, high = first["energy/train/data_wait_joules"], first["energy/train/data_wait_joules_high"]
    assert told == pytest.approx(true, rel=0.08)
    assert told < high


@pytest.mark.parametrize("waits", [[90.0, 90.0, 90.0, 180.0], [90.0, 120.0, 150.0, 180.0], [180.0, 90.0, 90.0, 90.0]])
def test_an_epoch_that_waits_at_another_power_is_in_its_interval(waits: list[float]) -> None:
    for metrics, true in epochs(Training(spread=0.3), waits, 250, 50):
        assert metrics["energy/train/data_wait_joules_low"] <= true <= metrics["energy/train/data_wait_joules_high"]


def test_no_phase_of_an_epoch_is_negative() -> None:
    tally = Tally("train", 1, {phase: number for number, phase in enumerate(PHASES, 1)})
    bucket = tally.buckets
    joules, times = [0.0] * 6, [0] * 6
    for phase, energy, seconds in (("compute", 50.0, 1), ("data_wait", 150.0, 10), ("other", 4000.0, 80)):
        joules[bucket[phase]], times[bucket[phase]] = energy, seconds * 10**9
    until = Point(91 * 10**9, times, joules, {"gpu": 4200.0}, {}, [Counts(), Counts(10, 10)], None, None)
    recorded = {
        bucket["compute"]: PhaseRecord(
            joules=1000.0, seconds=30.0, relative_uncertainty=0.05, low_joules=950.0, high_joules=1e3
        ),
        bucket["data_wait"]: PhaseRecord(
            joules=3e3, seconds=1e2, relative_uncertainty=0.1, low_joules=2.7e3, high_joules=3.3e3
        ),
    }
    found = Span(tally, None, until).figures({}, recorded, measures=True)
    assert found.compute_joules is not None
    assert found.data_wait_joules is not None
    assert found.compute_joules > 0
    assert found.compute_joules + found.data_wait_joules == pytest.approx(200)
    assert found.data_wait_joules_low is not None
    assert 0 <= found.data_wait_joules_low <= found.data_wait_joules <= (found.data_wait_joules_high or 0.0) <= 4200


def test_bounds_of_a_jobs_processes_add_up_or_are_unknown() -> None:
    one = StageFigures(
        joules=9.0,
        seconds=1.0,
        sampled_joules=9.0,
        above_idle_joules=None,
        samples=1,
        compute_joules=None,
        data_wait_joules=None,
        co2e_grams=None,
        cost=None,
        compute_joules_low=5.0,
        compute_joules_high=8.0,
        data_wait_joules_low=1.0,
        data_wait_joules_high=4.0,
    )
    both = add_stage_figures([one, one])
    assert (both.compute_joules, both.compute_joules_low, both.compute_joules_high) == (None, 10.0, 16.0)
    assert (both.data_wait_joules, both.data_wait_joules_low, both.data_wait_joules_high) == (None, 2.0, 8.0)
    assert add_stage_figures([one, msgspec.structs.replace(one, data_wait_joules_low=None)]).data_wait_joules_low is None
