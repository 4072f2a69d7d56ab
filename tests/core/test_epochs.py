"""The epochs of a record: their start, devices, phases and metrics; many of them, parts of a run, and processes of a job."""

import dataclasses
import math
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from ml_energy_callbacks import RunRecord
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.meter.epoch_metrics import read_metrics
from ml_energy_callbacks.record.epochs import add_epoch, add_metrics, brief, sum_parts
from ml_energy_callbacks.record.limits import limit_size
from ml_energy_callbacks.record.load import decode_record, encode_record
from ml_energy_callbacks.record.merge import add_records, merge_records
from ml_energy_callbacks.record.schema import EpochRecord, Part, PowerSeries
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter
from ml_energy_callbacks.testing.scripted import SCRIPTED_DEVICE


def run(epochs: int = 4, batches: int = 60, *, validates: bool = False, prefix: str = "") -> RunRecord:
    """Return the record of a run on two devices: waits at 90 W and batches at 300 W, of varying length."""
    clock, rng = ManualClock(), random.Random(1)
    curve = PowerCurve(clock, 90.0)
    sources = [
        ScriptedCounter(
            curve, clock, offset_s=0.03 * (i + 1), device=dataclasses.replace(SCRIPTED_DEVICE, id=f"{prefix}dev:{i}")
        )
        for i in range(2)
    ]
    meter = SteppedMeter(clock, backends=[ScriptedBackend(sources)], carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        for index in range(epochs):
            since = meter.point()
            for _ in range(batches):
                clock.advance(0.03 * rng.uniform(0.5, 1.5))
                curve.set(300.0)
                with meter.batch(samples=8):
                    clock.advance(0.07 * rng.uniform(0.5, 1.5))
                curve.set(90.0)
            meter.close_epoch("train", index, since, {"train_loss": 1.0 / (index + 1)})
            if validates:
                since = meter.point()
                with meter.stage("validate"):
                    clock.advance(0.5)
                    meter.close_epoch("validate", index, since, {"val_loss": 2.0 / (index + 1)})
    return meter.record


def test_an_epochs_devices_and_phases_add_up_to_its_joules() -> None:
    record = run(validates=True)
    train = [epoch for epoch in record.epochs if epoch.stage == "train"]
    assert len(train) == 4
    assert record.stages["train"].phases["data_wait"].joules is not None
    for epoch in record.epochs:
        assert {*epoch.devices} == {"dev:0", "dev:1"}
        assert sum(epoch.devices.values()) == pytest.approx(epoch.joules, rel=1e-6)
        assert sum(epoch.phases.values()) == pytest.approx(epoch.joules, rel=1e-6)
        assert sum(epoch.phase_seconds.values()) == pytest.approx(epoch.seconds, rel=1e-6)
    for phase in ("compute", "data_wait"):
        told = sum(epoch.phases[phase] for epoch in train)
        assert told == pytest.approx(record.stages["train"].phases[phase].joules, rel=0.02)


def test_an_epoch_begins_where_those_before_it_end() -> None:
    record = run(validates=True)
    ends = 0.0
    for epoch in record.epochs:
        assert epoch.started_s == pytest.approx(ends, abs=0.5)
        ends = (epoch.started_s or 0.0) + epoch.seconds
    assert ends == pytest.approx(record.total.seconds, abs=0.2)


def test_phases_that_cannot_be_separated_are_absent() -> None:
    clock = ManualClock()
    meter = SteppedMeter(
        clock, backends=[ScriptedBackend([ScriptedCounter(PowerCurve(clock, 90.0), clock)])], carbon_intensity=1, verbose=False
    )
    with meter, meter.stage("train"):
        since = meter.point()
        clock.advance(0.4)
        with meter.batch(samples=1):
            clock.advance(0.05)
        meter.close_epoch("train", 0, since)
    stage, (epoch,) = meter.record.stages["train"], meter.record.epochs
    assert stage.phases["compute"].joules is None
    assert "compute" not in epoch.phases
    assert epoch.devices == {"scripted:0": pytest.approx(epoch.joules, rel=1e-6)}


def test_without_devices_nothing_but_the_start_and_metrics_is_known() -> None:
    clock = ManualClock()
    meter = SteppedMeter(clock, backends=[], verbose=False)
    with meter, meter.stage("train"):
        clock.advance(2.0)
        meter.close_epoch("train", 3, meter.point(), {"loss": 0.5})
    (epoch,) = meter.record.epochs
    assert (epoch.devices, epoch.phases, epoch.metrics, epoch.joules) == ({}, {}, {"loss": 0.5}, None)
    assert epoch.started_s == pytest.approx(2.0)
    assert meter.record.power == {}


# ------------------------------------------------------------------------------------------------------- metrics


class Strange:
    """An object of the user's that fails whenever it is used."""

    def __float__(self) -> float:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (np.float32(0.1), np.float32(0.1).item()),
        (np.array(2.0), 2.0),
        (np.array([2.0]), 2.0),
        (np.array([1.0, 2.0]), None),
        (math.nan, None),
        (-math.inf, None),
        (10**400, None),
        (None, None),
        ("0.5", None),
        (b"1", None),
        ([1.0], None),
        (1j, None),
        (Strange(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_finite_scalars_are_metrics(value: Any, number: float | None) -> None:
    assert read_metrics({"loss": value}) == ({} if number is None else {"loss": number})


def test_names_of_metrics_are_plain_text_of_limited_length_and_number() -> None:
    found = read_metrics({"a\x1b[31m\nb": 1.0, "x" * 500: 2.0, "https://u:secret@host/m": 3.0, 7: 4.0})
    assert [*found.values()] == [1.0, 2.0, 3.0]
    assert all(len(name) <= 100 and name.isprintable() and "secret" not in name for name in found)
    assert len(read_metrics({f"metric {i}": 1.0 for i in range(1000)})) == 50


def test_our_own_metrics_and_axes_are_no_metrics() -> None:
    assert read_metrics({"energy/train/joules": 1.0, "epoch": 1.0, "step": 7, "epochs_left": 2.0}) == {"epochs_left": 2.0}
    assert read_metrics(None) == {}


def test_metrics_that_come_late_belong_to_the_stages_last_epoch() -> None:
    epochs = [plain("train", 0), plain("validate", 0), plain("train", 1)]
    told = add_metrics(epochs, "validate", {"val_loss": 0.123456789012})
    assert [epoch.metrics for epoch in told] == [{}, {"val_loss": 0.1234568}, {}]
    assert add_metrics(told, "test", {"loss": 1.0}) == told
    assert epochs[1].metrics == {}


def test_the_meter_records_metrics_at_and_after_an_epoch() -> None:
    clock = ManualClock()
    meter = SteppedMeter(clock, backends=[], verbose=False)
    with meter, meter.stage("train"):
        meter.close_epoch("train", 0, meter.point(), {"loss": np.float32(0.25), "history": [1, 2]})
        meter.add_metrics("train", {"accuracy": 0.75, "broken": math.nan})
        meter.close_epoch("train", 1, meter.point())
    assert [epoch.metrics for epoch in meter.record.epochs] == [{"loss": 0.25, "accuracy": 0.75}, {}]


# ------------------------------------------------------------------------------------------------------- many epochs


def plain(stage: str, index: int, **fields: Any) -> EpochRecord:
    return EpochRecord(stage=stage, index=index, **{"joules": 1.5, "seconds": 2.0, "samples": 10, "co2e_grams": 0.5, **fields})


def full(index: int, devices: int = 1) -> EpochRecord:
    """Return an epoch with all its figures, which takes 60 s."""
    joules = 5432.123456789 + index / 7
    phases = {"compute": 0.7 * joules, "data_wait": 0.2 * joules, "other": 0.1 * joules}
    shares = {f"nvml:GPU-{i:08}-1234-1234-1234-123456789012": joules / devices for i in range(devices)}
    metrics = {"train_loss": 1 / (index + 1), "train_accuracy": 1 - 1 / (index + 2), "learning_rate": 1e-4 / (index + 1)}
    return plain(
        "train",
        index,
        joules=joules,
        seconds=59.87654321,
        samples=123456,
        co2e_grams=joules / 3.6e6 * 475,
        sampling_joules=0.0,
        started_s=60.0 * index,
        devices=brief(shares),
        phases=brief(phases),
        phase_seconds={"compute": 40.12345, "data_wait": 15.0, "other": 4.753087},
        metrics=brief(metrics),
    )


def week(devices: int, epochs: int = 10_080) -> RunRecord:
    """Return the record of a run of a week, with an epoch each minute and power over time."""
    record = run(1, prefix="")
    found: list[EpochRecord] = []
    for index in range(epochs):
        found = add_epoch(found, full(index, devices))
    rng = random.Random(0)

    def watts() -> list[float | None]:
        return [float(f"{rng.uniform(50, 700):.4g}") for _ in range(2000)]

    names = [*found[0].devices]
    power = {name: PowerSeries(slice_s=409.6, mean=watts(), low=watts(), high=watts()) for name in names}
    known = [replace(record.devices[0], id=name) for name in names]
    stages = {name: replace(stage, devices={}) for name, stage in record.stages.items()}
    return limit_size(replace(record, devices=known, stages=stages, epochs=found, power=power))


@pytest.mark.parametrize("devices", [1, 16])
def test_the_record_of_a_week_stays_below_a_megabyte(devices: int) -> None:
    record = week(devices)
    data = encode_record(record)
    assert len(data) < 1_000_000
    assert sum(epoch.epochs for epoch in record.epochs) == 10_080
    assert sum(epoch.joules or 0.0 for epoch in record.epochs) == pytest.approx(
        sum(5432.123456789 + i / 7 for i in range(10_080))
    )
    for epoch in record.epochs:
        assert sum(epoch.devices.values()) == pytest.approx(epoch.joules, rel=1e-5)
        assert sum(epoch.phases.values()) == pytest.approx(epoch.joules, rel=1e-5)
        last = epoch.index + epoch.epochs - 1
        assert epoch.metrics["train_loss"] == pytest.approx(1 / (last + 1), rel=1e-6)
        assert epoch.started_s == 60.0 * epoch.index
    assert decode_record(data, "energy.json") == record


def test_a_thousand_epochs_are_all_there() -> None:
    record = week(1, epochs=1000)
    assert [epoch.index for epoch in record.epochs] == [*range(1000)]
    assert len(encode_record(record)) < 1_000_000


def test_a_figure_that_is_absent_is_zero_only_where_the_others_are_all() -> None:
    assert sum_parts([({"a": 1.0, "b": 2.0}, 3.0), ({"a": 4.0}, 4.0)]) == {"a": 5.0, "b": 2.0}
    assert sum_parts([({"a": 1.0, "b": 2.0}, 3.0), ({"a": 4.0}, 9.0)]) == {"a": 5.0}
    assert sum_parts([({"a": 1.0}, 1.0), ({}, None)]) == {}
    assert sum_parts([({}, 0.0), ({}, 0.0)]) == {}


# ------------------------------------------------------------------------------------------------------- several parts


def test_epochs_of_a_run_that_went_on_begin_after_its_earlier_part() -> None:
    earlier, later = run(2), run(2)
    record = add_records(earlier, later)
    assert [epoch.index for epoch in record.epochs] == [0, 1, 0, 1]
    shift = earlier.total.seconds
    for told, own in zip(record.epochs[2:], later.epochs, strict=True):
        assert told.started_s == pytest.approx(shift + (own.started_s or 0.0), abs=0.002)
        assert (told.devices, told.metrics) == (own.devices, own.metrics)


def test_devices_of_a_jobs_processes_are_side_by_side() -> None:
    parts = []
    for rank in range(2):
        record = run(prefix=f"rank{rank}-")
        record.epochs[0] = replace(record.epochs[0], metrics={"loss": float(rank), f"only-{rank}": 1.0})
        uses = [device.id for device in record.devices]
        parts.append(replace(record, part=Part(rank=rank, host=f"host {rank}", hostname=f"host-{rank}", uses=uses)))
    record = merge_records(parts)
    names = [f"rank{rank}-dev:{i}@host-{rank}" for rank in range(2) for i in range(2)]
    assert sorted(record.power) == names
    assert [*record.power["rank1-dev:0@host-1"].mean] == parts[1].power["rank1-dev:0"].mean
    for epoch in record.epochs:
        assert sorted(epoch.devices) == names
        assert sum(epoch.devices.values()) == pytest.approx(epoch.joules, rel=1e-5)
        assert sum(epoch.phases.values()) == pytest.approx(epoch.joules, rel=1e-5)
    assert record.epochs[0].metrics == {"loss": 0.0, "only-0": 1.0, "only-1": 1.0}
    assert record.epochs[1].started_s == min(part.epochs[1].started_s or 0.0 for part in parts)
    assert decode_record(encode_record(record), "energy.json") == record


def test_older_epochs_have_none_of_it() -> None:
    fields = msgspec.json.decode(encode_record(run(1)))
    for name in ("started_s", "devices", "phases", "metrics"):
        del fields["epochs"][0][name]
    (epoch,) = decode_record(msgspec.json.encode(fields), "energy.json").epochs
    assert (epoch.started_s, epoch.devices, epoch.phases, epoch.metrics) == (None, {}, {}, {})
    both = add_records(decode_record(msgspec.json.encode(fields), "energy.json"), run(1))
    assert both.epochs[0].started_s is None


def test_an_epoch_with_an_unknown_device_is_refused() -> None:
    fields = msgspec.json.decode(encode_record(run(1)))
    fields["epochs"][0]["devices"]["other"] = 1.0
    with pytest.raises(RecordError, match="an epoch has a device 'other' that the run has not"):
        decode_record(msgspec.json.encode(fields), "energy.json")
