"""What a meter has to know of the loop that it measures."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from ml_energy_callbacks.job.job import Gather
from ml_energy_callbacks.meter.gpu_edges import Event
from ml_energy_callbacks.readings import Kind
from ml_energy_callbacks.record.schema import Status


class WatchedLoop(Protocol):
    """A loop that may end without a call of any hook, such as by an exception; asked in a thread of the sampler."""

    def running(self) -> bool:
        """Return whether it still runs."""

    def ending(self) -> tuple[Status, str | None]:
        """Return the status and the reason of the run once the loop has gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopDescription:
    """A loop, as :meth:`~ml_energy_callbacks.EnergyMeter.start` takes it.

    Attributes:
        framework: Name and version of the framework whose loop this is.
        model: Name of the model, or None; a run's record has that of its first start.
        world_size: Number of processes of the job, where they are not asked by ``gather``.
        output_dir: Directory for the run file where the meter's option of that name was not given.
        watched: The loop, where it may end without a call of :meth:`~ml_energy_callbacks.EnergyMeter.stop`: the meter then
            stops itself.
        gpus: The GPUs that the loop runs on, which ``devices="auto"`` uses: their UUIDs, or ``"cuda:<n>"`` by CUDA's numbers
            in this process; empty where it runs on no GPU; None for all that the process can use.
        accelerator: Kind of device that the loop computes on beside the processor, ``"gpu"`` or ``"tpu"``; None for
            the processor alone, or where that is unknown. Where no such device can be read, a warning says so, and the total is
            a lower bound.
        record_event: Puts an event into the queue of the GPU that works for the loop, in the loop's own thread, and returns
            it, or None where that cannot be done just now. Batches then begin and end when the GPU reaches their events,
            without a stall; None where batches are timed on the host.
        gather: Given an object, returns those that all processes of the job give, by rank, such as
            :func:`ml_energy_callbacks.frameworks.torch.all_gather`: a collective. None in a job of one process.
        repeats: Whether more loops of the same meter are likely to follow: the devices then stay open between them, for as long
            as somebody has the meter.
    """

    framework: str = "none"
    model: str | None = None
    world_size: int = 1
    output_dir: str | os.PathLike[str] | None = None
    watched: WatchedLoop | None = None
    gpus: Collection[str] | None = None
    accelerator: Kind | None = None
    record_event: Callable[[], Event | None] | None = None
    gather: Gather | None = None
    repeats: bool = False
