"""Torch: UUIDs of GPUs, CUDA events, and the processes of a job."""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.readings import Kind


def used_gpus(device: torch.device, numbers: Callable[[], Iterable[int | None]]) -> Sequence[str] | None:
    """Return the UUIDs of the GPUs that a process uses; None if they are unknown.

    Args:
        device: Device that the process computes on.
        numbers: Returns CUDA's numbers of its GPUs; called only if the device is a GPU of CUDA's.

    Returns:
        An empty list if the process computes on the processor although torch could use a GPU; None if torch has no GPU to use,
        as it may be a build without CUDA.
    """
    if device.type == "cuda":
        return gpu_uuids(numbers())
    return [] if device.type == "cpu" and torch.cuda.is_available() else None


def accelerator_of(device: torch.device) -> Kind | None:
    """Return the kind of accelerator that a device is; None for the processor, and where the kind is unknown.

    A GPU that is a part of the processor's chip is none: the processor's figure may include its energy.
    """
    if device.type == "cuda":
        with contextlib.suppress(AttributeError, RuntimeError, AssertionError):  # of older releases, or without the driver
            return None if torch.cuda.get_device_properties(device).is_integrated else "gpu"
        return "gpu"
    if device.type == "xla":  # it may also be the processor
        return "tpu" if os.environ.get("PJRT_DEVICE") == "TPU" else None
    return "gpu" if device.type == "mps" else None


def gpu_uuids(numbers: Iterable[int | None]) -> Sequence[str] | None:
    """Return the UUIDs of GPUs by CUDA's numbers in this process (None: the current GPU); None if torch has none."""
    try:
        return [str(torch.cuda.get_device_properties(number).uuid) for number in numbers]
    except (AttributeError, RuntimeError, AssertionError):  # before torch 2.5 there was no uuid
        return None


def cuda_event_recorder() -> Callable[[], torch.cuda.Event | None]:
    """Return a function that records an event on the current stream of the current GPU.

    While a CUDA graph is captured, the function does nothing and returns None: the event would become part of the graph.
    """

    def record() -> torch.cuda.Event | None:
        if torch.cuda.is_current_stream_capturing():
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    return record


def all_gather(fact: Any) -> list[Any]:  # noqa: ANN401 - anything that can be pickled
    """Return the objects of all processes of torch's default process group, by rank; in a single process, its own.

    It is a collective: all processes of the group have to call it.

    Args:
        fact: This process's object, which can be pickled.

    Raises:
        ConfigurationError: A launcher started several processes, and there is no process group yet.
    """
    if joined():
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, fact)
        return gathered
    if os.environ.get("WORLD_SIZE", "1") != "1" and not (dist.is_available() and dist.is_initialized()):
        msg = (
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but there is no torch process group: call "
            "torch.distributed.init_process_group() before the meter starts, and destroy the group after it has stopped."
        )
        raise ConfigurationError(msg)
    return [fact]


def joined() -> bool:
    """Return whether this process is one of several of a torch process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
