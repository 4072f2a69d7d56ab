"""Slow-down of a training whose layers are timed in one step of 100.

Half of the steps are timed; each of them is compared with the one before it, and the median of the differences is divided by
100 steps. Run it in an environment with torch: `python benchmarks/layers.py`.
"""

import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ml_energy_callbacks.inference import LayerTimer

STEPS = 300
WARM_UP = 50
EVERY = 100


def perceptron() -> tuple[nn.Module, torch.Tensor]:
    """Return a small network whose steps are short, and a batch."""
    layers = [part for _ in range(8) for part in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(256, 10)), torch.randn(64, 256)


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    """Return a network of convolutions, with operations in place, and a batch."""
    blocks = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)) for _ in range(8)]
    return nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, nn.Flatten(), nn.LazyLinear(10)), torch.randn(16, 3, 16, 16)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    """Return a Transformer, and a batch."""
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(8, 32, 128)


def slowdown(module: nn.Module, batch: torch.Tensor, depth: int) -> tuple[int, float, float]:
    """Return the number of layers, the median time of a step in ms, and that a timed step takes longer in ms."""
    module(batch)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    timer = LayerTimer(module, depth=depth, every_n_steps=2)
    seconds = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        with timer.step():
            (module(batch) ** 2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds.append(1000 * (time.perf_counter() - begun))
    plain, timed = seconds[WARM_UP::2], seconds[WARM_UP + 1 :: 2]
    longer = statistics.median(b - a for a, b in zip(plain, timed, strict=True))
    return len(timer.profile().layers), statistics.median(plain), longer


def main() -> None:
    """Print the slow-down for each network."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    table = Table(title=f"Training with one step of {EVERY} timed, torch {torch.__version__}, one thread")
    for heading in ("network", "depth", "layers", "step, ms", "a timed one longer by, ms", "slow-down"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for make in (perceptron, convolutions, transformer):
        for depth in (1, 2, 3) if make is transformer else (1, 2):
            layers, step, longer = slowdown(*make(), depth)
            share = longer / (EVERY * step)
            table.add_row(make.__name__, str(depth), str(layers), f"{step:.2f}", f"{longer:.2f}", f"{share:.3%}")
    Console().print(table)


if __name__ == "__main__":
    main()
