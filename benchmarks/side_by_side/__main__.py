"""Run the benchmark: `python -m side_by_side`, from this folder's parent."""

import argparse
import importlib
import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from . import page
from .results import Scale, Section

SECTIONS = ("overhead", "accuracy", "scaling", "own-energy")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="side_by_side", description="Compare energy tools on the same work.")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_const", const="quick", dest="scale", help="end within 5 minutes")
    scale.add_argument("--smoke", action="store_const", const="smoke", dest="scale", help="only test the harness")
    parser.add_argument("--only", metavar="NAMES", help=f"sections to run, of {','.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--write", action="store_true", help="update docs/benchmarks.md")
    parser.set_defaults(scale="full")
    found = parser.parse_args()
    found.only = tuple(found.only.split(",")) if found.only else SECTIONS
    if unknown := set(found.only) - set(SECTIONS):
        parser.error(f"no section is called {', '.join(sorted(unknown))}")
    if found.write and (found.only != SECTIONS or found.scale == "smoke"):
        parser.error("--write writes the whole page: leave out --only and --smoke")
    return found


def run(name: str, scale: Scale, console: Console) -> Section:
    """Measure one section, and show the progress."""
    began = time.monotonic()
    with console.status(name) as status:

        def progress(what: str) -> None:
            status.update(f"{name}: {what} ({time.monotonic() - began:.0f} s)")
            if not console.is_terminal:
                console.print(f"{name}: {what}")

        section = importlib.import_module(f".{name.replace('-', '_')}", __package__).measure(scale, progress)
    console.print(f"{name}: done in {time.monotonic() - began:.0f} s")
    return section


def main() -> None:
    """Measure, and print or write the results."""
    asked = options()
    console = Console()
    sections = {name: run(name, asked.scale, console) for name in asked.only}
    if asked.json:
        asked.json.write_text(json.dumps({name: asdict(section) for name, section in sections.items()}), encoding="utf-8")
    if asked.write:
        page.write(sections, asked.scale, PAGE)
    page.show(sections, console)


if __name__ == "__main__":
    main()
