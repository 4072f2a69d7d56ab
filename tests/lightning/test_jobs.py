"""Jobs of several real processes, each with a simulated driver: the record is the truth, whatever happens to one."""

import contextlib
import csv
import io
import json
import sys
from pathlib import Path
from typing import NamedTuple

import job_world
import lightning_job
import msgspec
import pytest
import torch
from forked import Forked, Warm
from job_world import GPU_WATTS, PROCESSOR, drawn, end, gpu, joules, start_ranks, wait

from ml_energy_callbacks import RunRecord, cli, load_record
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.testing.nvml import SimulatedDriver

SCRIPT = Path(lightning_job.__file__)
EPOCHS, BATCHES = 3, 20

pytestmark = pytest.mark.xdist_group("jobs")


class Jobs:
    """Starts jobs on simulated GPUs."""

    def __init__(self, program: Warm, driver: SimulatedDriver) -> None:
        self.program, self.driver = program, driver

    def start(self, folder: Path, *args: object, ranks: int = 2, nodes: int = 1) -> list[Forked]:
        """Start each process of a job."""
        args = (*args, "--ranks", ranks, "--nodes", nodes)
        return start_ranks(self.program, SCRIPT, self.driver, folder, *args, ranks=ranks, nodes=nodes)

    def run(self, folder: Path, *args: object, ranks: int = 2, nodes: int = 1) -> RunRecord:
        """Run a job, and return its record."""
        for process in self.start(folder, *args, ranks=ranks, nodes=nodes):
            wait(process)
        return load_record(folder)

    def launch(self, folder: Path, *args: object, code: int | None = 0) -> None:
        """Run one process, whose Lightning starts the others."""
        environment = self.driver.environment(len(GPU_WATTS))
        options = {"folder": folder, "libraries": [self.driver.library], "environment": environment}
        wait(self.program.start(SCRIPT, folder, *args, **options), code)


@pytest.fixture(scope="module")
def jobs(program: Warm, driver_library: SimulatedDriver) -> Jobs:
    return Jobs(program, driver_library)


class Merge(NamedTuple):
    """The end of ``ml-energy merge``."""

    code: int
    stdout: str
    stderr: str


def merge(*folders: Path) -> Merge:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ml-energy", "merge", *map(str, folders)])
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Merge(code, out.getvalue(), errors.getvalue())


def seconds(record: RunRecord, rank: int) -> float:
    return record.ranks[rank].seconds


def check_shares(record: RunRecord) -> None:
    assert record.total.joules == pytest.approx(sum(joules(record).values()))
    assert sum(rank.joules or 0.0 for rank in record.ranks) == pytest.approx(record.total.joules)
    assert sum(node.joules or 0.0 for node in record.nodes) == pytest.approx(record.total.joules)
    assert sum(stage.joules or 0.0 for stage in record.stages.values()) == pytest.approx(record.total.joules)


def check_job(folder: Path, ranks: int) -> None:
    record = load_record(folder)
    assert (record.run.status, record.run.world_size, record.run.missing_ranks) == ("completed", ranks, [])
    truth = drawn(folder, range(ranks))
    assert truth.keys() == {*map(gpu, range(ranks)), PROCESSOR}
    assert joules(record) == pytest.approx(truth, rel=3e-3)
    assert record.total.joules == pytest.approx(sum(truth.values()), rel=1e-3)
    check_shares(record)
    assert [node.ranks for node in record.nodes] == [list(range(ranks))]
    assert record.total.seconds == pytest.approx(max(rank.seconds for rank in record.ranks))
    assert record.stages["train"].samples == ranks * EPOCHS * BATCHES * 4
    assert record.stages["train"].batches == ranks * EPOCHS * BATCHES
    # What was logged is of the whole job, and the same in each process.
    logged = [json.loads((folder / f"logged-{rank}.json").read_text("utf-8")) for rank in range(ranks)]
    assert all(told == pytest.approx(logged[0], rel=1e-5) for told in logged)
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["energy/train/joules"]]
    epochs = [epoch for epoch in record.epochs if epoch.stage == "train"]
    assert [float(row["energy/train/joules"]) for row in rows] == pytest.approx([epoch.joules for epoch in epochs], rel=1e-5)
    assert [epoch.samples for epoch in epochs] == [ranks * BATCHES * 4] * EPOCHS
    assert logged[0]["energy/total/joules"] < record.total.joules
    assert not list(folder.glob("energy.rank*"))  # all is in the job's record


