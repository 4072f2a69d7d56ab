"""When to begin a run -> a table for a terminal."""

from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from ml_energy_callbacks.carbon import Plan, Start
from ml_energy_callbacks.report.quantities import UNKNOWN, quantity


def render_plan(plan: Plan, source: str, currency: str) -> RenderableType:
    """Return when a run begins best, and what that saves against now."""
    table = Table("", "begins", "CO2e", "saves", "cost", "saves", box=SIMPLE_HEAD)
    rows = {"now": plan.now, "greenest": plan.greenest, "cheapest": plan.cheapest}
    for name, start in rows.items():
        if start is not None:
            table.add_row(name, _hour(start.begins), *_row(start, plan.now, currency))
    return Group(table, f"Intensity ahead: {source}.")


def _hour(when: datetime) -> str:
    return when.strftime("%a %d %b, %H:%M")


def _row(start: Start, now: Start, currency: str) -> tuple[str, str, str, str]:
    cost = UNKNOWN if start.cost is None else quantity(start.cost, currency)
    saved = UNKNOWN if start.cost is None or now.cost is None else quantity(now.cost - start.cost, currency)
    return quantity(start.grams, "g"), quantity(now.grams - start.grams, "g"), cost, saved
