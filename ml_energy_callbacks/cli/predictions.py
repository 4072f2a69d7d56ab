"""``ml-energy profile`` and ``ml-energy compare``: what predictions cost."""

from pathlib import Path

from ml_energy_callbacks.cli.output import live, show
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference import compare_models, profile_inference
from ml_energy_callbacks.inference.plot import plot_comparison, plot_profile
from ml_energy_callbacks.inference.table import render_comparison, render_profile
from ml_energy_callbacks.inference.target import load
from ml_energy_callbacks.report.picture import check_picture


def report_profile(
    target: str,
    *,
    batch_sizes: str,
    width: float,
    latency_limit: float | None,
    seconds: float,
    json: bool,
    plot: Path | None,
) -> None:
    """Print what a prediction costs at each batch size, and draw it; the arguments are the command's options."""
    sizes = _whole_numbers(batch_sizes)
    if plot is not None:
        check_picture(plot)
    fn, make_batch = load(target, "fn", "make_batch")
    with live(render_profile) as progress:
        found = profile_inference(
            fn,
            make_batch,
            sizes,
            relative_width=width,
            max_seconds=seconds,
            latency_limit=latency_limit,
            progress=progress,
        )
    if plot is not None:
        plot_profile(found, plot)
    show(found, render_profile, json=json)


def report_comparison(target: str, *, width: float, seconds: float, json: bool, plot: Path | None) -> None:
    """Print what the predictions of several models cost, and draw it; the arguments are the command's options."""
    if plot is not None:
        check_picture(plot)
    models, data, metric = load(target, "models", "data", "metric")
    with live(render_comparison) as progress:
        found = compare_models(
            models,
            data,
            metric,
            relative_width=width,
            max_seconds=seconds,
            progress=progress,
        )
    if plot is not None:
        plot_comparison(found, plot)
    show(found, render_comparison, json=json)


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        msg = f"--batch-sizes {text!r} are none; write them as 1,8,64."
        raise ConfigurationError(msg) from None
