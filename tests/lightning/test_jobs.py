"""Jobs of several real processes, each with a simulated driver: the record is the truth, whatever happens to one."""

import csv
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import job_world
import lightning_job
import msgspec
import pytest
import torch
from job_world import CPU_WATTS, GPU_WATTS, PROCESSOR, end, gpu, joules

from ml_energy_callbacks import RunRecord, load_record
from ml_energy_callbacks.exceptions import RecordError
from ml_energy_callbacks.testing.nvml import SimulatedDriver

SCRIPT = Path(lightning_job.__file__)
EPOCHS, BATCHES = 3, 20
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static int (*real)(clockid_t, struct timespec *);
int clock_gettime(clockid_t id, struct timespec *t) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += 420;
    return failed;
}
"""


@pytest.fixture(scope="session")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process that sees four GPUs."""
    return SimulatedDriver(tmp_path_factory.mktemp("driver")).environment(len(GPU_WATTS))


def start(gpus: dict[str, str], folder: Path, *args: str, before: Sequence[str] = (), **extra: str) -> "subprocess.Popen[str]":
    return job_world.start(SCRIPT, gpus, folder, *args, before=before, **extra)


def merge(*folders: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from ml_energy_callbacks.cli import main; main()", "merge", *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def seconds(record: RunRecord, rank: int) -> float:
    return record.ranks[rank].seconds


def check_shares(record: RunRecord) -> None:
    assert record.total.joules == pytest.approx(sum(joules(record).values()))
    assert sum(rank.joules or 0.0 for rank in record.ranks) == pytest.approx(record.total.joules)
    assert sum(node.joules or 0.0 for node in record.nodes) == pytest.approx(record.total.joules)
    assert sum(stage.joules or 0.0 for stage in record.stages.values()) == pytest.approx(record.total.joules)


@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 4), ("ddp_spawn", 2), ("ddp_fork", 2)])
def test_a_jobs_total_is_the_truth(gpus: dict[str, str], tmp_path: Path, strategy: str, ranks: int) -> None:
    end(start(gpus, tmp_path, "--strategy", strategy, "--ranks", str(ranks), "--pause", "0.1"))
    record = load_record(tmp_path)
    assert (record.run.status, record.run.world_size, record.run.missing_ranks) == ("completed", ranks, [])
    truth = {gpu(rank): GPU_WATTS[rank] * seconds(record, rank) for rank in range(ranks)}
    truth[PROCESSOR] = CPU_WATTS * seconds(record, 0)
    assert joules(record) == pytest.approx(truth, rel=3e-3)
    assert record.total.joules == pytest.approx(sum(truth.values()), rel=1e-3)
    check_shares(record)
    assert [node.ranks for node in record.nodes] == [list(range(ranks))]
    assert record.total.seconds == pytest.approx(max(rank.seconds for rank in record.ranks))
    assert record.stages["train"].samples == ranks * EPOCHS * BATCHES * 4
    assert record.stages["train"].batches == ranks * EPOCHS * BATCHES
    # What was logged is of the whole job, and the same in each process.
    logged = [json.loads((tmp_path / f"logged-{rank}.json").read_text("utf-8")) for rank in range(ranks)]
    assert all(told == pytest.approx(logged[0], rel=1e-5) for told in logged)
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["energy/train/joules"]]
    epochs = [epoch for epoch in record.epochs if epoch.stage == "train"]
    assert [float(row["energy/train/joules"]) for row in rows] == pytest.approx([epoch.joules for epoch in epochs], rel=1e-5)
    assert [epoch.samples for epoch in epochs] == [ranks * BATCHES * 4] * EPOCHS
    assert logged[0]["energy/total/joules"] < record.total.joules
    assert not list(tmp_path.glob("energy.rank*"))  # all is in the job's record


