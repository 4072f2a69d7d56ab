"""Several processes' meters, here in threads that gather by a barrier: each device counts once, and all adds up."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from lateness import Lateness
from msgspec.structs import replace as replace_struct
from rich.console import Console

from ml_energy_callbacks import EnergyMeter, LoopDescription, RunRecord, load_record
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.frameworks.checkpoint import latest_record
from ml_energy_callbacks.job.merge import merge_jobs
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.record.load import encode_record
from ml_energy_callbacks.record.merge import add_records, merge_records
from ml_energy_callbacks.record.schema import PhaseRecord
from ml_energy_callbacks.report import render
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.testing.replaying import replay_file

CPU = Device("scripted:cpu", "Processor", "cpu", "scripted", "energy_counter", "measured", 0.01)
GPU = Device("scripted:gpu", "GPU", "gpu", "scripted", "energy_counter", "measured", 0.02)


class Group:
    """What several threads gather by; each calls a function of its own rank."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=20)
        self.given: list[Any] = [None] * size
        self.late_s = 0.0

    def gather_of(self, rank: int) -> Callable[[Any], Sequence[Any]]:
        def gather(fact: Any) -> Sequence[Any]:
            self.given[rank] = fact
            self.barrier.wait()
            told = list(self.given)
            self.barrier.wait()
            return told

        return gather

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * self.size

        def call(rank: int) -> None:
            try:
                results[rank] = work(rank)
            except Exception as error:  # noqa: BLE001 - it is the result
                results[rank] = error

        threads = [threading.Thread(target=call, args=(rank,)) for rank in range(self.size)]
        with Lateness() as late:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.late_s = max(self.late_s, late.seconds)
        return results

    def edges(self, record: RunRecord) -> float:
        """Return the share of a run that its two ends are uncertain by, as this machine was late."""
        return 2 * self.late_s / min(rank.seconds for rank in record.ranks)


def backend(*devices: tuple[Device, float]) -> ScriptedBackend:
    return ScriptedBackend(
        [ScriptedCounter(PowerCurve(monotonic_clock, watts), monotonic_clock, 0.0, device=device) for device, watts in devices]
    )


def meter(rank: int, folder: Path | None = None, **options: Any) -> EnergyMeter:
    """Return a meter that sees the processor of 50 W and a GPU of its own of 100, 200 ... W."""
    own = replace(GPU, id=f"scripted:gpu-{rank}")
    return EnergyMeter(
        backends=[backend((CPU, 50.0), (own, 100.0 * (rank + 1)))],
        carbon_intensity=100.0,
        verbose=False,
        output_dir=folder,
        **options,
    )


def epoch(measuring: EnergyMeter, index: int, samples: int = 4) -> dict[str, float]:
    with measuring.stage("train"):
        since = measuring.point()
        for _ in range(5):
            with measuring.batch(samples=samples, tokens=10 * samples):
                time.sleep(0.08)
        metrics, _ = measuring.close_epoch("train", index, since)
    return metrics


def watts(record: RunRecord) -> dict[str, float]:
    ranks = {device: rank for rank in reversed(record.ranks) for device in rank.devices}
    return {device.id: (device.joules or 0.0) / ranks[device.id].seconds for device in record.devices}


def test_each_device_counts_once_and_the_samples_of_all(tmp_path: Path) -> None:
    group = Group(3)

    def work(rank: int) -> Any:
        with meter(rank, tmp_path).start(LoopDescription(gather=group.gather_of(rank))) as measuring:
            logged = [epoch(measuring, index, samples=rank + 1) for index in range(2)]
        return logged, measuring

    results = group.run(work)
    records = [measuring.record for _, measuring in results]
    record = records[0]
    drawn = {"scripted:cpu": 50, "scripted:gpu-0": 100, "scripted:gpu-1": 200, "scripted:gpu-2": 300}
    assert watts(record) == pytest.approx(drawn, rel=0.03 + group.edges(record))
    train = record.stages["train"]
    assert (train.samples, train.tokens) == (2 * 5 * (1 + 2 + 3), 10 * 2 * 5 * (1 + 2 + 3))
    assert train.joules_per_token == pytest.approx((train.joules_per_sample or 0.0) / 10)
    assert [rank.tokens for rank in record.ranks] == [10 * 2 * 5 * (rank + 1) for rank in range(3)]
    assert record.run.world_size == 3
    assert record.run.status == "completed"
    assert [rank.devices for rank in record.ranks] == [["scripted:cpu", f"scripted:gpu-{rank}"] for rank in range(3)]
    assert sum(rank.joules or 0.0 for rank in record.ranks) == pytest.approx(record.total.joules)
    assert all(rank.barrier_joules is not None for rank in record.ranks)
    # Each process knows the same, and rank 0 has written it.
    for logged, _ in results:
        for own, told in zip(results[0][0], logged, strict=True):
            assert told == pytest.approx(own)
    for other in records[1:]:
        assert other.total.joules == pytest.approx(record.total.joules)
        assert other.run.id == record.run.id
    assert load_record(tmp_path).total == record.total
    assert [path.name for path in tmp_path.iterdir()] == ["energy.json"]
    # The epochs logged are those of the record, and what followed them is in the totals.
    epochs = [each for each in record.epochs if each.stage == "train"]
    assert [logged["energy/train/joules"] for logged in results[0][0]] == pytest.approx([each.joules for each in epochs])
    known = sum(each.joules or 0.0 for each in record.epochs)
    assert known <= results[0][0][-1]["energy/total/joules"] <= record.total.joules
    assert results[0][0][-1]["energy/train/joules_per_sample"] == pytest.approx((epochs[1].joules or 0.0) / (5 * 6))
    assert results[0][0][-1]["energy/train/joules_per_token"] == pytest.approx((epochs[1].joules or 0.0) / (10 * 5 * 6))
    assert [epoch.tokens for epoch in epochs] == [10 * 5 * 6] * 2


