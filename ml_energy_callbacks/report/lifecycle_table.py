"""Training compared with inference as a table for a terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.report.lifecycle import Lifecycle, Part
from ml_energy_callbacks.report.quantities import UNKNOWN, quantity, uncertainty
from ml_energy_callbacks.safe_text import in_texts, printable


def render_lifecycle(found: Lifecycle) -> RenderableType:
    """Return the energy of training and inference, their shares, and when inference overtakes training."""
    found = in_texts(found, printable)
    money = found.training.cost is not None or found.inference.cost is not None
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for column in ("kWh", "share", "g CO2e", "share", *((found.currency or "cost", "share") if money else ())):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("provenance", overflow="fold")
    least = "≥ " if found.lower_bound else ""
    most = "≤ " if found.lower_bound else ""
    shares = found.training_share
    training_shares = (shares.joules, shares.co2e_grams, shares.cost)
    inference_shares = tuple(None if share is None else 1 - share for share in training_shares)
    table.add_row(
        f"training ({found.runs} {'run' if found.runs == 1 else 'runs'})",
        *_cells(found.training, training_shares, least, least, money=money),
    )
    name = f"inference ({quantity(found.predictions)})"
    table.add_row(name, *_cells(found.inference, inference_shares, "", most, money=money))
    return Group(table, *(Text(line) for line in _lines(found)))


def _cells(part: Part, shares: tuple[float | None, ...], bound: str, share_bound: str, *, money: bool) -> Iterator[str]:
    values = (part.kwh, part.co2e_grams, *((part.cost,) if money else ()))
    for value, share in zip(values, shares, strict=False):
        yield UNKNOWN if value is None else f"{bound}{quantity(value)}"
        yield UNKNOWN if share is None else f"{share_bound}{_percent(share)}"
    yield uncertainty(part.provenance, part.relative_uncertainty)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _lines(found: Lifecycle) -> Iterator[str]:
    each = quantity(found.joules_per_prediction, "J")
    token = "" if found.joules_per_token is None else f", a token {quantity(found.joules_per_token, 'J')}"
    yield f"A prediction uses {each}{token} (stage {found.stage}); {quantity(found.per_day)} a day for {found.days:g} days."
    low, high = found.training_share.joules_low, found.training_share.joules_high
    if low is not None and high is not None:
        yield f"Training's share of the energy is between {_percent(low)} and {_percent(high)}."
    even = found.break_even
    if even is None:
        yield "The point at which inference overtakes training is unknown."
    else:
        least = "at least " if found.lower_bound else ""
        upper = "or more" if even.high is None else f"to {quantity(even.high)}"
        count = f"{least}{quantity(even.predictions)} predictions ({quantity(even.low)} {upper})"
        late = ", after the end of its lifetime" if even.day > found.days else ""
        yield f"Inference overtakes training after {count}: day {even.day:,.1f}{late}."
    for note in found.notes:
        yield f"Note: {note}"
