"""One process of a job with a plain loop, for the tests to start: by torch's process group, or by Accelerate."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from job_world import Place

from ml_energy_callbacks import EnergyMeter, LoopDescription
from ml_energy_callbacks.frameworks.torch import all_gather

EPOCHS, BATCHES = 3, 10


def samples(rank: int) -> int:
    """Return the number of samples in a batch of this process."""
    return 4 + rank


def train(meter: EnergyMeter, step: Any, rank: int, dies: int | None) -> dict[str, float]:
    """Train, and return the metrics at the end of the last epoch."""
    metrics: dict[str, float] = {}
    since = meter.point()
    for epoch in range(EPOCHS):
        with meter.stage("train"):
            for batch in range(BATCHES):
                with meter.batch(samples(rank)):
                    step(torch.ones(samples(rank), 3))
                    time.sleep(0.1)
                if (rank, epoch, batch) == (dies, 1, 2):
                    time.sleep(1.5)  # its file is written each second
                    os.kill(os.getpid(), 9)
        metrics, since = meter.close_epoch("train", epoch, since)
    return metrics


def main() -> None:
    """Train, and write the metrics into the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accelerate", action="store_true")
    parser.add_argument("--dies", type=int)
    options = parser.parse_args()
    model = torch.nn.Linear(3, 1)
    step: Any = model
    if options.accelerate:
        accelerator = Accelerator(cpu=True)
        rank, gather = accelerator.process_index, lambda fact: gather_object([fact])
        parallel = accelerator.prepare(model)

        def step(batch: torch.Tensor) -> None:
            accelerator.backward(parallel(batch).sum())
    else:
        gather = all_gather
        dist.init_process_group("gloo")
        rank = dist.get_rank()
    place = Place(steady=options.dies is not None)
    meter = EnergyMeter(output_dir=options.folder, backends=place.backends([rank]), location="FRA")
    with meter.start(LoopDescription(gather=gather)):
        place.work()
        metrics = train(meter, step, rank, options.dies)
        place.rest(options.folder, rank)
    (options.folder / f"told-{rank}.json").write_text(json.dumps(metrics), encoding="utf-8")
    if dist.is_initialized():
        if options.dies is None:
            dist.barrier()  # leave together: gloo may wait for ever for one that has gone
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
