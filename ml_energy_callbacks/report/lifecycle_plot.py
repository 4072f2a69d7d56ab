"""The lifecycle of a model as a picture."""

from pathlib import Path

from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.report.lifecycle import Lifecycle
from ml_energy_callbacks.report.picture import new_figure, save_figure


def plot_lifecycle(found: Lifecycle, path: Path) -> None:
    """Draw the energy of training and of inference over the days of the lifetime, in kWh, with their 95 % intervals.

    Raises:
        ConfigurationError: matplotlib is missing, or the picture cannot be written.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    even = found.break_even
    end = found.days if even is None else max(found.days, min(even.day * 1.2, 3 * found.days))
    per_day = found.joules_per_prediction * found.per_day / JOULES_PER_KWH
    trained = found.training.kwh
    curves = [("inference", found.inference, (0.0, per_day * end))]
    if trained is not None:
        curves.append(("training, lower bound" if found.lower_bound else "training", found.training, (trained, trained)))
    for name, part, line in curves:
        (drawn,) = axes.plot((0.0, end), line, label=f"{name} ({part.provenance})")
        if part.relative_uncertainty is not None:
            low, high = ([value * (1 + sign * part.relative_uncertainty) for value in line] for sign in (-1, 1))
            axes.fill_between((0.0, end), low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    if even is not None and even.day <= end:
        axes.axvline(even.day, color="0.4", linestyle=":", label=f"day {even.day:,.1f}")
    if end > found.days:
        axes.axvline(found.days, color="0.7", label="end of the lifetime")
    axes.set(xlabel="days", ylabel="kWh", xlim=(0, end), ylim=(0, None))
    axes.legend()
    save_figure(figure, path)
