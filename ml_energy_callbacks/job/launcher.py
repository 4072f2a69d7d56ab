"""The launcher of this process and its rank in the job, from what the launchers report."""

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

ENCLOSING_RUN: Final = "ML_ENERGY_RUN"
"""Environment variable with the id of the run that ``ml-energy run`` measures, and that includes all that its command uses."""

_REMOTE: Final = frozenset({"abfs", "gcs", "hdfs", "s3"})
"""Names of file systems that are the same in pyarrow and in fsspec's URLs."""

_FIRST_RESERVED_STEP: Final = 0xFFFFFFF0
"""SLURM steps that are not started by ``srun``, such as the shell of ``salloc``, have ids from this value on."""

_SHELLS: Final = frozenset({"bash", "fish", "sh", "zsh"})


class Launch(NamedTuple):
    """The rank of this process in a job that a launcher has started.

    Attributes:
        launcher: ``ray`` (Ray Train), ``torchrun``, ``torch.distributed`` (others that set ``RANK`` and ``WORLD_SIZE``),
            ``mpi`` (``mpirun``, ``mpiexec``) or ``slurm`` (``srun``).
        rank: Number of this process, from 0.
        world_size: Number of processes.
        job_id: Identifier of the job in the scheduler, in torchrun or in Ray Train (the run's name); None if unknown.
        directory: Directory or URL where the launcher stores the run's results; None if it stores none.
    """

    launcher: Launcher
    rank: int
    world_size: int
    job_id: str | None = None
    directory: str | None = None


def launched(environment: Mapping[str, str] = os.environ, modules: Mapping[str, ModuleType] = sys.modules) -> Launch | None:
    """Return the rank of this process in its job; None without a launcher.

    The innermost launcher is used: ``torchrun`` and ``mpirun`` are often started by ``srun``. A shell inside an allocation of
    many tasks, and the script of a batch job, are single processes.

    Args:
        environment: The process's environment.
        modules: The imported modules: a worker of Ray Train has imported ``ray.train``.
    """
    found = (
        _ray_launch(modules.get("ray.train"))
        or _torch_launch(environment)
        or _mpi_launch(environment)
        or _slurm_launch(environment)
    )
    if found is None or found.job_id is not None:
        return found
    return found._replace(job_id=scheduled_job(environment))


def scheduled_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the id of the SLURM, PBS or LSF job that this process is part of, even as its only process; else None."""
    return next((environment[name] for name in _JOB_IDS if environment.get(name)), None)


def enclosing_run(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the id of the run of ``ml-energy run`` that this process is part of; else None."""
    return environment.get(ENCLOSING_RUN) or None


def _ray_launch(train: ModuleType | None) -> Launch | None:
    if train is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # outside of a worker, Ray's older API warns and the newer one raises
            context = train.get_context()
            storage = context.get_storage()
            rank, size = context.get_world_rank(), context.get_world_size()
    except (RuntimeError, DeprecationWarning, NotImplementedError):  # the driver, a trial of Ray Tune, a run in one process
        return None
    if storage is None:
        return None
    return Launch("ray", rank, size, context.get_experiment_name(), _directory(storage))


def _directory(storage: Any) -> str | None:  # noqa: ANN401 - Ray's StorageContext
    """Return where Ray stores the run, as a path or a URL; None for a file system without URLs."""
    path: str = getattr(storage, "trial_fs_path", None) or storage.experiment_fs_path  # the former only in Ray's older API
    system = storage.storage_filesystem
    if system.type_name == "local":
        return path
    if system.type_name in _REMOTE:
        return f"{system.type_name}://{path}"
    wrapped = getattr(getattr(system, "handler", None), "fs", None)  # pyarrow's handler of fsspec's file systems
    return None if wrapped is None else str(wrapped.unstrip_protocol(path))


def _torch_launch(environment: Mapping[str, str]) -> Launch | None:
    run = environment.get("TORCHELASTIC_RUN_ID")
    place = _read_place(environment, "RANK", "WORLD_SIZE")
    if place is None:
        return None
    if run is None:
        return Launch("torch.distributed", *place)
    return Launch("torchrun", *place, scheduled_job(environment) or (None if run == "none" else run))


def _mpi_launch(environment: Mapping[str, str]) -> Launch | None:
    # srun can also set PMI_*, with the same values as its own variables; mpiexec of MPICH and Intel also sets MPI_LOCALRANKID.
    names = (*_MPI, _HYDRA) if "MPI_LOCALRANKID" in environment else _MPI
    places = (_read_place(environment, rank, size) for rank, size in names)
    return next((Launch("mpi", *place) for place in places if place is not None), None)


def _slurm_launch(environment: Mapping[str, str]) -> Launch | None:
    # SLURM_NTASKS is also set in a batch script: it is what the job requested, not what runs.
    place = _read_place(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    step = _read_number(environment, "SLURM_STEP_ID")
    shell = "SLURM_PTY_PORT" in environment and environment.get("SLURM_JOB_NAME") in _SHELLS  # srun --pty bash
    if place is None or step is None or step >= _FIRST_RESERVED_STEP or shell:
        return None
    return Launch("slurm", *place)


def _read_place(environment: Mapping[str, str], rank: str, size: str) -> tuple[int, int] | None:
    number, count = _read_number(environment, rank), _read_number(environment, size)
    return None if number is None or count is None or number >= count else (number, count)


def _read_number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None
