"""How well the energy of waiting for data is known, by kind of simulated world and on measured power.

For comparison, the same worlds are solved by least squares with constant power in each phase, the method of version 0.1, which
is told the exact instants of the counter's refreshes. Without it, the rows are those of the table of docs/attribution.md.

Usage: python benchmarks/attribution.py [--seeds 20] [--constant-power] [--only-constant-power]
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from worlds import KINDS, MORE_KINDS, WAIT, World, measure, trace

TRACES = Path(__file__).parents[2] / "shared" / "data" / "gpu-traces"
"""Measured power of GPUs under a square load, if it is at hand."""

NVML_LATENCY_S = 0.002
"""What is assumed of a GPU's counter; the simulated ones are not late."""


@dataclass(frozen=True)
class Outcome:
    """Energy of waiting in one world.

    Attributes:
        told: Whether a value is stated, and not only a range.
        holds: Whether the true value is within the interval.
        width: Half-width of the interval as a share of the value.
        error: Relative error.
    """

    told: bool
    holds: bool
    width: float
    error: float


def ours(world: World, seed: int, latency_s: float = 0.0) -> Outcome:
    """Return what the package tells."""
    run = measure(world, seed, behind_s=latency_s)
    told = run.reported()
    return Outcome(told, run.holds(), run.width() if told else inf, run.error())


def constant_power(world: World, seed: int) -> Outcome:
    """Return what least squares tell if power is constant in each phase, with twice the standard error."""
    rng = np.random.default_rng(seed)
    refreshes = np.arange(rng.random() * world.refresh_s, world.edges[-1], world.refresh_s)
    refreshes = np.sort(refreshes + world.jitter * world.refresh_s * rng.uniform(-0.5, 0.5, len(refreshes)))
    joules = np.diff(world.power.joules(refreshes) // world.resolution * world.resolution)
    lengths, kinds = np.diff(world.edges), range(int(world.phases.max()) + 1)
    passed = [np.append(0.0, np.cumsum(np.where(world.phases == phase, lengths, 0.0))) for phase in kinds]
    seconds = np.column_stack([np.diff(np.interp(refreshes, world.edges, each)) for each in passed])
    inverse = np.linalg.pinv(seconds.T @ seconds)
    watts = inverse @ seconds.T @ joules
    variance = float(((joules - seconds @ watts) ** 2).sum()) / max(1, len(joules) - len(watts))
    waited, true = float(passed[WAIT][-1]), world.joules[WAIT]
    value, half = watts[WAIT] * waited, 2 * (variance * inverse[WAIT, WAIT]) ** 0.5 * waited
    told = 0 < half <= 0.5 * value
    return Outcome(told, abs(value - true) <= half, half / value if told else inf, value / true - 1)


def cells(runs: Sequence[Outcome]) -> list[str]:
    """Return the cells of a method."""
    told = [run for run in runs if run.told]
    figures = ["", ""]
    if told:
        figures = [f"{100 * median(each):.1f}" for each in ([run.width for run in told], [abs(run.error) for run in told])]
    return [f"{len(told)} of {len(runs)}", str(sum(run.holds for run in told)), *figures]


def worlds(seeds: int) -> dict[str, list[tuple[World, int, float]]]:
    """Return the worlds by their kind, each with a seed and the latency that is assumed."""
    found: dict[str, list[tuple[World, int, float]]] = {}
    kinds: dict[str, Callable[[int], World]] = {**KINDS, **MORE_KINDS}
    for kind, build in kinds.items():
        found[kind] = [(build(seed), seed, 0.0) for seed in range(seeds)]
    for path in sorted(TRACES.glob("*-square.npz")):
        rng = random.Random(0)  # noqa: S311 - no secret
        found[f"measured: {path.stem}"] = [
            (trace(path, rng.uniform(0.02, 0.13), rng.uniform(0, 0.004)), seed, NVML_LATENCY_S) for seed in range(seeds)
        ]
    return found


def main() -> None:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="worlds of each kind")
    parser.add_argument("--constant-power", action="store_true", help="compare with least squares with constant power")
    parser.add_argument("--only-constant-power", action="store_true", help="only least squares with constant power")
    options = parser.parse_args()
    compared = options.constant_power or options.only_constant_power
    head = ["told", "of these, held", "median interval, ± %", "median error, %"]
    titles = [] if options.only_constant_power else [*head, "in the range"]
    titles += [f"constant power: {title}" for title in head] if compared else []
    print("| kind of world |", " | ".join(titles), "|")
    print("|---|" + "---|" * len(titles))
    sums = {"ours": [0, 0], "constant power": [0, 0]}
    for kind, each in worlds(options.seeds).items():
        row = [kind]
        if not options.only_constant_power:
            runs = [ours(*world) for world in each]
            row += [*cells(runs), f"{sum(run.holds for run in runs)} of {len(runs)}"]
            count(sums["ours"], runs)
        if compared:
            runs = [constant_power(world, seed) for world, seed, _ in each]
            row += cells(runs)
            count(sums["constant power"], runs)
        print("|", " | ".join(row), "|", flush=True)
    for method, (told, held) in sums.items():
        if told:
            print(f"{method}: {held} of {told} stated intervals held")


def count(sums: list[int], runs: Sequence[Outcome]) -> None:
    """Add the intervals that were told, and those of them that held."""
    sums[0] += sum(run.told for run in runs)
    sums[1] += sum(run.told and run.holds for run in runs)


if __name__ == "__main__":
    main()
