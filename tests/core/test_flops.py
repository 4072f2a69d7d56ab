"""FLOPs that are given: total, energy and rate in the record, wherever it is shown, and in sums; unknown ones are None."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ml_energy_callbacks import RunRecord, load_record
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import add_records, merge_records
from ml_energy_callbacks.record.schema import FlopsRecord, Part
from ml_energy_callbacks.report.page.run import run_page
from ml_energy_callbacks.report.table import render
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter

WATTS, BATCH_S = 100.0, 0.5
BATCHES, SAMPLES = 8, 4
FLOPS = 5e9


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def meter_of(clock: ManualClock, **options: Any) -> SteppedMeter:
    counter = ScriptedCounter(PowerCurve(clock, WATTS), clock, period_s=0.02)
    return SteppedMeter(clock, **{"backends": [ScriptedBackend([counter])], "verbose": False, "location": "FRA", **options})


def work(meter: SteppedMeter, clock: ManualClock, *, stage: str = "train", samples: int | None = SAMPLES) -> None:
    with meter.stage(stage):
        for _ in range(BATCHES):
            with meter.batch(samples):
                clock.advance(BATCH_S)


def measured(clock: ManualClock, stage: str = "train", **options: Any) -> RunRecord:
    """Return the record of equal batches."""
    with meter_of(clock, **{"flops_per_sample": FLOPS, **options}) as meter:
        work(meter, clock, stage=stage)
    return meter.record


def shown(record: RunRecord) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(render(record))
    return text.getvalue()


def test_total_energy_and_rate_follow_from_those_of_a_sample(clock: ManualClock) -> None:
    with meter_of(clock, flops_per_sample=FLOPS) as meter:
        work(meter, clock)
        metrics = meter.metrics("train")
    flops = meter.record.stages["train"].flops
    assert flops is not None
    assert (flops.total, flops.per_sample, flops.method) == (BATCHES * SAMPLES * FLOPS, FLOPS, "given")
    assert flops.joules_per_flop == pytest.approx(WATTS * BATCH_S / SAMPLES / FLOPS, rel=0.02)
    assert flops.flops_per_second == pytest.approx(SAMPLES * FLOPS / BATCH_S)
    assert metrics["energy/train/flops"] == flops.total
    assert metrics["energy/train/joules_per_flop"] == pytest.approx(flops.joules_per_flop, rel=0.02)
    assert metrics["energy/train/flops_per_second"] == pytest.approx(flops.flops_per_second)


def test_each_stage_has_its_own(clock: ManualClock) -> None:
    with meter_of(clock, flops_per_sample={"train": 3 * FLOPS, "predict": np.float32(FLOPS)}) as meter:
        for stage in ("train", "validate", "predict"):
            work(meter, clock, stage=stage)
    found = {name: stage.flops and stage.flops.per_sample for name, stage in meter.record.stages.items()}
    assert found == {"other": None, "train": 3 * FLOPS, "validate": None, "predict": FLOPS}


def test_a_number_is_that_of_training_alone(clock: ManualClock) -> None:
    record = measured(clock, "predict")
    assert record.stages["predict"].flops is None
    assert "FLOP" not in shown(record) + run_page(record).partition("run-record")[0]


@pytest.mark.parametrize(
    "nonsense",
    [0, -1.0, 0.5, float("nan"), float("inf"), 1e21, "5e9", True, {"train": 0}, {"training": 1e9}, {"predict/prefill": 1e9}],
    ids=repr,
)
def test_what_cannot_be_flops_is_refused_before_the_run(clock: ManualClock, nonsense: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"flops_per_sample is .*; give the FLOPs of a training sample"):
        meter_of(clock, flops_per_sample=nonsense)


def test_without_the_number_of_samples_only_those_of_a_sample_are_known(clock: ManualClock) -> None:
    with meter_of(clock, flops_per_sample=FLOPS) as meter:
        work(meter, clock, samples=None)
        assert not [name for name in meter.metrics("train") if "flop" in name]
    assert meter.record.stages["train"].flops == FlopsRecord(total=None, per_sample=FLOPS, method="given")


def test_compilation_is_left_out_of_energy_and_rate(clock: ManualClock) -> None:
    with meter_of(clock, flops_per_sample=FLOPS) as meter:
        with meter.stage("train"):
            meter.enter("compile")
            clock.advance(3.0)
            meter.batch_end(SAMPLES)
            compiling = meter.metrics("train")
        work(meter, clock)
        metrics = meter.metrics("train")
    assert not [name for name in compiling if "flop" in name]
    flops = meter.record.stages["train"].flops
    assert flops is not None
    assert flops.total == (BATCHES + 1) * SAMPLES * FLOPS
    assert metrics["energy/train/flops"] == BATCHES * SAMPLES * FLOPS
    for energy in (flops.joules_per_flop, metrics["energy/train/joules_per_flop"]):
        assert energy == pytest.approx(WATTS * BATCH_S / SAMPLES / FLOPS, rel=0.05)
    for rate in (flops.flops_per_second, metrics["energy/train/flops_per_second"]):
        assert rate == pytest.approx(SAMPLES * FLOPS / BATCH_S)


def test_each_start_of_a_meter_may_have_another_model(clock: ManualClock) -> None:
    meter = meter_of(clock)
    each = (FLOPS, 3 * FLOPS)
    for flops in each:
        with meter:
            work(meter, clock)
            meter.set_flops_per_sample("train", flops, "counted")
            since = meter.point()
            work(meter, clock)
            window = meter.metrics("train", since)
        assert window["energy/train/flops"] == BATCHES * SAMPLES * flops
    found = meter.record.stages["train"].flops
    assert found is not None
    assert (found.total, found.per_sample, found.method) == (2 * BATCHES * SAMPLES * sum(each), sum(each) / 2, "counted")
    assert meter.metrics("train")["energy/train/flops"] == found.total
    with meter:
        work(meter, clock)  # of which nothing is known
    assert meter.record.stages["train"].flops is None
    assert not [name for name in meter.metrics("train") if "flop" in name]
    with pytest.raises(ConfigurationError, match="A sample of stage 'train' cannot take 0 FLOPs"):
        meter.set_flops_per_sample("train", 0)


def test_a_start_with_the_same_flops_adds_none_to_what_is_kept(clock: ManualClock) -> None:
    meter = meter_of(clock, flops_per_sample=FLOPS)
    for _ in range(4):
        with meter:
            work(meter, clock)
    flops = meter.record.stages["train"].flops
    assert flops is not None
    assert flops.total == 4 * BATCHES * SAMPLES * FLOPS
    assert flops.per_sample == FLOPS


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (FLOPS, (2 * BATCHES * SAMPLES * FLOPS, FLOPS)),
        (3 * FLOPS, (4 * BATCHES * SAMPLES * FLOPS, 2 * FLOPS)),
        (None, None),
    ],
    ids=["same", "other", "unknown"],
)
def test_the_parts_of_a_resumed_run_add_up(clock: ManualClock, later: float | None, expected: Any) -> None:
    whole = add_records(measured(clock), measured(clock, flops_per_sample=later)).stages["train"].flops
    assert (whole and (whole.total, whole.per_sample)) == expected
    if whole is not None:
        assert whole.joules_per_flop == pytest.approx(WATTS * BATCH_S / SAMPLES / whole.per_sample, rel=0.02)
        assert whole.flops_per_second == pytest.approx(SAMPLES * whole.per_sample / BATCH_S)


def test_the_processes_of_a_job_add_up_and_one_that_does_not_know_makes_them_unknown(clock: ManualClock) -> None:
    records = []
    for rank, flops in enumerate((FLOPS, 3 * FLOPS)):
        record = measured(clock, flops_per_sample=flops)
        record.run.world_size = 2
        record.part = Part(rank=rank, host="a", hostname="a", uses=[])
        records.append(record)
    records[1].devices = []  # measured by the other process
    found = merge_records(records).stages["train"]
    assert found.flops is not None
    assert (found.flops.total, found.flops.per_sample) == (4 * BATCHES * SAMPLES * FLOPS, 2 * FLOPS)
    assert found.flops.flops_per_second == pytest.approx(4 * SAMPLES * FLOPS / BATCH_S)  # in the same time
    assert found.flops.joules_per_flop == pytest.approx((found.joules_per_sample or 0.0) / found.flops.per_sample)
    records[1].stages["train"].flops = None
    assert merge_records(records).stages["train"].flops is None


def test_they_are_shown_with_how_they_are_known(clock: ManualClock, tmp_path: Path) -> None:
    record = measured(clock, output_dir=tmp_path)
    assert load_record(tmp_path) == record
    text = shown(record)
    assert "FLOPs of train: 160 GFLOP, 5.00 GFLOP/sample (given)." in text
    assert "nJ/FLOP" in text
    assert "GFLOP/s" in text
    page = run_page(record)
    assert "Energy of a FLOP" in page
    assert "FLOPs of train: 160 GFLOP" in page
    assert record.run.options["flops_per_sample"] == "5000000000.0"


def test_a_frame_has_a_column_of_each(clock: ManualClock) -> None:
    pytest.importorskip("pandas")
    frame = measured(clock).to_frame("stages")
    row = next(row for row in frame.to_dict("records") if row["stage"] == "train")
    assert (row["flops"], row["flops_per_sample"], row["flops_method"]) == (BATCHES * SAMPLES * FLOPS, FLOPS, "given")
    assert row["flops_per_second"] == pytest.approx(SAMPLES * FLOPS / BATCH_S)


def test_a_record_of_an_earlier_release_has_none(clock: ManualClock) -> None:
    record = measured(clock)
    assert decode_record(encode_record(record), "energy.json") == record
    facts = record.to_dict()
    for stage in facts["stages"].values():
        del stage["flops"]
    found = decode_record(json.dumps(facts).encode(), "energy.json")
    assert found.stages["train"].flops is None