def test_a_process_without_a_device_of_its_own_adds_its_samples() -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        measuring = EnergyMeter(backends=[backend((CPU, 50.0))], verbose=False)
        with measuring.start(LoopDescription(gather=group.gather_of(rank))):
            epoch(measuring, 0)
        return measuring.record

    record, other = group.run(work)
    assert record.total.joules == pytest.approx(50 * record.ranks[0].seconds, rel=0.01 + group.edges(record))
    assert other.total.joules == record.total.joules
    assert record.stages["train"].samples == 2 * 20
    assert [rank.joules for rank in record.ranks] == pytest.approx([record.total.joules / 2] * 2)
    assert record.warnings == other.warnings
    assert not any("No device" in warning for warning in record.warnings)


def test_slices_of_one_gpu_share_its_energy(driver: SimulatedDriver) -> None:
    driver.start(gpus=2, period_s=0.01, watts=200.0)
    slices = [f"MIG-{rank:08}-0000-0000-0000-000000000000" for rank in range(2)]
    driver.set_mig(slices, 1)
    group = Group(2)

    def work(rank: int) -> RunRecord:
        measuring = EnergyMeter(backends=[NvmlBackend(environ={"CUDA_VISIBLE_DEVICES": slices[rank]})], verbose=False)
        with measuring.start(LoopDescription(gather=group.gather_of(rank))):
            epoch(measuring, 0)
        return measuring.record

    record, _ = group.run(work)
    assert [device.id for device in record.devices] == ["nvml:GPU-00000001-0000-0000-0000-000000000000"]
    assert record.total.joules == pytest.approx(200 * record.ranks[0].seconds, rel=0.03 + group.edges(record))
    assert [rank.joules for rank in record.ranks] == pytest.approx([record.total.joules / 2] * 2)


def test_what_one_process_sees_inside_a_devices_figure_no_other_counts() -> None:
    group = Group(2)
    module = replace(GPU, id="superchip:gpu-1", backend="superchip", covers=("cpu",))

    def work(rank: int) -> RunRecord:
        seen = [backend((CPU, 50.0)), backend((module, 300.0))] if rank else [backend((CPU, 50.0))]
        measuring = EnergyMeter(backends=seen, verbose=False)
        with measuring.start(LoopDescription(gather=group.gather_of(rank))):
            epoch(measuring, 0)
        return measuring.record

    record, _ = group.run(work)
    assert [device.id for device in record.devices] == ["superchip:gpu-1"]


def test_the_share_of_a_job_is_that_of_all_its_processes() -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        measuring = EnergyMeter(backends=[backend((CPU, 50.0))], scope="process", verbose=False)
        with measuring.start(LoopDescription(gather=group.gather_of(rank))):
            epoch(measuring, 0)
        return measuring.record

    record, _ = group.run(work)
    assert record.process is not None
    assert [device.id for device in record.process.devices] == ["process:scripted:cpu"]


def test_a_process_in_another_container_has_no_number_here() -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        ask = group.gather_of(rank)

        def gather(fact: bytes) -> Sequence[bytes]:
            told = msgspec.json.decode(fact)
            if rank and isinstance(told, dict) and "pid_namespace" in told:
                fact = msgspec.json.encode(told | {"pid_namespace": "pid:[1]", "pid": 1})  # another process's number here
            return ask(fact)

        measuring = EnergyMeter(backends=[backend((CPU, 50.0))], scope="process", verbose=False)
        with measuring.start(LoopDescription(gather=gather)):
            pass
        return measuring.record

    record, _ = group.run(work)
    assert any(
        warning.startswith("1 of the job's processes on this host run in other containers") for warning in record.warnings
    )


