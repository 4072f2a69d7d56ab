"""Accelerate: python accelerate_loop.py, or accelerate launch --num-processes 2 accelerate_loop.py."""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from digits import digits, network
from torch.utils.data import DataLoader

from ml_energy_callbacks import EnergyMeter, LoopDescription


def main() -> None:
    """Train, and print the energy of the job."""
    accelerator = Accelerator(cpu=True)
    model = network()
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.Adam(model.parameters()), DataLoader(digits()[0], 64, shuffle=True)
    )

    gather = (lambda fact: gather_object([fact])) if accelerator.num_processes > 1 else None
    meter = EnergyMeter(output_dir="energy_logs/accelerate", location="FRA")
    with meter.start(LoopDescription(framework="accelerate", gather=gather)), meter.stage("train"):
        for images, labels in loader:
            with meter.batch(samples=len(images)):
                optimizer.zero_grad()
                accelerator.backward(torch.nn.functional.cross_entropy(model(images), labels))
                optimizer.step()
    if accelerator.is_main_process:
        print(f"{meter.record.total.joules:.3g} J in {meter.record.run.world_size} processes")


if __name__ == "__main__":
    main()
