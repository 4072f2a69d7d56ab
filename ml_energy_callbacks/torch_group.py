"""The processes of torch's default process group."""

import os
from typing import Any

import torch.distributed as dist

from ml_energy_callbacks.exceptions import ConfigurationError


def all_gather(fact: Any) -> list[Any]:  # noqa: ANN401 - anything that can be pickled
    """Return what each process of torch's default process group gives, by rank: a collective; in one process, what it gives.

    Raises:
        ConfigurationError: A launcher started several processes, which have not joined a group yet.
    """
    if joined():
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, fact)
        return gathered
    if os.environ.get("WORLD_SIZE", "1") != "1" and not (dist.is_available() and dist.is_initialized()):
        msg = (
            f"This is one of {os.environ['WORLD_SIZE']} processes by WORLD_SIZE, which are in no torch process group: call "
            "torch.distributed.init_process_group() before the meter starts, and destroy the group after it stopped."
        )
        raise ConfigurationError(msg)
    return [fact]


def joined() -> bool:
    """Return whether this process is one of several of a torch process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