@pytest.mark.parametrize(
    "gather", [lambda _: [], lambda fact: fact, lambda fact: [fact, fact], lambda _: None, lambda _: ["x"]]
)
def test_a_gather_that_asks_nobody_is_refused(gather: Any) -> None:
    with pytest.raises(ConfigurationError, match="gather must return the objects of all processes of the job, by rank"):
        meter(0).start(LoopDescription(gather=gather))


def test_a_gather_of_one_is_a_run_of_one() -> None:
    with meter(0).start(LoopDescription(gather=lambda fact: [fact])) as measuring:
        assert epoch(measuring, 0)["energy/train/joules"] > 0
    assert measuring.record.ranks == []
    assert measuring.record.run.world_size == 1


def test_one_that_cannot_measure_lets_none_begin() -> None:
    group = Group(2)

    def work(rank: int) -> None:
        devices: Any = ["nvml:*"] if rank else "auto"
        meter(rank, devices=devices).start(LoopDescription(gather=group.gather_of(rank))).stop()

    first, second = group.run(work)
    assert isinstance(first, ConfigurationError)
    assert str(first).startswith("Rank 1 of the job cannot measure: No device matches 'nvml:*'")
    assert isinstance(second, ConfigurationError)
    assert str(second).startswith("No device matches 'nvml:*'")


def test_a_process_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    group, met = Group(2), threading.Event()

    def work(rank: int) -> Any:
        measuring = meter(rank, tmp_path).start(LoopDescription(gather=group.gather_of(rank)))
        logged = [epoch(measuring, 0)]
        if rank:
            met.wait(20)
            group.barrier.abort()
            measuring.stop("failed", "gone")
            return None
        met.set()
        logged += [epoch(measuring, 1), epoch(measuring, 2)]
        measuring.stop()
        return logged, measuring.record

    (logged, record), _ = group.run(work)
    assert logged[0]["energy/train/joules"] > 0
    assert logged[1:] == [{}, {}]  # a part of the job's energy is not the job's
    assert (record.run.status, record.run.reason) == ("failed", "Rank 1 stopped reporting.")
    assert any(warning.startswith("The other processes of the job can no longer be reached") for warning in record.warnings)
    assert record.total.joules == pytest.approx(sum(device.joules or 0.0 for device in record.devices))
    assert len(record.devices) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"energy.json", "energy.rank0.json", "energy.rank1.json"}
    merged = merge_records([load_record(tmp_path / f"energy.rank{rank}.json") for rank in range(2)])
    assert (merged.run.status, merged.run.reason) == ("failed", "Rank 1: gone")
    assert merged.total.joules >= record.total.joules
    ((_, told),) = merge_jobs([str(tmp_path)], print)
    assert told.total == merged.total
    assert not any("processes of the job" in warning for warning in told.warnings)  # nothing is left to be merged


def test_a_group_that_was_left_before_the_meter_stopped_is_asked_no_more(tmp_path: Path) -> None:
    group, asked = Group(2), [0, 0]

    def work(rank: int) -> RunRecord:
        def gather(fact: Any) -> Sequence[Any]:
            asked[rank] += 1
            return group.gather_of(rank)(fact) if asked[rank] < 4 else [fact]

        with meter(rank, tmp_path).start(LoopDescription(gather=gather)) as measuring:
            epoch(measuring, 0)
            assert epoch(measuring, 1) == {}
        return measuring.record

    for record in group.run(work):
        assert [each.samples for each in record.epochs] == [2 * 5 * 4, None]
        assert sum("can no longer be reached" in warning for warning in record.warnings) == 1
    assert asked == [4, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"energy.json", "energy.rank0.json", "energy.rank1.json"}


def test_what_a_resumed_job_had_before_counts_once() -> None:
    with meter(0) as earlier:
        epoch(earlier, 0)
    before = earlier.record
    group = Group(2)

    def work(rank: int) -> Any:
        with meter(rank).start(LoopDescription(gather=group.gather_of(rank))) as measuring:
            measuring.resume(before)
            logged = epoch(measuring, 1)
        return logged, measuring

    results = group.run(work)
    record = results[0][1].record
    assert record.run.id == before.run.id
    ranks = sum(rank.joules or 0.0 for rank in record.ranks)
    assert record.total.joules == pytest.approx((before.total.joules or 0.0) + ranks)
    assert record.stages["train"].samples == 20 + 2 * 20
    assert results[0][0]["energy/total/joules"] > before.total.joules
    assert results[0][1].sums().joules == pytest.approx(record.total.joules, rel=0.01)
    assert results[1][1].sums().joules == pytest.approx(record.total.joules, rel=0.01)


def test_a_job_that_starts_again_goes_on(tmp_path: Path) -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        measuring = meter(rank, tmp_path)
        for index in range(2):
            with measuring.start(LoopDescription(gather=group.gather_of(rank))):
                epoch(measuring, index)
        return measuring.record

    record, _ = group.run(work)
    assert [each.index for each in record.epochs] == [0, 1]
    assert record.stages["train"].samples == 2 * 2 * 20
    assert list(watts(record).values()) == pytest.approx([50, 100, 200], rel=0.03 + group.edges(record))
    assert load_record(tmp_path).total == record.total


