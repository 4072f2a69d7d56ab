"""Torch's GPUs by the names that their driver knows them by."""

from collections.abc import Iterable, Sequence

import torch


def gpu_uuids(numbers: Iterable[int | None]) -> Sequence[str] | None:
    """Return the UUIDs of GPUs by CUDA's numbers in this process, None for the current one; None where torch tells none."""
    try:
        return [str(torch.cuda.get_device_properties(number).uuid) for number in numbers]
    except (AttributeError, RuntimeError, AssertionError):  # before torch 2.5 there was no uuid
        return None


def no_gpus() -> Sequence[str] | None:
    """Return that a process which works on the processor uses no GPU; None where torch could use none, and tells nothing."""
    return [] if torch.cuda.is_available() else None
