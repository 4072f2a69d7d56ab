"""The findings of an example's script, as a table or as JSON (``--json``); ``--quick`` runs it at a small scale."""

import json
from argparse import ArgumentParser
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from ml_energy_callbacks.report import quantity, uncertainty


def share(value):
    """Return a fraction as a percentage."""
    return "-" if value is None else f"{value:.1%}".replace("%", " %")


def interval(value):
    """Return the half-width of an interval, given as a fraction, as text."""
    return "-" if value is None else f"±{value:.2g}" if value >= 1 else f"±{100 * value:.2g} %"


def spread(values):
    """Return the range of values as text."""
    return " to ".join(quantity(value) for value in values)


# The columns a row can have: heading and format.
COLUMNS = {
    "name": ("", str),
    "accuracy": ("accuracy", share),
    "epochs": ("epochs", str),
    "seconds": ("s", quantity),
    "joules": ("J", quantity),
    "joules_range": ("range", spread),
    "data_wait_joules": ("J waiting for data", quantity),
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
    """The results of one example.

    Attributes:
        rows: Values by the keys of ``COLUMNS``, with the same keys in each row; J and J/sample are None where they are unknown.
        provenance: Whether the joules are ``measured`` or ``estimated``; None where no device was read.
        relative_uncertainty: Uncertainty of all joules, as a fraction, due to the devices; it is the same in all rows, and
            cancels in their ratios.
        said: The conclusions, in sentences.
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
        """Return the lines below the table."""
        return [*self.said, f"Joules are {uncertainty(self.provenance, self.relative_uncertainty)}, alike in all rows."]


def of_comparison(comparison):
    """Return the findings of ``compare_models``: the energy of each model, and whether it differs from the first one's."""
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
    """Return the energy and latency of a prediction, for a model or a batch size."""
    joules = found.joules_per_sample
    return {
        "joules_per_sample": joules and joules.mean,
        "half_width": joules and joules.half_width and joules.half_width / joules.mean,
        "latency_p95_ms": found.latency and 1000 * found.latency.p95_s,
    }


def verdict(pair):
    """Return how the energy of the second of a pair differs from that of the first."""
    if pair.verdict == "no difference":
        return f"no difference (within {interval(pair.half_width)})"
    return f"{100 * abs(pair.relative):.3g} % {pair.verdict} ({interval(pair.half_width)})"


def notes(found):
    """Return why models or batch sizes failed or remained undecided."""
    return [f"{name}: {each.note}" for name, each in found.items() if each.note is not None]


def of_stage(stage):
    """Return the time and energy of a stage of a run's record."""
    return {"seconds": stage.seconds, "joules": stage.joules, "joules_per_sample": stage.joules_per_sample}


def times(more, less):
    """Return the ratio of the first to the second, in words."""
    return "-" if not more or not less else f"{more / less:.2g} times"


def main(find, doc):
    """Run an example's script: ``find`` takes the option ``quick`` and returns the findings."""
    parser = ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help="run at a small scale for a few seconds; not accurate")
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
