"""Lightning Fabric: the meter around your own loop; several processes are one job."""

import torch
from digits import digits, network
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from ml_energy_callbacks import EnergyMeter, LoopDescription
from ml_energy_callbacks.frameworks.torch import all_gather


def main() -> None:
    """Train, and print the energy of a sample."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model = network()
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters()))
    loader = fabric.setup_dataloaders(DataLoader(digits()[0], 64, shuffle=True))

    gather = all_gather if fabric.world_size > 1 else None
    meter = EnergyMeter(output_dir="energy_logs/fabric", location="FRA")
    with meter.start(LoopDescription(framework="fabric", gather=gather)):
        for epoch in range(2):
            since = meter.point()
            with meter.stage("train"):
                for images, labels in loader:
                    with meter.batch(samples=len(images)):
                        optimizer.zero_grad()
                        fabric.backward(torch.nn.functional.cross_entropy(model(images), labels))
                        optimizer.step()
            metrics, _ = meter.close_epoch("train", epoch, since)
            fabric.log_dict(metrics, step=epoch)  # to Fabric's loggers, if there are any
    fabric.print(f"{meter.record.stages['train'].joules_per_sample:.3g} J/sample")


if __name__ == "__main__":
    main()
