"""``ml-energy profile`` and ``ml-energy compare``: the energy of predictions."""

from pathlib import Path

from ml_energy_callbacks.cli.output import live_display, print_result
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference import compare_models, profile_inference
from ml_energy_callbacks.inference.plot import plot_comparison, plot_profile
from ml_energy_callbacks.inference.table import render_comparison, render_profile
from ml_energy_callbacks.inference.target import load_target
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
    """Print the energy of a prediction at each batch size, and draw it; the arguments are the command's options."""
    sizes = _parse_batch_sizes(batch_sizes)
    if plot is not None:
        check_picture(plot)
    fn, make_batch = load_target(target, "fn", "make_batch")
    with live_display(render_profile) as progress:
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
    print_result(found, render_profile, json=json)


def report_comparison(target: str, *, width: float, seconds: float, json: bool, plot: Path | None) -> None:
    """Print the energy of the predictions of several models, and draw it; the arguments are the command's options."""
    if plot is not None:
        check_picture(plot)
    models, data, metric = load_target(target, "models", "data", "metric")
    with live_display(render_comparison) as progress:
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
    print_result(found, render_comparison, json=json)


def _parse_batch_sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        msg = f"--batch-sizes {text!r} is not a list of whole numbers; write it as 1,8,64."
        raise ConfigurationError(msg) from None
