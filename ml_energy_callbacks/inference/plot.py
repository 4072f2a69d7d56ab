"""A profile or a comparison as a picture; requires the extra ``plot``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.inference.results import Comparison, Interval, Profile
from ml_energy_callbacks.report.picture import new_figure, save_figure
from ml_energy_callbacks.safe_text import in_texts, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_INCHES = (4.6, 3.6)


def plot_profile(profile: Profile, path: Path) -> None:
    """Draw joules per sample, throughput and latency against the batch size.

    Raises:
        ConfigurationError: matplotlib is missing, or the file cannot be written.
    """
    figure = new_panels(3)
    energy, throughput, latency = figure.subplots(1, 3)
    sizes = [size for size in profile.sizes if size.repeats]
    for label, points in (
        ("gross", [(size.batch_size, size.joules_per_sample) for size in sizes]),
        ("above idle", [(size.batch_size, size.joules_per_sample_above_idle) for size in sizes]),
    ):
        draw_intervals(energy, points, label)
    draw_intervals(throughput, [(size.batch_size, size.samples_per_second) for size in sizes], None)
    for name in ("p50_s", "p95_s", "p99_s"):
        timed = [(size.batch_size, 1000 * getattr(size.latency, name)) for size in sizes if size.latency is not None]
        latency.plot(*zip(*timed, strict=True), marker="o", label=name.removesuffix("_s"))
    if profile.latency_limit_s is not None:
        _draw_limit(latency, 1000 * profile.latency_limit_s)
    for axes, label in (
        (energy, f"J per sample, {profile.provenance or 'unknown'}"),
        (throughput, "samples per s"),
        (latency, "latency of a batch, ms"),
    ):
        axes.set(xscale="log", xlabel="batch size", ylabel=label)
        axes.set_xticks([size.batch_size for size in sizes], [str(size.batch_size) for size in sizes])
        axes.minorticks_off()
    for axes in (energy, latency):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    save_figure(figure, path)


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw accuracy against joules per sample; models that are provably on the Pareto front are filled.

    Raises:
        ConfigurationError: matplotlib is missing, or the file cannot be written.
    """
    comparison = in_texts(comparison, printable)
    figure = new_panels(1)
    axes = figure.subplots()
    for model in comparison.models:
        joules = model.joules_per_sample
        if joules is None or model.accuracy is None:
            continue
        axes.errorbar(
            joules.mean,
            model.accuracy,
            xerr=joules.half_width,
            marker="o",
            capsize=3,
            markerfacecolor=None if model.pareto else "white",
            label=model.name.replace("$", r"\$"),  # which begins a formula
        )
    axes.set(xlabel=f"J per sample, {comparison.provenance or 'unknown'}", ylabel="accuracy")
    axes.set_title("filled: Pareto front", fontsize="medium")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()  # names next to the points would overlap if models are similar
    save_figure(figure, path)


def _draw_limit(axes: Any, limit: float) -> None:  # noqa: ANN401 - matplotlib's
    """Draw the limit if it is in the panel or near it; a distant one would compress the measured points."""
    low, high = axes.get_ylim()
    if low - (high - low) <= limit <= high + (high - low):
        axes.axhline(limit, color="grey", linestyle="--", label="limit (p95)")


def new_panels(panels: int) -> "Figure":
    """Return a figure with room for so many panels side by side."""
    width, height = _PANEL_INCHES
    return new_figure(panels * width, height)


def draw_intervals(axes: Any, points: list[tuple[int, Interval | None]], label: str | None, **style: str) -> None:  # noqa: ANN401 - matplotlib's
    """Draw means with their intervals, whose part below 0 J is left out; without a known one, nothing."""
    known = [(x, found.mean, found.half_width or 0.0) for x, found in points if found is not None]
    if known:
        x, y, half = zip(*known, strict=True)
        below = [min(each, max(mean, 0.0)) for mean, each in zip(y, half, strict=True)]
        axes.errorbar(x, y, yerr=[below, half], marker="o", capsize=3, label=label, **style)