def test_processes_on_one_gpu_share_its_energy(gpus: dict[str, str], tmp_path: Path) -> None:
    end(start(gpus, tmp_path, "--ranks", "2", "--gpus", "2", "--pause", "0.05"))
    record = load_record(tmp_path)
    assert joules(record).keys() == {gpu(2), PROCESSOR}
    assert joules(record)[gpu(2)] == pytest.approx(GPU_WATTS[2] * seconds(record, 0), rel=3e-3)
    check_shares(record)
    assert record.ranks[0].joules == pytest.approx(record.ranks[1].joules)
    assert record.ranks[0].devices == record.ranks[1].devices


def test_samples_that_processes_share_are_not_counted_by_each(gpus: dict[str, str], tmp_path: Path) -> None:
    end(start(gpus, tmp_path, "--ranks", "2", "--strategy", "tensor_parallel", "--pause", "0.02"))
    record = load_record(tmp_path)
    assert record.stages["train"].samples is None
    assert record.stages["train"].joules_per_sample is None
    assert "Several processes share a sample, so that energy per sample is unknown." in record.warnings


def test_a_late_and_a_slow_process_are_seen(gpus: dict[str, str], tmp_path: Path) -> None:
    end(start(gpus, tmp_path, "--ranks", "2", "--late", "1", "--slow", "1", "--pause", "0.05"))
    record = load_record(tmp_path)
    truth = GPU_WATTS[0] * seconds(record, 0) + GPU_WATTS[1] * seconds(record, 1) + CPU_WATTS * seconds(record, 0)
    assert record.total.joules == pytest.approx(truth, rel=2e-3)
    fast, slow = record.ranks
    assert slow.data_wait_seconds > fast.data_wait_seconds + 3
    assert fast.compute_seconds > slow.compute_seconds + 3  # it waits there for the other's gradients


def test_two_hosts_are_measured_by_one_process_each(gpus: dict[str, str], tmp_path: Path) -> None:
    """Two namespaces with an identity and a name of their own; one has no counter of its processor, and its clock is ahead."""
    source = tmp_path / "clock.c"
    source.write_text(CLOCK, encoding="utf-8")
    ahead = tmp_path / "ahead.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(ahead), str(source), "-ldl"], check=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    processes = []
    for node, host in enumerate(["left", "right"]):
        identity = tmp_path / host
        identity.write_text(f"{node:08}-1111-2222-3333-444444444444\n", encoding="utf-8")
        boot = "/proc/sys/kernel/random/boot_id"
        script = f'mount --bind {shlex.quote(str(identity))} {boot} && hostname {host} && exec "$@"'
        clock = {"LD_PRELOAD": str(ahead)} if node else {}
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(node), "GLOO_SOCKET_IFNAME": "lo", **clock}
        args = ("--nodes", "2", "--ranks", "2", "--pause", "0.05", "--no-processor-on", "1")
        processes.append(start(gpus, tmp_path, *args, before=["unshare", "-m", "-u", "sh", "-c", script, "sh"], **job))
    for process in processes:
        end(process)
    record = load_record(tmp_path)
    assert (record.run.status, record.run.world_size, record.run.hostnames) == ("completed", 4, ["left", "right"])
    assert [(node.hostname, node.ranks) for node in record.nodes] == [("left", [0, 1]), ("right", [2, 3])]
    truth = {gpu(rank % 2, "@right" if rank > 1 else "@left"): GPU_WATTS[rank % 2] * seconds(record, rank) for rank in range(4)}
    truth[f"{PROCESSOR}@left"] = CPU_WATTS * seconds(record, 0)
    found_joules = joules(record)
    assert {name: found_joules.pop(name) for name in truth} == pytest.approx(truth, rel=3e-3)
    assert found_joules.keys() == {"cpu-model:0@right"}
    check_shares(record)
    assert record.total.seconds < 120  # by no clock of the day