@pytest.fixture(scope="module")
def four(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job of four processes that has left a checkpoint amid an epoch."""
    folder = tmp_path_factory.mktemp("four")
    jobs.run(folder, "--save-at", 15, "--pause", 0.1, ranks=4)
    return folder


def test_a_jobs_total_is_the_truth(four: Path) -> None:
    check_job(four, 4)


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "ddp_fork"])
def test_the_total_is_the_truth_however_lightning_starts_the_processes(jobs: Jobs, tmp_path: Path, strategy: str) -> None:
    jobs.launch(tmp_path, "--strategy", strategy, "--ranks", 2, "--pause", 0.1)
    check_job(tmp_path, 2)


@pytest.mark.full
def test_the_total_of_four_processes_in_an_environment_of_all_frameworks(
    driver_library: SimulatedDriver, tmp_path: Path
) -> None:
    environment = driver_library.environment(len(GPU_WATTS))
    end(job_world.start(SCRIPT, environment, tmp_path, "--ranks", 4, "--pause", 0.1))
    check_job(tmp_path, 4)


def test_a_checkpoint_amid_an_epoch_knows_what_all_processes_took(four: Path) -> None:
    checkpoint = torch.load(four / "step=15.ckpt", weights_only=False)
    record = msgspec.convert(checkpoint["callbacks"]["EnergyCallback"]["record"], RunRecord)
    assert record.stages["train"].samples == 4 * 15 * 4
    # On a busy machine they do not begin all at once.
    assert [rank.seconds for rank in record.ranks] == pytest.approx([seconds(record, 0)] * 4, rel=0.3)
    check_shares(record)


def test_a_record_of_a_job_cannot_be_merged_again(four: Path) -> None:
    found = merge(four / "energy.json")
    assert found.code == 2
    assert "is not the file of one process of a job" in " ".join(found.stderr.split())
    with pytest.raises(RecordError):
        load_record(four / "energy.rank0.json")


def test_processes_on_one_gpu_share_its_energy(jobs: Jobs, tmp_path: Path) -> None:
    record = jobs.run(tmp_path, "--gpus", 2, "--pause", 0.05)
    assert joules(record).keys() == {gpu(2), PROCESSOR}
    assert joules(record)[gpu(2)] == pytest.approx(drawn(tmp_path)[gpu(2)], rel=3e-3)
    check_shares(record)
    assert record.ranks[0].joules == pytest.approx(record.ranks[1].joules)
    assert record.ranks[0].devices == record.ranks[1].devices


def test_samples_that_processes_share_are_not_counted_by_each(jobs: Jobs, tmp_path: Path) -> None:
    record = jobs.run(tmp_path, "--strategy", "tensor_parallel", "--pause", 0.02)
    assert record.stages["train"].samples is None
    assert record.stages["train"].joules_per_sample is None
    assert "J/sample is unknown, as several processes work on the same samples." in record.warnings


def test_a_late_and_a_slow_process_are_seen(jobs: Jobs, tmp_path: Path) -> None:
    record = jobs.run(tmp_path, "--late", 1, "--slow", 1, "--pause", 0.05)
    assert record.total.joules == pytest.approx(sum(drawn(tmp_path).values()), rel=2e-3)
    fast, slow = record.ranks
    assert slow.data_wait_seconds > fast.data_wait_seconds + 3
    assert fast.compute_seconds > slow.compute_seconds + 3  # it waits there for the other's gradients


def test_two_hosts_are_measured_by_one_process_each(jobs: Jobs, tmp_path: Path) -> None:
    """Two namespaces with an identity and a name of their own; one has no counter of its processor, and its clock is ahead."""
    for node, host in enumerate(["left", "right"]):
        (tmp_path / host).write_text(f"{node:08}-1111-2222-3333-444444444444\n", encoding="utf-8")
    args = ("--hosts", "left", "right", "--ahead", 420, "--pause", 0.05, "--no-processor-on", 1)
    record = jobs.run(tmp_path, *args, nodes=2)
    assert (record.run.status, record.run.world_size, record.run.hostnames) == ("completed", 4, ["left", "right"])
    assert [(node.hostname, node.ranks) for node in record.nodes] == [("left", [0, 1]), ("right", [2, 3])]
    left, right = drawn(tmp_path, [0, 1]), drawn(tmp_path, [2, 3])
    right.pop(PROCESSOR)
    truth = {f"{device}@left": value for device, value in left.items()}
    truth |= {f"{device}@right": value for device, value in right.items()}
    assert truth.keys() == {*(gpu(number, f"@{host}") for number in (0, 1) for host in ("left", "right")), f"{PROCESSOR}@left"}
    found_joules = joules(record)
    assert {name: found_joules.pop(name) for name in truth} == pytest.approx(truth, rel=3e-3)
    assert found_joules.keys() == {"cpu-model:0@right"}
    check_shares(record)
    assert record.total.seconds < 120  # by no clock of the day


def test_a_process_that_knows_more_than_the_others_logs_the_same(jobs: Jobs, tmp_path: Path) -> None:
    record = jobs.run(tmp_path, "--unread", 1, "--pause", 0.05)
    logged = [json.loads((tmp_path / f"logged-{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert logged[0]["energy/train/joules"] > 0
    assert logged[0] == pytest.approx(logged[1])
    assert record.run.status == "completed"


@pytest.mark.parametrize("launches", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_killed_process_leaves_its_part(jobs: Jobs, tmp_path: Path, *, launches: bool) -> None:
    if launches:
        jobs.launch(tmp_path, "--ranks", 2, "--dies", 1, "--pause", 0.05, code=None)
    else:
        survivor, killed = jobs.start(tmp_path, "--dies", 1, "--pause", 0.05)
        wait(killed, -9)
        wait(survivor, None)
    assert {path.name for path in tmp_path.glob("energy.*")} == {"energy.json", "energy.rank0.json", "energy.rank1.json"}
    left = load_record(tmp_path)
    # Rank 0 fails as it hears no more of the other, unless Lightning, which looks after its processes, kills it before.
    assert left.run.status in ({"failed", "running"} if launches else {"failed"})
    assert any("ml-energy merge" in warning for warning in left.warnings) == (left.run.status == "failed")
    merged = merge(tmp_path)
    assert merged.code == 0, merged.stderr
    record = load_record(tmp_path)
    assert [rank.status for rank in record.ranks] == [left.run.status, "running"]
    assert record.run.status == left.run.status
    assert not any("ml-energy merge" in warning for warning in record.warnings)
    parts = [load_record(tmp_path / f"energy.rank{rank}.json") for rank in range(2)]
    assert record.total.joules == pytest.approx(sum(part.total.joules or 0.0 for part in parts))
    assert joules(record)[gpu(1)] == pytest.approx(GPU_WATTS[1] * parts[1].total.seconds, rel=5e-3)
    assert joules(record)[gpu(1)] >= joules(left)[gpu(1)]
    assert len([epoch for epoch in record.epochs if epoch.stage == "train"]) == 1
    # What one process told is not forgotten for want of its file.
    (tmp_path / "energy.rank1.json").unlink()
    refused = merge(tmp_path)
    assert refused.code == 2
    assert "contains data of rank 1, whose file is missing here" in " ".join(refused.stderr.split())
    (tmp_path / "energy.json").unlink()
    without = merge(tmp_path)
    assert without.code == 0, without.stderr
    assert load_record(tmp_path).run.missing_ranks == [1]
    assert "Rank 1 of 2 reported no data" in " ".join(without.stdout.split())
    (tmp_path / "energy.rank0.json").unlink()
    nothing = merge(tmp_path)
    assert nothing.code == 2
    assert "give an energy.rank<rank>.json or a directory that contains some" in " ".join(nothing.stderr.split())


def test_a_prediction_ends_as_without_us_where_another_process_was_killed(jobs: Jobs, tmp_path: Path) -> None:
    survivor, killed = jobs.start(tmp_path, "--predict", "--dies", 1)
    wait(killed, -9)
    wait(survivor)
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == ("failed", "Rank 1 reported no data.")


def test_two_jobs_of_one_directory_keep_their_records_apart(jobs: Jobs, tmp_path: Path) -> None:
    for process in [process for _ in range(2) for process in jobs.start(tmp_path, "--pause", 0.05, "--silent")]:
        wait(process)
    records = [load_record(path) for path in tmp_path.glob("energy*.json")]
    assert len({record.run.id for record in records}) == 2
    for record in records:
        assert record.run.status == "completed"
        assert [rank.status for rank in record.ranks] == ["completed"] * 2
        assert record.stages["train"].samples == 2 * EPOCHS * BATCHES * 4