def test_a_job_that_resumes_leaves_all_files_of_the_one_before(tmp_path: Path) -> None:
    def work(rank: int, group: Group, earlier: RunRecord | None) -> RunRecord:
        measuring = meter(rank, tmp_path)
        if earlier is not None:
            measuring.resume(earlier)
        measuring.start(LoopDescription(gather=group.gather_of(rank)))
        epoch(measuring, 0)
        measuring.stop("failed", "gone")
        return measuring.record

    first, second = Group(2), Group(2)
    before = first.run(lambda rank: work(rank, first, None))[0]
    after = second.run(lambda rank: work(rank, second, before))[0]
    kept = f"-{before.run.id[:8]}"
    names = {f"energy.rank{rank}{part}.json" for rank in range(2) for part in ("", kept)}
    assert {path.name for path in tmp_path.iterdir()} == {"energy.json", *names}
    merge_jobs([str(tmp_path)], print)
    merged = load_record(tmp_path)
    assert merged.run.id == before.run.id
    assert merged.stages["train"].samples == 2 * 2 * 20
    assert merged.total.joules >= after.total.joules > before.total.joules  # what rank 1 told last was not its last


def test_one_that_goes_on_alone_asks_nobody(tmp_path: Path) -> None:
    group = Group(2)

    def work(rank: int) -> Any:
        measuring = meter(rank, tmp_path)
        with measuring.start(LoopDescription(gather=group.gather_of(rank))):
            epoch(measuring, 0)
        if rank:
            return None
        with measuring.start(), measuring.stage("test"):
            since = measuring.point()
            with measuring.batch(samples=7):
                time.sleep(0.5)
            metrics, _ = measuring.close_epoch("test", 0, since)
        return metrics, measuring.record

    (metrics, record), _ = group.run(work)
    assert record.stages["test"].seconds >= 0.5
    assert metrics["energy/test/joules"] == pytest.approx(150 * record.stages["test"].seconds, rel=0.1)  # of its own devices
    assert record.stages["test"].samples == 7
    assert record.stages["train"].samples == 2 * 20  # as the other had told
    assert metrics["energy/total/joules"] == pytest.approx(record.total.joules, rel=0.1 + group.edges(record))
    assert sum(rank.joules or 0.0 for rank in record.ranks) == pytest.approx(record.total.joules)
    assert (record.run.status, record.warnings) == ("completed", [])
    assert [path.name for path in tmp_path.iterdir()] == ["energy.json"]


def test_one_that_cannot_write_lets_none_begin(tmp_path: Path) -> None:
    group = Group(2)
    (tmp_path / "taken").write_text("", encoding="utf-8")
    folders = [tmp_path / "taken" / "run", tmp_path / "free"]

    def work(rank: int) -> None:
        meter(rank, folders[rank]).start(LoopDescription(gather=group.gather_of(rank))).stop()

    first, second = group.run(work)
    assert isinstance(first, ConfigurationError)
    assert str(first).startswith("The run file ")
    assert isinstance(second, ConfigurationError)
    assert str(second).startswith("Rank 0 of the job cannot measure: The run file ")
    assert not list((tmp_path / "free").iterdir())


