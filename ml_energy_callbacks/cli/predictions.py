"""``ml-energy profile`` and ``ml-energy compare``: the energy of predictions."""

from pathlib import Path
from typing import Any

from ml_energy_callbacks.cli.output import live_display, print_result
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference import compare_models, profile_inference
from ml_energy_callbacks.inference.generation_plot import plot_generation
from ml_energy_callbacks.inference.generation_table import render_generation
from ml_energy_callbacks.inference.plot import plot_comparison, plot_profile
from ml_energy_callbacks.inference.table import render_comparison, render_profile
from ml_energy_callbacks.inference.target import load_target
from ml_energy_callbacks.report.picture import check_picture


def report_profile(
    target: str,
    *,
    of_generation: bool,
    batch_sizes: str | None,
    width: float,
    latency_limit: float | None,
    seconds: float | None,
    json: bool,
    plot: Path | None,
) -> None:
    """Print the energy of a prediction at each batch size, and draw it.

    The arguments are the command's options; ``of_generation`` says whether there are some that are for ``--generate`` alone.
    """
    if of_generation:
        msg = "--prompts, --new-tokens and --sample are for --generate; add it, or omit them."
        raise ConfigurationError(msg)
    options = _given(batch_sizes=_parse_numbers("--batch-sizes", batch_sizes), max_seconds=seconds)
    if plot is not None:
        check_picture(plot)
    fn, make_batch = load_target(target, "fn", "make_batch")
    with live_display(render_profile) as progress:
        found = profile_inference(
            fn,
            make_batch,
            relative_width=width,
            latency_limit=latency_limit,
            progress=progress,
            **options,
        )
    if plot is not None:
        plot_profile(found, plot)
    print_result(found, render_profile, json=json)


def report_generation(
    target: str,
    *,
    batch_sizes: str | None,
    prompts: str | None,
    new_tokens: str | None,
    sample: bool,
    latency_limit: float | None,
    width: float,
    seconds: float | None,
    json: bool,
    plot: Path | None,
) -> None:
    """Print the energy of generated text by its lengths, and draw it; the arguments are the command's options."""
    if latency_limit is not None:
        msg = "--latency-limit is not for --generate; omit one of them."
        raise ConfigurationError(msg)
    options = _given(
        batch_sizes=_parse_numbers("--batch-sizes", batch_sizes),
        prompts=_parse_numbers("--prompts", prompts),
        new_tokens=_parse_numbers("--new-tokens", new_tokens),
        max_seconds=seconds,
    )
    if plot is not None:
        check_picture(plot)
    try:
        from ml_energy_callbacks.transformers.generation import load_model, profile_generation  # noqa: PLC0415 - optional
    except ImportError as error:
        msg = f"--generate cannot be used: {error}"
        raise ConfigurationError(msg) from error
    if Path(target).is_dir():
        model = load_model(Path(target))
    elif ":" in target:
        (model,) = load_target(target, "model")
    else:
        msg = f"There is no directory {target!r}; give that of a model, or a function that returns one, such as mymodel:build."
        raise ConfigurationError(msg)
    with live_display(render_generation) as progress:
        found = profile_generation(model, do_sample=sample, relative_width=width, progress=progress, **options)
    if plot is not None:
        plot_generation(found, plot)
    print_result(found, render_generation, json=json)


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


def _parse_numbers(option: str, text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        msg = f"{option} {text!r} is not a list of whole numbers; write it as 1,8,64."
        raise ConfigurationError(msg) from None


def _given(**options: Any) -> dict[str, Any]:  # noqa: ANN401 - of several types
    """Return the options that were given; the others have their defaults."""
    return {name: value for name, value in options.items() if value is not None}
