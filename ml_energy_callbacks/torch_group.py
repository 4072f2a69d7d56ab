"""The processes of torch's default process group."""

from typing import Any

import torch.distributed as dist


def all_gather(fact: Any) -> list[Any]:  # noqa: ANN401 - anything that can be pickled
    """Return what each process of torch's default process group gives, by rank: a collective."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, fact)
    return gathered


def joined() -> bool:
    """Return whether this process is one of several of a torch process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
