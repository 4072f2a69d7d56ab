"""Which process of which job this is, from what torchrun, SLURM and MPI put into its environment."""

import pytest

from ml_energy_callbacks import EnergyMeter, LoopDescription
from ml_energy_callbacks.job.launcher import Launch, launched, scheduled_job
from ml_energy_callbacks.testing import ScriptedBackend

# What they set, cut to what tells a process's place. srun's step of four tasks, the second of them:
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
}
# The script of `sbatch --ntasks=4`, before any srun:
BATCH = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
# The shell of `salloc --ntasks=4` where that is on a compute node:
SALLOC = {**SRUN, "SLURM_JOB_NAME": "interactive", "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_PTY_PORT": "1"}
# `srun --ntasks=4 --pty bash`:
PTY = {**SRUN, "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0", "SLURM_PTY_PORT": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SRUN, Launch("slurm", 1, 4, "4711")),
        (TORCHRUN, Launch("torchrun", 5, 8)),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "night"}, Launch("torchrun", 5, 8, "night")),
        ({"RANK": "0", "WORLD_SIZE": "2"}, Launch("torch.distributed", 0, 2)),
        (OPEN_MPI, Launch("mpi", 2, 3)),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2", "PBS_JOBID": "12.host"}, Launch("mpi", 0, 2, "12.host")),
        (HYDRA, Launch("mpi", 2, 3)),
        ({**HYDRA, "LSB_JOBID": "99"}, Launch("mpi", 2, 3, "99")),
    ],
)
def test_each_launcher_is_recognised(environment: dict[str, str], expected: Launch) -> None:
    assert launched(environment, {}) == expected


@pytest.mark.parametrize("step", [SRUN, BATCH, SALLOC, PTY])
def test_torchrun_and_mpirun_go_before_the_slurm_that_they_are_started_in(step: dict[str, str]) -> None:
    assert launched({**step, **TORCHRUN}, {}) == Launch("torchrun", 5, 8, "4711")
    assert launched({**step, **TORCHRUN, "TORCHELASTIC_RUN_ID": "night"}, {}) == Launch("torchrun", 5, 8, "4711")
    assert launched({**step, **OPEN_MPI}, {}) == Launch("mpi", 2, 3, "4711")
    assert launched({**step, **HYDRA}, {}) == Launch("mpi", 2, 3, "4711")


def test_pmi_of_srun_itself_is_slurm() -> None:
    assert launched({**SRUN, "PMI_RANK": "1", "PMI_SIZE": "4"}, {}) == Launch("slurm", 1, 4, "4711")


@pytest.mark.parametrize("shell", [BATCH, SALLOC, PTY, {**SALLOC, "PMI_RANK": "0", "PMI_SIZE": "4"}])
def test_one_process_in_an_allocation_of_many_tasks_is_no_job_of_many(shell: dict[str, str]) -> None:
    assert launched(shell, {}) is None
    assert scheduled_job(shell) == "4711"


def test_outside_of_a_job_there_is_no_name_of_one() -> None:
    assert scheduled_job({}) is None
    assert scheduled_job({"SLURM_JOB_ID": ""}) is None


def test_srun_in_the_shell_of_an_allocation_is_a_job_of_many() -> None:
    assert launched({**SALLOC, "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}, {}) == Launch("slurm", 3, 4, "4711")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0"},
        {"WORLD_SIZE": "2", "LOCAL_RANK": "1"},  # as Lightning leaves it to its own processes
        {"RANK": "first", "WORLD_SIZE": "2"},
        {"RANK": "", "WORLD_SIZE": ""},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
    ],
)
def test_what_tells_no_place_is_no_launch(environment: dict[str, str]) -> None:
    assert launched(environment, {}) is None


def test_a_broken_variable_does_not_hide_another_launcher() -> None:
    assert launched({**SRUN, "RANK": "x", "WORLD_SIZE": "2"}, {}) == Launch("slurm", 1, 4, "4711")


def test_the_record_tells_the_launcher_and_the_job_and_that_its_processes_do_not_know_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**TORCHRUN, "SLURM_JOB_ID": "4711"}.items():
        monkeypatch.setenv(name, value)
    meter = EnergyMeter(backends=[ScriptedBackend([])], verbose=False)
    with meter:
        pass
    assert (meter.record.run.launcher, meter.record.run.job_id) == ("torchrun", "4711")
    assert any(warning.startswith("This is process 5 of 8, and each measures") for warning in meter.record.warnings)
    told = EnergyMeter(backends=[ScriptedBackend([])], verbose=False).start(LoopDescription(world_size=8))
    told.stop()
    assert not [warning for warning in told.record.warnings if "gather" in warning]


def test_one_process_of_a_batch_job_tells_the_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    with EnergyMeter(backends=[ScriptedBackend([])], verbose=False) as meter:
        pass
    assert (meter.record.run.launcher, meter.record.run.job_id) == (None, "4711")
    assert not [warning for warning in meter.record.warnings if "gather" in warning]
