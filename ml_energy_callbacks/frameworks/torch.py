"""What torch knows of its GPUs and of the processes of a job."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ml_energy_callbacks.exceptions import ConfigurationError


def gpu_uuids(numbers: Iterable[int | None]) -> Sequence[str] | None:
    """Return the UUIDs of GPUs by CUDA's numbers in this process, None for the current one; None where torch tells none."""
    try:
        return [str(torch.cuda.get_device_properties(number).uuid) for number in numbers]
    except (AttributeError, RuntimeError, AssertionError):  # before torch 2.5 there was no uuid
        return None


def no_gpus() -> Sequence[str] | None:
    """Return that a process which works on the processor uses no GPU; None where torch could use none, and tells nothing."""
    return [] if torch.cuda.is_available() else None


def cuda_event_recorder() -> Callable[[], torch.cuda.Event | None]:
    """Return a function that puts an event into the queue of the current GPU, on its current stream.

    While a CUDA graph is captured it does nothing and returns None: what is recorded then is part of the graph.
    """

    def record() -> torch.cuda.Event | None:
        if torch.cuda.is_current_stream_capturing():
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    return record


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
