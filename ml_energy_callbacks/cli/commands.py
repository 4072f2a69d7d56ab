"""The commands and their options. Each imports what it needs when it runs, so that the help and the others start quickly."""

# ruff: noqa: PLC0415 - as said above
from pathlib import Path
from typing import Annotated

import typer

from ml_energy_callbacks.demo import Framework
from ml_energy_callbacks.report.export import Format

_Width = Annotated[float, typer.Option(help="Half-width of the 95 % intervals of J/sample, as a share.")]
_Seconds = Annotated[float, typer.Option(help="No block of calls begins after so many seconds.")]
_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
_Plot = Annotated[Path | None, typer.Option(help="Draw it into this file, such as cost.png.")]

app = typer.Typer(
    help="Energy, carbon and cost of training and inference.", no_args_is_help=True, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer's callback
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ml-energy {version('ml-energy-callbacks')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Energy, carbon and cost of training and inference."""


@app.command()
def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="An energy.json, a directory that holds one or many below it, a pattern, or a URL of these; several."
        ),
    ],
    *,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Group runs by tag, tag:NAME, model, host, month, framework or status; several; month, if none."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row for each run into this CSV file.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write them into this Parquet file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record, or the groups, as JSON.")] = False,
) -> None:
    """Show what a run used, or what groups of many runs used."""
    from ml_energy_callbacks.cli.report import report_runs

    report_runs(paths, by=by, csv=csv, parquet=parquet, json=json)


@app.command()
def merge(
    paths: Annotated[
        list[str],
        typer.Argument(help="Directories with the files energy.rank<rank>.json that a job's processes left; or URLs of these."),
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Build the record of a job from what its processes left, where it did not come to its end."""
    from ml_energy_callbacks.cli.merge import merge_and_report

    merge_and_report(paths, json=json)


@app.command()
def export(
    path: Annotated[str, typer.Argument(help="An energy.json, or the directory that holds one; or a URL of these.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="What to write.")],
) -> None:
    """Write a run in another program's format: codecarbon's CSV, a model card's block, or an SCI statement."""
    from ml_energy_callbacks.record.load import load_record
    from ml_energy_callbacks.report.export import export as write

    typer.echo(write(load_record(path), form), nl=False)


@app.command()
def when(
    *,
    location: Annotated[
        str | None,
        typer.Option(help="A live forecast's place: Great Britain (NESO), or a country or zone of Electricity Maps."),
    ] = None,
    series: Annotated[Path | None, typer.Option(help="A CSV or Parquet file with the columns time and g_per_kwh.")] = None,
    kwh: Annotated[float, typer.Option(help="Energy of the run.")] = 1.0,
    run_hours: Annotated[float, typer.Option(help="Length of the run; a year at most.")] = 1.0,
    hours: Annotated[float, typer.Option(help="It begins within so many hours; a year at most.")] = 24.0,
    price: Annotated[
        list[str] | None, typer.Option(help="Price of a kWh from a time of day on, as 06:00=0.32; several.")
    ] = None,
    currency: Annotated[str, typer.Option(help="Of the price, a three-letter code.")] = "USD",
    json: _Json = False,
) -> None:
    """Tell at which hour a run emits least, and costs least, and what that saves."""
    from ml_energy_callbacks.cli.when import plan_run

    plan_run(
        location=location,
        series=series,
        kwh=kwh,
        run_hours=run_hours,
        hours=hours,
        price=price,
        currency=currency,
        json=json,
    )


@app.command()
def lifecycle(
    *,
    train: Annotated[
        list[Path], typer.Option(help="A training run's energy.json, or a directory above some: all of them count; several.")
    ],
    predict: Annotated[str, typer.Option(help="The record, its directory or a URL, that tells what a prediction takes.")],
    per_day: Annotated[float, typer.Option(help="Predictions a day.")],
    days: Annotated[float, typer.Option(help="Length of the model's life.")],
    json: _Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this file, such as life.png.")] = None,
) -> None:
    """Tell what training and inference take over the life of a model, and when inference overtakes training."""
    from ml_energy_callbacks.cli.lifecycle import report_lifecycle

    report_lifecycle(train, predict, per_day=per_day, days=days, json=json, plot=plot)


@app.command()
def doctor(
    devices: Annotated[list[str] | None, typer.Argument(help="Ids or globs such as 'nvml:*'; all, if none is given.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show each device's power, until Ctrl-C.")] = False,
) -> None:
    """Tell what can be measured here, how and how well, and what cannot, why, and what to do about it."""
    from ml_energy_callbacks.cli.doctor import report_machine, watch_machine

    (watch_machine if watch else report_machine)(devices or "auto", json=json)


@app.command()
def demo(
    *,
    framework: Annotated[
        Framework, typer.Option(help="What trains it; of Keras, the backend that KERAS_BACKEND names.")
    ] = Framework.LIGHTNING,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 20,
    logdir: Annotated[Path, typer.Option(help="Where TensorBoard finds the run.")] = Path("energy_logs"),
) -> None:
    """Train, validate, test and predict with a small network on real images, and show what that used."""
    from ml_energy_callbacks.cli.demo import demonstrate

    demonstrate(framework, epochs=epochs, logdir=logdir)


@app.command()
def profile(
    target: Annotated[str, typer.Argument(help="module:function; the function returns (fn, make_batch).")],
    *,
    batch_sizes: Annotated[str, typer.Option(help="Numbers of samples.")] = "1,2,4,8,16,32",
    width: _Width = 0.05,
    latency_limit: Annotated[float | None, typer.Option(help="Longest p95 latency of the best batch size, in s.")] = None,
    seconds: _Seconds = 120.0,
    json: _Json = False,
    plot: _Plot = None,
) -> None:
    """Measure what a prediction costs at each batch size, and name the best one."""
    from ml_energy_callbacks.cli.predictions import report_profile

    report_profile(
        target,
        batch_sizes=batch_sizes,
        width=width,
        latency_limit=latency_limit,
        seconds=seconds,
        json=json,
        plot=plot,
    )


@app.command()
def compare(
    target: Annotated[str, typer.Argument(help="module:function; the function returns (models, data, metric).")],
    *,
    width: _Width = 0.05,
    seconds: _Seconds = 120.0,
    json: _Json = False,
    plot: _Plot = None,
) -> None:
    """Measure what the predictions of several models cost, and how good they are on the same data."""
    from ml_energy_callbacks.cli.predictions import report_comparison

    report_comparison(target, width=width, seconds=seconds, json=json, plot=plot)