def test_each_process_records_what_it_measures(tmp_path: Path) -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        path = tmp_path / "raw.jsonl"
        with meter(rank, recording=path).start(LoopDescription(gather=group.gather_of(rank))) as measuring:
            epoch(measuring, 0)
        return measuring.record

    record = group.run(work)[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.rank0.jsonl", "raw.rank1.jsonl"]
    replays = [replay_file(tmp_path / f"raw.rank{rank}.jsonl") for rank in range(2)]
    assert sum(each.total.joules or 0.0 for each in replays) == pytest.approx(record.total.joules)
    assert [each.stages["train"].samples for each in replays] == [20, 20]


def test_the_record_of_a_job_is_the_same_by_the_raw_readings_of_its_processes(tmp_path: Path) -> None:
    group = Group(2)

    def work(rank: int) -> None:
        with meter(rank, tmp_path, raw_readings=True).start(LoopDescription(gather=group.gather_of(rank))) as measuring:
            epoch(measuring, 0, samples=rank + 1)

    group.run(work)
    record = load_record(tmp_path)
    assert [kept.rank for kept in record.raw_readings] == [0, 1]
    found = record.verify()
    assert found.same, found
    assert len(found.files) == 2
    record.stages["train"].joules = (record.stages["train"].joules or 0.0) + 0.1
    assert record.verify().same is False
    record.raw_readings[1].head = record.raw_readings[0].head
    assert "rank1" in (record.verify().reason or "")
    harmed = load_record(tmp_path)
    harmed.nodes = []
    assert harmed.verify().same is False
    del harmed.raw_readings[1]
    assert (harmed.verify().reason or "").startswith("The record has raw readings of 1 of its 2 processes.")


def test_the_end_of_an_epoch_waits_for_no_fit(tmp_path: Path) -> None:
    group = Group(2)

    def work(rank: int) -> int:
        path = tmp_path / "raw.jsonl"
        with meter(rank, recording=path).start(LoopDescription(gather=group.gather_of(rank))) as measuring:
            for index in range(40):
                measuring.close_epoch("train", index, measuring.point())
        return (tmp_path / f"raw.rank{rank}.jsonl").read_text(encoding="utf-8").count('"fit"')

    assert all(fits < 20 for fits in group.run(work))  # those of reviews and of the end


def test_a_job_has_the_power_and_epochs_of_all_its_devices(tmp_path: Path) -> None:
    group = Group(2)
    sent: list[int] = []

    def work(rank: int) -> EnergyMeter:
        gather = group.gather_of(rank)

        def counted(fact: Any) -> Sequence[Any]:
            if rank == 1 and isinstance(fact, bytes) and b'"windows"' in fact:
                sent.append(fact.count(b'"slice_s"'))
            return gather(fact)

        with meter(rank, tmp_path).start(LoopDescription(gather=counted)) as measuring:
            epoch(measuring, 0)
            for index in range(1, 100):
                measuring.close_epoch("train", index, measuring.point(), {"loss": float(rank)})
        return measuring

    record = group.run(work)[0].record
    names = {"scripted:cpu", "scripted:gpu-0", "scripted:gpu-1"}
    assert {*record.power} == names
    first, second = record.epochs[0], record.epochs[1]
    assert {*first.devices} == names
    assert sum(first.devices.values()) == pytest.approx(first.joules, rel=1e-5)
    assert second.metrics == {"loss": 0.0}
    series = record.power["scripted:gpu-1"]
    used = sum(watts * series.slice_s for watts in series.mean if watts is not None)
    assert used == pytest.approx(next(d.joules for d in record.devices if d.id == "scripted:gpu-1"), rel=0.3)
    assert sent[-1] == 1  # at the end, and before that only as the run becomes longer
    assert sum(sent) < 0.8 * len(sent)
    assert load_record(tmp_path) == record


def test_one_that_cannot_record_lets_none_begin(tmp_path: Path) -> None:
    group = Group(2)
    (tmp_path / "taken").write_text("", encoding="utf-8")
    folders = [tmp_path / "taken", tmp_path / "free"]

    def work(rank: int) -> None:
        meter(rank, recording=folders[rank] / "raw.jsonl").start(LoopDescription(gather=group.gather_of(rank))).stop()

    first, second = group.run(work)
    assert str(first).startswith("The recording ")
    assert str(second).startswith("Rank 0 of the job cannot measure: The recording ")
    with meter(0, recording=tmp_path / "free" / "raw.rank1.jsonl"):
        pass  # nobody writes it any more


class Silent(MemoryFileSystem):  # type: ignore[misc] - fsspec has no types
    """In memory, and silent where it is told to be."""

    protocol = ("silent",)
    answers = threading.Event()

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self.answers.wait(30)
        super().pipe_file(path, value, **options)


def test_a_job_waits_no_longer_than_a_run_for_an_url_that_is_silent_at_its_end(tmp_path: Path) -> None:
    fsspec.register_implementation("silent", Silent, clobber=True)
    group = Group(2)
    Silent.answers.set()

    def work(rank: int) -> float:
        measuring = EnergyMeter(backends=[backend((CPU, 50.0))], output_dir="silent://job", verbose=False)
        measuring.start(LoopDescription(gather=group.gather_of(rank), output_dir=tmp_path))
        epoch(measuring, 0)
        Silent.answers.clear()
        began = time.monotonic()
        measuring.stop()
        return time.monotonic() - began

    try:
        assert max(group.run(work)) < 7  # 5 s, and not for each file
        assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"energy", "energy.rank0", "energy.rank1"}
    finally:
        Silent.answers.set()


def test_files_stay_where_the_jobs_record_is_not_written(tmp_path: Path) -> None:
    group = Group(2)
    (tmp_path / "taken").write_text("", encoding="utf-8")
    folders = [tmp_path / "taken" / "run", tmp_path / "free"]

    def work(rank: int) -> None:
        measuring = meter(rank)
        with measuring.start(
            LoopDescription(gather=group.gather_of(rank), output_dir=folders[rank])
        ):  # the framework's need not be writable
            epoch(measuring, 0)

    assert group.run(work) == [None, None]
    assert load_record(tmp_path / "free" / "energy.rank1.json").run.status == "completed"


