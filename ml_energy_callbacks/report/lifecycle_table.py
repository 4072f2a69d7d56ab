"""The life of a model -> a table for a terminal, or a picture."""

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.report.lifecycle import Lifecycle, Part
from ml_energy_callbacks.report.picture import new_figure, save
from ml_energy_callbacks.report.quantities import UNKNOWN, quantity, uncertainty


def render_lifecycle(found: Lifecycle) -> RenderableType:
    """Return what training and inference take, their shares, and when inference overtakes training."""
    money = found.training.cost is not None or found.inference.cost is not None
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for column in ("kWh", "share", "g CO2e", "share", *((found.currency or "cost", "share") if money else ())):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("how", overflow="fold")
    least = "≥ " if found.lower_bound else ""
    most = "≤ " if found.lower_bound else ""
    shares = found.training_share
    of_training = (shares.joules, shares.co2e_grams, shares.cost)
    of_inference = tuple(None if share is None else 1 - share for share in of_training)
    table.add_row(
        f"training ({found.runs} {'run' if found.runs == 1 else 'runs'})",
        *_cells(found.training, of_training, least, least, money=money),
    )
    name = f"inference ({quantity(found.predictions)})"
    table.add_row(name, *_cells(found.inference, of_inference, "", most, money=money))
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
    yield f"A prediction takes {each} (stage {found.stage}); {quantity(found.per_day)} a day for {found.days:g} days."
    low, high = found.training_share.joules_low, found.training_share.joules_high
    if low is not None and high is not None:
        yield f"Training's share of the energy lies between {_percent(low)} and {_percent(high)}."
    even = found.break_even
    if even is None:
        yield "When inference overtakes training is unknown."
    else:
        least = "at least " if found.lower_bound else ""
        upper = "or more" if even.high is None else f"to {quantity(even.high)}"
        count = f"{least}{quantity(even.predictions)} predictions ({quantity(even.low)} {upper})"
        late = ", after its life" if even.day > found.days else ""
        yield f"Inference overtakes training after {count}: day {even.day:,.1f}{late}."
    for note in found.notes:
        yield f"Note: {note}"


def plot_lifecycle(found: Lifecycle, path: Path) -> None:
    """Draw the energy of training and of inference over the days of the life, in kWh, with their 95 % intervals.

    Raises:
        ConfigurationError: matplotlib is missing, or the picture cannot be written there.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    even = found.break_even
    end = found.days if even is None else max(found.days, min(even.day * 1.2, 3 * found.days))
    per_day = found.joules_per_prediction * found.per_day / JOULES_PER_KWH
    trained = found.training.kwh
    curves = [("inference", found.inference, (0.0, per_day * end))]
    if trained is not None:
        curves.append(("training, at least" if found.lower_bound else "training", found.training, (trained, trained)))
    for name, part, line in curves:
        (drawn,) = axes.plot((0.0, end), line, label=f"{name} ({part.provenance})")
        if part.relative_uncertainty is not None:
            low, high = ([value * (1 + sign * part.relative_uncertainty) for value in line] for sign in (-1, 1))
            axes.fill_between((0.0, end), low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    if even is not None and even.day <= end:
        axes.axvline(even.day, color="0.4", linestyle=":", label=f"day {even.day:,.1f}")
    if end > found.days:
        axes.axvline(found.days, color="0.7", label="end of the life")
    axes.set(xlabel="days", ylabel="kWh", xlim=(0, end), ylim=(0, None))
    axes.legend()
    save(figure, path)