def test_a_process_that_knows_more_than_the_others_logs_the_same(gpus: dict[str, str], tmp_path: Path) -> None:
    end(start(gpus, tmp_path, "--ranks", "2", "--unread", "1", "--pause", "0.05"))
    logged = [json.loads((tmp_path / f"logged-{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert logged[0]["energy/train/joules"] > 0
    assert logged[0] == pytest.approx(logged[1])
    assert load_record(tmp_path).run.status == "completed"


def test_a_checkpoint_amid_an_epoch_knows_what_all_processes_took(gpus: dict[str, str], tmp_path: Path) -> None:
    end(start(gpus, tmp_path, "--ranks", "2", "--save-at", "15", "--pause", "0.1"))
    checkpoint = torch.load(tmp_path / "step=15.ckpt", weights_only=False)
    record = msgspec.convert(checkpoint["callbacks"]["EnergyCallback"]["record"], RunRecord)
    assert record.stages["train"].samples == 2 * 15 * 4
    assert seconds(record, 1) == pytest.approx(seconds(record, 0), rel=0.1)
    check_shares(record)


def test_a_killed_process_leaves_its_part(gpus: dict[str, str], tmp_path: Path) -> None:
    end(start(gpus, tmp_path, "--ranks", "2", "--dies", "1", "--pause", "0.05"), code=None)
    assert {path.name for path in tmp_path.glob("energy.*")} == {"energy.json", "energy.rank0.json", "energy.rank1.json"}
    left = load_record(tmp_path)
    # Rank 0 fails as it hears no more of the other, unless Lightning, which looks after its processes, kills it before.
    assert left.run.status in {"failed", "running"}
    assert any("ml-energy merge" in warning for warning in left.warnings) == (left.run.status == "failed")
    merged = merge(tmp_path)
    assert merged.returncode == 0, merged.stderr
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
    assert refused.returncode == 2
    assert "knows what rank 1 had told, whose own file is not here" in " ".join(refused.stderr.split())
    (tmp_path / "energy.json").unlink()
    without = merge(tmp_path)
    assert without.returncode == 0, without.stderr
    assert load_record(tmp_path).run.missing_ranks == [1]
    assert "told nothing, and their energy is missing: rank 1." in " ".join(without.stdout.split())
    (tmp_path / "energy.rank0.json").unlink()
    nothing = merge(tmp_path)
    assert nothing.returncode == 2
    assert "name an energy.rank<rank>.json or a directory above some" in " ".join(nothing.stderr.split())


def test_a_prediction_ends_as_without_us_where_another_process_was_killed(gpus: dict[str, str], tmp_path: Path) -> None:
    survivor, killed = job_world.start_ranks(SCRIPT, gpus, tmp_path, "--predict", "--dies", "1")
    end(killed, code=-9)
    end(survivor)
    record = load_record(tmp_path)
    assert (record.run.status, record.run.reason) == ("failed", "Rank 1 told nothing.")


def test_two_jobs_of_one_directory_keep_their_records_apart(gpus: dict[str, str], tmp_path: Path) -> None:
    jobs: list[Any] = [start(gpus, tmp_path, "--ranks", "2", "--pause", "0.05", "--silent") for _ in range(2)]
    for job in jobs:
        end(job)
    records = [load_record(path) for path in tmp_path.glob("energy*.json")]
    assert len({record.run.id for record in records}) == 2
    for record in records:
        assert record.run.status == "completed"
        assert [rank.status for rank in record.ranks] == ["completed"] * 2
        assert record.stages["train"].samples == 2 * EPOCHS * BATCHES * 4


def test_a_record_of_a_job_cannot_be_merged_again(gpus: dict[str, str], tmp_path: Path) -> None:
    end(start(gpus, tmp_path, "--ranks", "2", "--pause", "0.001"))
    found = merge(tmp_path / "energy.json")
    assert found.returncode == 2
    assert "is not what one process of a job left" in " ".join(found.stderr.split())
    with pytest.raises(RecordError):
        load_record(tmp_path / "energy.rank0.json")