def test_a_wait_is_no_longer_than_the_run() -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        with meter(rank).start(LoopDescription(gather=group.gather_of(rank))) as measuring:
            epoch(measuring, 0)
            time.sleep(1.0 * rank)
        return measuring.record

    record, _ = group.run(work)
    for rank in record.ranks:
        assert rank.barrier_seconds < 0.5  # what passes after the end of a process's run counts nowhere


def test_the_smallest_message_of_a_long_job() -> None:
    sizes: list[int] = []
    group = Group(2)

    def work(rank: int) -> None:
        ask = group.gather_of(rank)

        def watched(fact: Any) -> Sequence[Any]:
            if rank == 0:
                sizes.append(len(fact))
            return ask(fact)

        measuring = meter(rank).start(LoopDescription(gather=watched))
        for index in range(30):
            measuring.close_epoch("train", index, measuring.point())
        measuring.stop()

    assert group.run(work) == [None, None]
    told = sizes[2:31]
    assert max(told) < 1.2 * min(told)
    assert max(told) < 6000


# ---------------------------------------------------------------------------------------------------- records alone


def part(
    rank: int, *, host: str = "a", hostname: str = "a", world: int = 2, uses: Sequence[str] = (), **changes: Any
) -> RunRecord:
    """Return a process's record of one device, as a file holds it."""
    facts: dict[str, Any] = {
        "schema_version": 1,
        "run": {"id": "r", "started_at": f"2026-01-0{9 - rank}T00:00:00+00:00", "status": "completed", "framework": "none"}
        | {"hostnames": [hostname], "world_size": world},
        "devices": [],
        "stages": {},
        "epochs": [],
        "total": {"joules": None, "kwh": None, "seconds": 1.0, "relative_uncertainty": None, "provenance": None}
        | {"co2e_grams": None, "cost": None, "currency": "USD"},
        "carbon": {
            "intensity_g_per_kwh": 100.0,
            "location": None,
            "source": "s",
            "data_year": None,
            "assumed": False,
            "pue": 1.0,
        },
        "part": {"rank": rank, "host": host, "hostname": hostname, "uses": list(uses)},
    }
    return msgspec.convert(facts | changes, RunRecord)


