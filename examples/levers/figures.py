"""Run all examples, one after another: ``python figures.py`` prints their tables, ``--write`` writes them to docs/levers.md.

It takes several minutes and requires an otherwise idle machine.
"""

import json
import os
import platform
import re
import subprocess
import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from findings import Findings

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "levers.md"
LEVERS = (
    "quantization",
    "pruning",
    "distillation",
    "batch_size",
    "data_caching",
    "early_stopping",
    "lightning_and_keras",
)
PACKAGES = ("torch", "pytorch-lightning", "keras", "scikit-learn")


def measured(lever):
    """Run an example's script; return its findings."""
    command = [sys.executable, str(FOLDER / f"{lever}.py"), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own script
    return Findings(**json.loads(done.stdout))


def markdown(found):
    """Return the findings as a table, with the lines below it."""
    headings, body = found.cells()
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], *body]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *(f"- {line}" for line in found.lines())])


def machine():
    """Return the date and a description of the machine."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    now = datetime.now(UTC).date().isoformat()
    gpu = "a GPU" if torch.cuda.is_available() else "no GPU"
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"Measured on {now}, on {os.cpu_count()} CPUs and {gpu}; {system}, {packages}."


def filled(page, name, text):
    """Return the page with this text between the markers of that name.

    Raises:
        ValueError: The page has no such markers, or has them more than once.
    """
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    page, count = re.subn(pattern, lambda marks: f"{marks[1]}{text}\n{marks[2]}", page, flags=re.DOTALL)
    if count != 1:
        msg = f"The page has {count} places for {name!r}; it needs one: <!-- {name} --> and <!-- /{name} -->."
        raise ValueError(msg)
    return page


def main():
    """Run all examples, and print or write the tables."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="update the tables in docs/levers.md")
    write = parser.parse_args().write
    page = filled(PAGE.read_text(encoding="utf-8"), "machine", machine())
    for lever in LEVERS:
        text = markdown(measured(lever))
        page = filled(page, lever, text)
        print(f"{lever}\n\n{text}\n", flush=True)
    if write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
