"""What a lever's script found, as a table or as JSON: ``--json``, and ``--quick`` for a small scale."""

import json
from argparse import ArgumentParser
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from ml_energy_callbacks.report import quantity, uncertainty


def share(value):
    """Return a share as a percentage."""
    return "-" if value is None else f"{value:.1%}".replace("%", " %")


def interval(value):
    """Return the half-width of an interval, as a share."""
    return "-" if value is None else f"±{value:.2g}" if value >= 1 else f"±{100 * value:.2g} %"


def spread(values):
    """Return the range of some values."""
    return " to ".join(quantity(value) for value in values)


# What a row may tell: its heading, and how it is shown.
COLUMNS = {
    "name": ("", str),
    "accuracy": ("accuracy", share),
    "epochs": ("epochs", str),
    "seconds": ("s", quantity),
    "joules": ("J", quantity),
    "joules_range": ("range", spread),
    "data_wait_joules": ("J of waiting for data", quantity),
    "data_wait_half_width": ("±", interval),
    "joules_per_sample": ("J/sample", quantity),
    "joules_per_sample_range": ("range", spread),
    "half_width": ("±", interval),
    "samples_per_second": ("samples/s", quantity),
    "latency_p95_ms": ("p95 ms", quantity),
    "size_mb": ("MB", quantity),
    "verdict": ("energy", str),
}


@dataclass(frozen=True)
class Findings:
    """What came out.

    Attributes:
        rows: By the keys of ``COLUMNS``, the same in each; J and J/sample are None where they are not known.
        provenance: Whether the joules are ``measured`` or ``estimated``; None where no device was read.
        relative_uncertainty: Of all joules alike, as a share, by the devices; it is the same in all rows, and drops out of
            their ratios.
        said: What to make of it, in sentences.
    """

    rows: list
    provenance: str | None
    relative_uncertainty: float | None
    said: list

    def cells(self):
        """Return the headings, and the cells of each row."""
        columns = {key: COLUMNS[key] for key in self.rows[0]}
        body = [[show(row[key]) for key, (_, show) in columns.items()] for row in self.rows]
        return [heading for heading, _ in columns.values()], body

    def lines(self):
        """Return what stands below the table."""
        return [*self.said, f"Joules are {uncertainty(self.provenance, self.relative_uncertainty)}, alike in all rows."]


def of_comparison(comparison):
    """Return the findings of ``compare_models``: what each model takes, and whether that differs from the first one's."""
    first = comparison.models[0].name
    verdicts = {pair.b: verdict(pair) for pair in comparison.differences if pair.a == first}
    rows = [
        {
            "name": model.name,
            "accuracy": model.accuracy,
            **cost(model),
            "size_mb": model.size_bytes / 1e6,
            "verdict": verdicts.get(model.name, "-"),
        }
        for model in comparison.models
    ]
    return Findings(
        rows, comparison.provenance, comparison.relative_uncertainty, notes({model.name: model for model in comparison.models})
    )


def cost(found):
    """Return what a prediction costs, of a model or of a batch size."""
    joules = found.joules_per_sample
    return {
        "joules_per_sample": joules and joules.mean,
        "half_width": joules and joules.half_width and joules.half_width / joules.mean,
        "latency_p95_ms": found.latency and 1000 * found.latency.p95_s,
    }


def verdict(pair):
    """Return how the energy of the second of a pair differs from that of the first."""
    if pair.verdict == "no difference":
        return f"no difference (inside {interval(pair.half_width)})"
    return f"{100 * abs(pair.relative):.3g} % {pair.verdict} ({interval(pair.half_width)})"


def notes(found):
    """Return why some failed or stayed undecided."""
    return [f"{name}: {each.note}" for name, each in found.items() if each.note is not None]


def of_stage(stage):
    """Return what a stage of a run's record took."""
    return {"seconds": stage.seconds, "joules": stage.joules, "joules_per_sample": stage.joules_per_sample}


def times(more, less):
    """Return how many times more one is than the other, in words."""
    return "-" if not more or not less else f"{more / less:.2g} times"


def main(find, doc):
    """Run a lever's script: ``find`` is told whether to be quick, and returns the findings."""
    parser = ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help="a few seconds, at a small scale: figures that say little")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    found = find(quick=asked.quick)
    if asked.json:
        print(json.dumps(asdict(found), indent=1))
        return
    headings, body = found.cells()
    table = Table(*headings)
    for row in body:
        table.add_row(*row)
    Console().print(table, *found.lines(), sep="\n")