def measured(rank: int, joules: dict[str, float], samples: int | None, *, stage: str = "train", **place: Any) -> RunRecord:
    devices = [
        {"id": name, "name": name, "kind": "gpu", "backend": name.partition(":")[0], "method": "energy_counter"}
        | {"provenance": "measured", "relative_uncertainty": 0.1, "update_period_s": 0.1, "joules": value, "missing_s": 0.0}
        for name, value in joules.items()
    ]
    whole = sum(joules.values()) if joules else None
    stages = {
        stage: {
            "joules": whole,
            "seconds": 2.0,
            "batches": 1,
            "samples": samples,
            "joules_per_sample": None,
            "mean_watts": None,
        }
        | {"relative_uncertainty": None, "provenance": None, "devices": joules, "co2e_grams": whole, "cost": None}
        | {"phases": {"compute": {"joules": whole, "seconds": 2.0, "relative_uncertainty": 0.1 if joules else None}}}
    }
    epochs = [{"stage": stage, "index": 0, "joules": whole, "seconds": 2.0, "samples": samples, "co2e_grams": whole}]
    total = {"joules": whole, "kwh": None, "seconds": 2.0, "relative_uncertainty": None, "provenance": None}
    total |= {"co2e_grams": whole, "cost": None, "currency": "USD"}
    return part(rank, uses=list(joules), devices=devices, stages=stages, epochs=epochs, total=total, **place)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.dictionaries(st.sampled_from(["x:0", "x:1", "y:0"]), st.floats(0, 1e6), max_size=3),
            st.integers(0, 100) | st.none(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_merged_adds_up(processes: list[tuple[str, dict[str, float], int | None]]) -> None:
    records = []
    taken: set[tuple[str, str]] = set()
    for rank, (host, seen, samples) in enumerate(processes):
        own = {name: value for name, value in seen.items() if (host, name) not in taken}
        taken |= {(host, name) for name in own}
        records.append(measured(rank, own, samples, host=host, hostname=host, world=len(processes)))
    merged = merge_records(records[::-1])
    known = [record.total.joules for record in records if record.total.joules is not None]
    assert merged.total.joules == (pytest.approx(sum(known)) if known else None)
    assert merged.total.co2e_grams == merged.total.joules or merged.total.co2e_grams == pytest.approx(merged.total.joules)
    counts = [samples for _, _, samples in processes]
    assert merged.stages["train"].samples == (None if None in counts else sum(counts) or None)
    assert merged.epochs[0].samples == (None if None in counts else sum(counts))
    assert merged.epochs[0].joules == merged.total.joules or merged.epochs[0].joules == pytest.approx(merged.total.joules)
    assert len(merged.devices) == len(taken) == len({device.id for device in merged.devices})
    if known:
        assert sum(node.joules or 0.0 for node in merged.nodes) == pytest.approx(sum(known))
        assert sum(rank.joules or 0.0 for rank in merged.ranks) == pytest.approx(sum(known))
    assert merged.stages["train"].seconds == 2.0
    assert merged.run.missing_ranks == []
    assert merged.part is None


def test_hosts_at_several_places_are_all_named() -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        own = backend((replace(GPU, id=f"scripted:gpu-{rank}"), 100.0))
        measuring = EnergyMeter(backends=[own], location=("FRA", "POL")[rank], verbose=False)
        with measuring.start(LoopDescription(gather=group.gather_of(rank))):
            epoch(measuring, 0)
        return measuring.record

    record = group.run(work)[0]
    carbon = record.carbon
    assert carbon.location == "POL; FRA"
    goes_on = replace_struct(record, carbon=replace_struct(carbon, location="FRA"))
    assert add_records(record, goes_on).carbon.location == "POL; FRA"  # each once
    grams = [interval.intensity_g_per_kwh for interval in carbon.intervals]
    assert min(grams) < carbon.intensity_g_per_kwh < max(grams)


def test_what_those_used_who_waited_is_told_where_it_is_known() -> None:
    for own, used in ({"x:1": 5.0}, " and used 3.00 J meanwhile."), ({}, "."):
        slow, quick = measured(0, {"x:0": 5.0}, 1), measured(1, own, 1)
        assert quick.part is not None
        quick.part = replace_struct(quick.part, barrier_seconds=1.5, barrier_joules=3.0 if own else None)
        console = Console(width=200, file=StringIO())
        console.print(render(merge_records([slow, quick])))
        told = f"Rank 0 was the last to reach the ends of epochs: the others waited up to 1.5 s{used}\n"
        assert told in console.file.getvalue()


def test_the_whole_machines_of_a_job_add_up_whatever_meters_them() -> None:
    group = Group(2)

    def work(rank: int) -> dict[str, float]:
        ask = group.gather_of(rank)

        def gather(fact: bytes) -> Sequence[bytes]:
            told = [msgspec.json.decode(found) for found in ask(fact)]
            if isinstance(told[1 - rank], dict) and "host" in told[1 - rank]:
                told[1 - rank]["host"] = "another one"
            return [msgspec.json.encode(found) for found in told]

        kind = ("plug", "battery")[rank]
        whole = replace(CPU, id=f"{kind}:0", kind="board", backend=kind, whole_machine=True)
        measuring = EnergyMeter(backends=[backend((CPU, 50.0)), backend((whole, 200.0))], verbose=False)
        with measuring.start(LoopDescription(gather=gather)):
            time.sleep(0.3)
            epoch(measuring, 0)
            return epoch(measuring, 1)

    metrics = group.run(work)[0]
    assert metrics["energy/total/whole_machine_joules"] == pytest.approx(4 * metrics["energy/total/joules"], rel=0.1)


def test_a_rank_that_told_nothing_is_named() -> None:
    merged = merge_records([measured(0, {"x:0": 5.0}, 1, world=4), measured(2, {"x:2": 7.0}, 1, world=4)])
    assert merged.run.missing_ranks == [1, 3]
    assert (merged.run.status, merged.run.reason) == ("failed", "Ranks 1, 3 reported no data.")
    assert merged.total.joules == 12.0


def test_hosts_of_one_name_are_told_apart() -> None:
    merged = merge_records([measured(rank, {"x:0": 1.0}, 1, host=f"h{rank}", hostname="pod", world=3) for rank in range(3)])
    assert merged.run.hostnames == ["pod", "pod#2", "pod#3"]
    assert [device.id for device in merged.devices] == ["x:0@pod", "x:0@pod#2", "x:0@pod#3"]
    assert merged.total.relative_uncertainty == pytest.approx(0.1)  # devices of one sort err together, on all hosts


def test_an_epoch_that_one_did_not_end_is_not_the_jobs() -> None:
    first, second = measured(0, {"x:0": 1.0}, 1), measured(1, {"x:1": 1.0}, 1)
    second.epochs.clear()
    merged = merge_records([first, second])
    assert [(each.joules, each.samples) for each in merged.epochs] == [(None, None)]
    assert merged.total.joules == 2.0


def test_a_device_that_two_processes_measured_one_after_the_other_is_told_once() -> None:
    merged = merge_records([measured(0, {"x:0": 3.0, "x:1": 2.0}, 1), measured(1, {"x:1": 5.0}, 1)])
    assert {device.id: device.joules for device in merged.devices} == {"x:0": 3.0, "x:1": 7.0}
    assert len(merged.devices) == len(merged.nodes[0].devices) == 2
    assert merged.stages["train"].devices == {"x:0": 3.0, "x:1": 7.0}
    assert merged.total.joules == merged.nodes[0].joules == 10.0
    assert sum(rank.joules or 0.0 for rank in merged.ranks) == 10.0


def test_files_of_two_jobs_are_merged_as_often_as_one_likes(tmp_path: Path) -> None:
    for job in "ab":
        for rank in range(2):
            record = measured(rank, {f"x:{rank}": 2.0}, 1)
            record.run.id, record.run.started_at = job * 32, f"2026-01-01T0{'ab'.index(job)}:00:00+00:00"
            (tmp_path / f"energy.rank{rank}{'-aaaaaaaa' if job == 'a' else ''}.json").write_bytes(encode_record(record))
    for _ in range(2):
        merged = merge_jobs([str(tmp_path)], print)
        assert [str(place) for place, _ in merged] == [str(tmp_path / "energy-aaaaaaaa.json"), str(tmp_path / "energy.json")]
        assert {path.name for path in tmp_path.glob("energy*.json") if "rank" not in path.name} == {
            "energy.json",
            "energy-aaaaaaaa.json",
        }
        assert [load_record(place).run.id for place, _ in merged] == ["a" * 32, "b" * 32]


def test_files_of_a_part_do_not_replace_the_record_of_the_whole(tmp_path: Path) -> None:
    left = [measured(rank, {f"x:{rank}": 2.0}, 1) for rank in range(2)]
    for record in left:
        record.run.status = "failed"
        (tmp_path / f"energy.rank{record.part.rank if record.part else 0}-rrrrrrrr.json").write_bytes(encode_record(record))
    whole = measured(0, {"x:0": 3.0}, 1)
    assert whole.part is not None
    whole.run.id, whole.part.earlier = "later", merge_records(left)
    (tmp_path / "energy.json").write_bytes(encode_record(merge_records([whole, measured(1, {"x:1": 3.0}, 1)])))
    with pytest.raises(RecordError, match="belongs to the same run, which was resumed and ended"):
        merge_jobs([str(tmp_path)], print)
    assert load_record(tmp_path).total.joules == 10.0


@pytest.mark.parametrize("known", [True, False])
def test_a_part_whose_samples_all_passed_in_compiling_adds_no_compiling_to_a_sample(*, known: bool) -> None:
    compiled, later = measured(0, {"x:0": 30.0}, 8), measured(1, {"x:1": 6.0}, 8)
    stage = compiled.stages["train"]
    stage.compile_samples = 8
    stage.phases = {
        "compile": PhaseRecord(joules=20.0 if known else None, seconds=1.0, relative_uncertainty=0.1),
        "data_wait": PhaseRecord(joules=10.0 if known else None, seconds=1.0, relative_uncertainty=0.1),
    }
    waited = 10.0 if known else 15.0  # half of the time was compiling
    for whole in (merge_records([compiled, later]), add_records(merge_records([compiled]), merge_records([later]))):
        assert whole.stages["train"].joules == 36.0
        assert whole.stages["train"].joules_per_sample == pytest.approx((waited + 6.0) / 8)


def test_records_of_no_job_are_refused() -> None:
    with pytest.raises(ValueError, match="no record of a job's processes"):
        merge_records([])
    alone = measured(0, {"x:0": 1.0}, 1)
    alone.part = None
    with pytest.raises(ValueError, match="is not that of one process of a job"):
        merge_records([alone])


def test_a_resumed_job_has_what_all_ranks_used_after_the_checkpoint(tmp_path: Path) -> None:
    """The ranks' files are used, as the record of rank 0 does not have what the others did after the last exchange."""
    group = Group(2)
    saved: list[RunRecord] = []

    def work(rank: int) -> RunRecord:
        measuring = meter(rank, tmp_path / "first").start(LoopDescription(gather=group.gather_of(rank)))
        epoch(measuring, 0)
        if rank == 0:
            saved.append(measuring.record)
        with measuring.stage("train"), measuring.batch(samples=7):
            time.sleep(0.1)
        measuring.stop("failed", "power cut")
        return measuring.record

    records = group.run(work)
    (checkpoint,) = saved
    assert records[0].stages["train"].samples == 2 * 20 + 7
    latest = latest_record(checkpoint, tmp_path / "second")
    assert (latest.run.id, latest.stages["train"].samples) == (checkpoint.run.id, 2 * 20 + 2 * 7)


def test_a_name_that_is_not_utf_8_does_not_part_a_job(tmp_path: Path) -> None:
    group = Group(2)

    def work(rank: int) -> RunRecord:
        tags = {"team": "caf\udce9"} if rank else {}
        with meter(rank, tmp_path / "caf\udce9", tags=tags).start(LoopDescription(gather=group.gather_of(rank))) as measuring:
            epoch(measuring, 0)
        return measuring.record

    record, _ = group.run(work)
    assert (record.run.status, record.warnings) == ("completed", [])
    assert record.stages["train"].samples == 40
