"""Parts of a batch: transfer, forward, backward and optimizer are told apart, and add up to `compute`."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from worlds import COMPUTE, WAIT, Measured, batch_in_parts, measure

from ml_energy_callbacks import LoopDescription
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import PARTS, Part
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.record.schema import PhaseRecord, RunRecord
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter, replay
from ml_energy_callbacks.testing.replaying import replay_file

WATTS: dict[Part | None, float] = {"transfer": 150.0, "forward": 380.0, "backward": 430.0, "optimizer": 210.0, None: 180.0}
SECONDS: dict[Part | None, float] = {"transfer": 0.03, "forward": 0.06, "backward": 0.12, "optimizer": 0.02, None: 0.01}


class Training:
    """A meter of a device that trains, and the true energy of each part."""

    def __init__(self, period_s: float = 0.02, seed: int = 1, **options: object) -> None:
        self.clock = ManualClock()
        self.curve = PowerCurve(self.clock, 60.0)
        counter = ScriptedCounter(self.curve, self.clock, period_s=period_s)
        self.meter = SteppedMeter(self.clock, backends=[ScriptedBackend([counter])], verbose=False, **options)
        self.random = random.Random(seed)
        self.true: dict[Part | None, float] = dict.fromkeys(WATTS, 0.0)

    def batches(self, count: int, parts: Sequence[Part | None] = (*PARTS, None)) -> None:
        for _ in range(count):
            self.curve.set(90.0)
            self.clock.advance(0.04 * self.random.uniform(0.8, 1.2))
            self.meter.batch_start()
            for part in parts:
                self.meter.enter_part(part)
                self.curve.set(WATTS[part])
                before = self.curve.joules()
                self.clock.advance(SECONDS[part] * self.random.uniform(0.8, 1.2))
                self.true[part] += self.curve.joules() - before
            self.meter.batch_end(8)

    @property
    def compute(self) -> PhaseRecord:
        return self.meter.record.stages["train"].phases["compute"]


@pytest.fixture(scope="module")
def training() -> Training:
    found = Training()
    with found.meter, found.meter.stage("train"):
        found.batches(200)
    return found


def in_parts(refresh_s: float, *, full: bool) -> list[Measured]:
    """Return what is measured of batches with parts: for a minute, or for five."""
    world = batch_in_parts(refresh_s, 300.0 if full else 60.0)
    return [measure(world(seed), seed) for seed in range(100 if full else 2)]


@pytest.mark.statistics
@pytest.mark.parametrize("refresh_s", [0.02, 0.1])
def test_parts_of_ten_milliseconds_hold(refresh_s: float, *, full: bool) -> None:
    measured = in_parts(refresh_s, full=full)
    parts = range(COMPUTE, COMPUTE + 5)
    held = [run.holds(part) for run in measured for part in parts]
    errors = [abs(run.error(part)) for run in measured for part in parts if run.reported(part)]
    assert sum(held) >= 0.9 * len(held)
    assert median(errors) <= 0.05
    for run in measured:
        assert sum(run.splits[part].joules for part in parts) == pytest.approx(run.together[COMPUTE].joules, rel=1e-9)
        assert sum(each.joules for each in run.together.values()) == pytest.approx(run.joules, rel=1e-9)


def test_a_phase_is_no_less_certain_than_without_parts() -> None:
    world = batch_in_parts(0.1, 60.0)(1)
    phases = np.minimum(world.phases, COMPUTE)
    begins = np.append(True, np.diff(phases) != 0)
    whole = replace(world, edges=np.append(world.edges[:-1][begins], world.edges[-1]), phases=phases[begins], wholes=())
    assert measure(world, 1).together[WAIT].half_width < 2 * measure(whole, 1).splits[WAIT].half_width


def test_the_record_has_the_parts_of_compute(training: Training) -> None:
    compute = training.compute
    assert list(compute.parts) == [*PARTS, "other"]
    assert sum(part.seconds or 0.0 for part in compute.parts.values()) == pytest.approx(compute.seconds)
    assert sum(part.joules or 0.0 for part in compute.parts.values()) == pytest.approx(compute.joules, rel=1e-9)
    for name, joules in training.true.items():
        part = compute.parts[name or "other"]
        assert part.low_joules is not None
        assert part.high_joules is not None
        assert part.low_joules <= joules <= part.high_joules
    for name in ("forward", "backward"):
        assert compute.parts[name].joules == pytest.approx(training.true[name], rel=0.05)
    assert training.meter.record.stages["train"].batches == 200
    assert decode_record(encode_record(training.meter.record), "energy.json") == training.meter.record


def test_batches_without_marks_have_no_parts() -> None:
    run = Training()
    with run.meter, run.meter.stage("train"):
        run.batches(20, [None])
    assert run.compute.parts == {}
    assert run.compute.parts_reason is None


def test_the_reason_why_there_are_none_is_in_the_record() -> None:
    run = Training()
    run.meter.explain_parts("The step is one.")
    with run.meter, run.meter.stage("train"):
        run.batches(20, [None])
    assert run.compute.parts_reason == "The step is one."


def test_parts_are_of_compute_in_a_stage_itself() -> None:
    run = Training()
    meter, clock = run.meter, run.clock
    with meter:
        with meter.stage("train"), meter.batch(samples=1):
            with meter.part("forward"):
                assert meter.phase == "compute"
                clock.advance(0.5)
                with meter.stage("train/own"):
                    with meter.part("forward"):
                        clock.advance(0.25)
                    assert meter.phase == "compute"
            clock.advance(0.125)
        with meter.part("forward"):  # outside of a stage's batches
            clock.advance(1.0)
    train = meter.record.stages["train"]
    assert {name: part.seconds for name, part in train.phases["compute"].parts.items()} == {
        "forward": pytest.approx(0.5),
        "other": pytest.approx(0.375),
    }
    assert train.substages["own"].phases["compute"].seconds == pytest.approx(0.25)
    assert meter.record.stages["other"].phases["other"].seconds == pytest.approx(1.0, abs=0.1)


def test_parts_do_not_change_how_long_a_batch_took() -> None:
    run = Training()
    with run.meter, run.meter.stage("predict"):
        for _ in range(20):
            run.meter.batch_start()
            run.clock.advance(0.1)
            with run.meter.part("forward"):
                run.clock.advance(0.2)
            run.meter.batch_end(1)
            run.clock.advance(0.4)
    latency = run.meter.record.stages["predict"].latency
    assert latency is not None
    assert latency.p50_s == pytest.approx(0.3, rel=0.02)


def test_an_unknown_part_is_refused_and_a_warning_in_a_framework() -> None:
    run = Training()
    with run.meter, run.meter.stage("train"), pytest.raises(ConfigurationError, match=r"'sideways'; use one of transfer, fo"):
        run.meter.part("sideways").__enter__()  # type: ignore[arg-type]
    run = Training()
    meter = run.meter.start(LoopDescription(framework="pytorch_lightning 2.6.6"))
    with meter.stage("train"), meter.part("sideways"):  # type: ignore[arg-type]
        run.clock.advance(1.0)
    meter.stop()
    assert any("'sideways'" in warning for warning in meter.record.warnings)


def test_a_replay_has_the_parts(tmp_path: Path) -> None:
    run = Training(recording=tmp_path / "raw.jsonl")
    with run.meter, run.meter.stage("train"):
        run.batches(60)
    again = replay_file(tmp_path / "raw.jsonl").stages["train"].phases["compute"]
    assert again.parts == run.compute.parts
    marks = [(0.0, "train", "data_wait"), (1.0, "train", "forward"), (2.0, "train", "backward"), (4.0, "train", "compute")]
    polls = [(0.1 * i, 10.0 * i) for i in range(-10, 70)]
    train = replay([*marks, (5.0, "train", "data_wait"), (6.0, None, None)], counters={"gpu": polls}).stages["train"]
    assert train.batches == 1
    assert {name: part.seconds for name, part in train.phases["compute"].parts.items()} == {
        "forward": pytest.approx(1.0),
        "backward": pytest.approx(2.0),
        "other": pytest.approx(1.0),
    }


def test_parts_of_a_run_and_its_resume_add_up(training: Training) -> None:
    record = training.meter.record
    both = compute_of(add_records(record, record))
    for name, part in training.compute.parts.items():
        assert both.parts[name].joules == pytest.approx(2 * (part.joules or 0.0))
        assert both.parts[name].seconds == pytest.approx(2 * (part.seconds or 0.0))
    other = Training()
    with other.meter, other.meter.stage("train"):
        other.batches(20, [None])
    mixed = compute_of(add_records(record, other.meter.record))
    assert mixed.parts == {}
    assert mixed.parts_reason == "The batches of some of the runs or processes were not divided into parts."


def compute_of(record: RunRecord) -> PhaseRecord:
    return record.stages["train"].phases["compute"]
