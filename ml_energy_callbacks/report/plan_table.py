"""The best times to start a run as a table for a terminal."""

from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from ml_energy_callbacks.carbon import Plan, Start
from ml_energy_callbacks.report.quantities import quantity
from ml_energy_callbacks.safe_text import printable


def render_plan(plan: Plan, source: str, currency: str) -> RenderableType:
    """Return the best times to start a run, by this machine's wall clock, and what they save compared with now."""
    best = {"greenest": plan.greenest, "cheapest": plan.cheapest}
    rows = {"now": plan.now, **{name: start for name, start in best.items() if start != plan.now}}
    table = Table("", "start", *(title for title, _ in _figures(plan.greenest, currency)), box=SIMPLE_HEAD)
    for name, start in rows.items():
        if start is not None:
            table.add_row(name, _hour(start.begins), *(text for _, text in _figures(start, currency)))
    return Group(table, *_notes(plan), f"Intensity forecast: {printable(source)}.")


def _figures(start: Start, currency: str) -> list[tuple[str, str]]:
    """Return the titles and values of the known quantities."""
    figures = [
        ("CO2e", start.grams, "g"),
        ("saves", start.saved_grams, "g"),
        ("cost", start.cost, currency),
        ("saves", start.saved_cost, currency),
    ]
    return [(title, quantity(value, unit)) for title, value, unit in figures if value is not None]


def _notes(plan: Plan) -> list[str]:
    if plan.now is None:
        return ["The intensity for a run that starts now is unknown."]
    best = [name for name, start in (("emissions", plan.greenest), ("price", plan.cheapest)) if start == plan.now]
    return [f"Now is the best time by {' and by '.join(best)}."] if best else []


def _hour(when: datetime) -> str:
    """Return an instant in this machine's local time."""
    return when.astimezone().strftime("%a %d %b, %H:%M %Z")
