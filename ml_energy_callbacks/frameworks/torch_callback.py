"""Base class of the callbacks of trainers that use torch: the GPUs of a process, and the processes of a job."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from ml_energy_callbacks.frameworks.callback import MeteredCallback
from ml_energy_callbacks.frameworks.torch import accelerator_of, all_gather, cuda_event_recorder, joined, used_gpus
from ml_energy_callbacks.meter.loop import LoopDescription, WatchedLoop
from ml_energy_callbacks.meter.meter import EnergyMeter

if TYPE_CHECKING:
    from ml_energy_callbacks.frameworks.torch_flops import StepFlops


class TorchCallback(MeteredCallback):
    """A callback of a trainer that uses torch, in one process or in several."""

    def _reset(self) -> None:
        super()._reset()
        self._flops = _step_flops(self._meter) if self._options.count_flops else None

    def _start_meter(
        self,
        *,
        framework: str,
        model: str,
        world_size: int,
        rank: int,
        device: torch.device,
        gpu_numbers: Callable[[], Iterable[int | None]],
        output_dir: str | os.PathLike[str] | None,
        watched: WatchedLoop | None = None,
    ) -> bool:
        """Start to measure a loop of the trainer; all processes of a job have to call this.

        Args:
            framework: Name and version of the trainer's package.
            model: Name of the model.
            world_size: Number of processes of the job.
            rank: This process's number among them.
            device: Device that this process computes on.
            gpu_numbers: Returns CUDA's numbers of the GPUs of this process; called only if ``device`` is a GPU of CUDA's.
            output_dir: Directory for the record if the option of that name was not given.
            watched: The loop, if it may end without calling a hook.

        Returns:
            Whether this process measures: without a process group of torch's, only rank 0 does.
        """
        several = world_size > 1
        self._gather = all_gather if several and joined() else None
        alone = several and self._gather is None
        if alone and rank != 0:
            return False
        if self._flops is not None:
            self._flops.begin_run()
        self._meter.start(
            LoopDescription(
                framework=framework,
                model=model,
                world_size=world_size,
                output_dir=output_dir,
                watched=watched,
                gpus=used_gpus(device, gpu_numbers),
                accelerator=accelerator_of(device),
                record_event=cuda_event_recorder() if device.type == "cuda" else None,
                gather=self._gather,
                repeats=True,
            )
        )
        if alone:
            self._meter.warn(
                f"The {world_size} processes of this job have no torch process group to exchange their figures: the record "
                "contains only the energy of rank 0's devices and host."
            )
        return True


def _step_flops(meter: EnergyMeter) -> "StepFlops":
    from ml_energy_callbacks.frameworks.torch_flops import StepFlops  # noqa: PLC0415 - few need torch's formulas

    return StepFlops(meter)
