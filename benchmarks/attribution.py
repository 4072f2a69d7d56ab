"""How well the energy of waiting for data is known, by kind of simulated world and on measured power.

``ours`` are the rows of docs/attribution.md. ``constant-power`` solves the same worlds by least squares with constant power in
each phase, the method of version 0.1, and gives it the exact instants of the counter's refreshes.

Usage: python benchmarks/attribution.py [--seeds 20] [--method constant-power] [--traces FOLDER]
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from traces import read_trace
from worlds import KINDS, MORE_KINDS, WAIT, World, measure, on_trace

NVML_LATENCY_S = 0.002
"""What is assumed of a GPU's counter; the simulated ones are not late."""

WINDOWS_S = (0.025, 0.1, 1.0)
"""Windows of readings of measured power."""


@dataclass(frozen=True)
class Outcome:
    """Energy of waiting in one world.

    Attributes:
        stated: Whether a value is stated, and not only a range.
        holds: Whether the true value is within the interval.
        width: Half-width of the interval as a share of the value.
        error: Relative error.
    """

    stated: bool
    holds: bool
    width: float
    error: float


Method = Callable[[World, int, float], Outcome | None]
"""Returns the outcome in a world, from a seed and the latency of the device that is assumed; None if it cannot."""


def ours(world: World, seed: int, latency_s: float) -> Outcome:
    """Return what the package reports."""
    run = measure(world, seed, behind_s=latency_s)
    stated = run.reported()
    return Outcome(stated, run.holds(), run.width() if stated else inf, run.error())


def constant_power(world: World, seed: int, _: float) -> Outcome | None:
    """Return the result of least squares with constant power in each phase, with twice the standard error; needs a counter."""
    if not world.counts:
        return None
    rng = np.random.default_rng(seed)
    value = half = 0.0
    for device in world.devices:
        joules, error = _least_squares(device, rng)
        value, half = value + joules, half + error
    true = world.joules[WAIT]
    stated = 0 < half <= 0.5 * value
    return Outcome(stated, abs(value - true) <= half, half / value if stated else inf, value / true - 1)


def _least_squares(world: World, rng: np.random.Generator) -> tuple[float, float]:
    """Return the energy of waiting in J, and twice its standard error."""
    refreshes = np.arange(rng.random() * world.refresh_s, world.edges[-1], world.refresh_s)
    refreshes = np.sort(refreshes + world.jitter * world.refresh_s * rng.uniform(-0.5, 0.5, len(refreshes)))
    joules = np.diff(world.power.joules(refreshes) // world.resolution * world.resolution)
    lengths, kinds = np.diff(world.edges), range(int(world.phases.max()) + 1)
    passed = [np.append(0.0, np.cumsum(np.where(world.phases == phase, lengths, 0.0))) for phase in kinds]
    seconds = np.column_stack([np.diff(np.interp(refreshes, world.edges, each)) for each in passed])
    inverse = np.linalg.pinv(seconds.T @ seconds)
    watts = inverse @ seconds.T @ joules
    variance = float(((joules - seconds @ watts) ** 2).sum()) / max(1, len(joules) - len(watts))
    waited = float(passed[WAIT][-1])
    return watts[WAIT] * waited, 2 * (variance * inverse[WAIT, WAIT]) ** 0.5 * waited


METHODS: dict[str, Method] = {"ours": ours, "constant-power": constant_power}


def percent(values: Sequence[float]) -> str:
    """Return the median of shares, in percent."""
    return f"{100 * median(values):.1f}" if values else ""


def cells(runs: Sequence[Outcome]) -> list[str]:
    """Return the figures of a kind of worlds."""
    stated = [run for run in runs if run.stated]
    return [
        f"{len(stated)} of {len(runs)}",
        str(sum(run.holds for run in stated)),
        percent([run.width for run in stated]),
        percent([abs(run.error) for run in stated]),
        f"{sum(run.holds for run in runs)} of {len(runs)}",
    ]


def simulated(seeds: int) -> Iterator[tuple[str, list[tuple[World, int, float]]]]:
    """Return the simulated worlds by their kind, each with a seed and the latency that is assumed."""
    for kind, build in {**KINDS, **MORE_KINDS}.items():
        yield kind, [(build(seed), seed, 0.0) for seed in range(seeds)]


def measured(folder: Path, seeds: int) -> Iterator[tuple[str, list[tuple[World, int, float]]]]:
    """Return the worlds of measured power, by a counter and by readings of several windows."""
    for path in sorted(folder.glob("*.npz")):
        trace, rng = read_trace(path), random.Random(0)  # noqa: S311 - no secret
        each = [on_trace(trace, rng.uniform(0.02, 0.13), rng.uniform(0, 0.004)) for _ in range(seeds)]
        yield f"measured, {path.stem}: counter", [(world, seed, NVML_LATENCY_S) for seed, world in enumerate(each)]
        for window_s in WINDOWS_S:
            shown = [replace(world, window_s=window_s, counts=False) for world in each]
            name = f"measured, {path.stem}: readings of {window_s:g} s"
            yield name, [(world, seed, NVML_LATENCY_S) for seed, world in enumerate(shown)]


def print_sums(title: str, runs: Sequence[Outcome]) -> None:
    """Print a sentence on many worlds; the median interval is that of all stated values."""
    stated = [run for run in runs if run.stated]
    held, ranges = sum(run.holds for run in stated), sum(run.holds for run in runs)
    shares = f"{len(stated)} of {len(runs)} stated ({len(stated) / len(runs):.0%})".replace("%)", " %)")
    print(
        f"{title}: {shares}, of which {held} hold, in the median ±{percent([run.width for run in stated])} %; "
        f"{ranges} of {len(runs)} ranges hold."
    )


def main() -> None:
    """Print a row for each kind, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="worlds of each kind")
    parser.add_argument("--method", choices=METHODS, default="ours", help="what divides the energy")
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="folder of measured traces (.npz), which are added")
    options = parser.parse_args()
    method = METHODS[options.method]
    print("| kind of world | stated | of these, hold | median interval, ± % | median error, % | in the range |")
    print("|---|---|---|---|---|---|")

    def show(kind: str, worlds: Sequence[tuple[World, int, float]]) -> list[Outcome]:
        runs = [outcome for world in worlds if (outcome := method(*world)) is not None]
        if runs:
            print("|", " | ".join([kind, *cells(runs)]), "|", flush=True)
        return runs

    by_kind = {kind: show(kind, worlds) for kind, worlds in simulated(options.seeds)}
    folders = [] if options.traces is None else [options.traces]
    on_traces = [run for folder in folders for each in measured(folder, options.seeds) for run in show(*each)]
    print()
    print_sums(f"The first {len(KINDS)} kinds", [run for kind in KINDS for run in by_kind[kind]])
    print_sums(f"All {sum(map(bool, by_kind.values()))} kinds", [run for runs in by_kind.values() for run in runs])
    if on_traces:
        print_sums("Measured power", on_traces)


if __name__ == "__main__":
    main()
