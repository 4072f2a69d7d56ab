"""Who started this process beside others of its job, and which of them it is, from what the launchers tell."""

import os
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final, NamedTuple

from ml_energy_callbacks.record.schema import Launcher

_MPI: Final = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"))
_HYDRA: Final = ("PMI_RANK", "PMI_SIZE")
_JOB_IDS: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")

_REMOTE: Final = frozenset({"abfs", "gcs", "hdfs", "s3"})
"""What pyarrow calls its file systems, and fsspec their URLs."""

_FIRST_RESERVED_STEP: Final = 0xFFFFFFF0
"""SLURM's steps that are not started by ``srun``, such as the shell of ``salloc``, have ids from here on."""

_SHELLS: Final = frozenset({"bash", "fish", "sh", "zsh"})


class Launch(NamedTuple):
    """This process's place in a job of processes that one launcher has started.

    Attributes:
        launcher: ``ray`` (Ray Train), ``torchrun``, ``torch.distributed`` (whatever else sets ``RANK`` and ``WORLD_SIZE``),
            ``mpi`` (``mpirun``, ``mpiexec``) or ``slurm`` (``srun``).
        rank: Number of this process, from 0.
        world_size: Number of processes.
        job_id: What the scheduler, torchrun or Ray Train (by the run's name) calls the job; None where it is not told.
        directory: Directory or URL in which the launcher keeps the run's results; None where it keeps none.
    """

    launcher: Launcher
    rank: int
    world_size: int
    job_id: str | None = None
    directory: str | None = None


def launched(environment: Mapping[str, str] = os.environ, modules: Mapping[str, ModuleType] = sys.modules) -> Launch | None:
    """Return this process's place in its job; None where no launcher tells it.

    The launcher nearest to the process counts: ``torchrun`` and ``mpirun`` are often started by ``srun``. A shell inside an
    allocation of many tasks, and the script of a batch job, are one process each.

    Args:
        environment: The process's environment.
        modules: What is imported: only who has imported ``ray.train`` can be its worker.
    """
    found = _ray(modules.get("ray.train")) or _torch(environment) or _mpi(environment) or _slurm(environment)
    if found is None or found.job_id is not None:
        return found
    return found._replace(job_id=scheduled_job(environment))


def scheduled_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what SLURM, PBS or LSF calls the job that this process is part of, be it the only one; None outside of a job."""
    return next((environment[name] for name in _JOB_IDS if environment.get(name)), None)


def _ray(train: ModuleType | None) -> Launch | None:
    if train is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's older API warns outside of a worker, where the newer one raises
            context = train.get_context()
            storage = context.get_storage()
            rank, size = context.get_world_rank(), context.get_world_size()
    except (RuntimeError, DeprecationWarning, NotImplementedError):  # the driver, a trial of Ray Tune, a run in one process
        return None
    if storage is None:
        return None
    return Launch("ray", rank, size, context.get_experiment_name(), _directory(storage))


def _directory(storage: Any) -> str | None:  # noqa: ANN401 - Ray's StorageContext
    """Return where Ray keeps the run, as a path or a URL; None where it is on a file system that no URL names."""
    path: str = getattr(storage, "trial_fs_path", None) or storage.experiment_fs_path  # the former in Ray's older API alone
    system = storage.storage_filesystem
    if system.type_name == "local":
        return path
    if system.type_name in _REMOTE:
        return f"{system.type_name}://{path}"
    wrapped = getattr(getattr(system, "handler", None), "fs", None)  # pyarrow's handler of fsspec's file systems
    return None if wrapped is None else str(wrapped.unstrip_protocol(path))


def _torch(environment: Mapping[str, str]) -> Launch | None:
    run = environment.get("TORCHELASTIC_RUN_ID")
    place = _place(environment, "RANK", "WORLD_SIZE")
    if place is None:
        return None
    if run is None:
        return Launch("torch.distributed", *place)
    return Launch("torchrun", *place, scheduled_job(environment) or (None if run == "none" else run))


def _mpi(environment: Mapping[str, str]) -> Launch | None:
    # srun can set PMI_* as well, and then says the same as its own variables; MPICH's and Intel's mpiexec set this one beside.
    names = (*_MPI, _HYDRA) if "MPI_LOCALRANKID" in environment else _MPI
    places = (_place(environment, rank, size) for rank, size in names)
    return next((Launch("mpi", *place) for place in places if place is not None), None)


def _slurm(environment: Mapping[str, str]) -> Launch | None:
    # SLURM_NTASKS is there in a batch script, too: it is what the job asked for, and not what runs.
    place = _place(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    step = _number(environment, "SLURM_STEP_ID")
    shell = "SLURM_PTY_PORT" in environment and environment.get("SLURM_JOB_NAME") in _SHELLS  # srun --pty bash
    if place is None or step is None or step >= _FIRST_RESERVED_STEP or shell:
        return None
    return Launch("slurm", *place)


def _place(environment: Mapping[str, str], rank: str, size: str) -> tuple[int, int] | None:
    number, count = _number(environment, rank), _number(environment, size)
    return None if number is None or count is None or number >= count else (number, count)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None
