"""How well the energy of waiting for data is known, by kind of simulated world; prints the table of docs/attribution.md.

Usage: python benchmarks/attribution.py [--seeds 20]
"""

import argparse
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from worlds import KINDS, MORE_KINDS, measure


def main() -> None:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="worlds of each kind")
    seeds = parser.parse_args().seeds
    print("| kind of world | told | of these, held | median interval, ± % | median error, % | in the range |")
    print("|---|---|---|---|---|---|")
    for kind, build in {**KINDS, **MORE_KINDS}.items():
        runs = [measure(build(seed), seed) for seed in range(seeds)]
        told = [run for run in runs if run.reported()]
        held = sum(run.holds() for run in told)
        width, error = (
            (f"{100 * median(run.width() for run in told):.1f}", f"{100 * median(abs(run.error()) for run in told):.1f}")
            if told
            else ("", "")
        )
        row = (kind, f"{len(told)} of {seeds}", held, width, error, f"{sum(run.holds() for run in runs)} of {seeds}")
        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
