"""Torchrun: torchrun --nproc-per-node 2 torchrun_loop.py."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ml_energy_callbacks import EnergyMeter, LoopDescription
from ml_energy_callbacks.frameworks.torch import all_gather


def main() -> None:
    """Train in each process, and print the energy of the job."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    meter = EnergyMeter(output_dir="energy_logs/torchrun", location="FRA")
    with meter.start(LoopDescription(framework="torch", gather=all_gather)), meter.stage("train"):
        for _ in range(50):
            with meter.batch(samples=32):
                optimizer.zero_grad()
                model(torch.randn(32, 64)).square().mean().backward()
                optimizer.step()
    if dist.get_rank() == 0:
        record = meter.record
        print(f"{record.total.joules:.3g} J, {record.stages['train'].samples} samples, {len(record.ranks)} processes")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
