"""The command ``ml-energy``."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import Progress

from ml_energy_callbacks.carbon import check_currency, forecast, plan, price_table
from ml_energy_callbacks.demo import Framework, run_demo
from ml_energy_callbacks.doctor import SECONDS, examine, live_watts, render_watts
from ml_energy_callbacks.doctor import render as render_diagnosis
from ml_energy_callbacks.exceptions import ConfigurationError, EnergyError
from ml_energy_callbacks.export import Format
from ml_energy_callbacks.export import export as write
from ml_energy_callbacks.fleet import (
    Fleet,
    RunTable,
    check_by,
    check_output,
    find_files,
    is_run,
    merge_jobs,
    read_runs,
    render_fleet,
)
from ml_energy_callbacks.inference import compare_models, profile_inference
from ml_energy_callbacks.inference.plot import plot_comparison, plot_profile
from ml_energy_callbacks.inference.table import render_comparison, render_profile
from ml_energy_callbacks.inference.target import load
from ml_energy_callbacks.lifecycle import lifecycle as over_the_life
from ml_energy_callbacks.lifecycle import load_records
from ml_energy_callbacks.records import dump_json, load_record
from ml_energy_callbacks.report import quantity, render
from ml_energy_callbacks.report.lifecycle import plot_lifecycle, render_lifecycle
from ml_energy_callbacks.report.picture import check_picture
from ml_energy_callbacks.report.schedule import render_plan

_Facts = TypeVar("_Facts", bound=msgspec.Struct)

_HOURS_OF_A_YEAR = 8784.0

_Width = Annotated[float, typer.Option(help="Half-width of the 95 % intervals of J/sample, as a share.")]
_Seconds = Annotated[float, typer.Option(help="No block of calls begins after so many seconds.")]
_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
_Plot = Annotated[Path | None, typer.Option(help="Draw it into this file, such as cost.png.")]

app = typer.Typer(
    help="Energy, carbon and cost of training and inference.", no_args_is_help=True, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer's callback
    if wanted:
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
    single = len(paths) == 1 and not (by or csv or parquet)
    if single and is_run(paths[0]):
        _show(load_record(paths[0]), render, json=json)
        return
    words = check_by(by or ["month"])
    for output in (csv, parquet):
        if output is not None:
            check_output(output)
    console = _console(stderr=True)
    unlisted: list[str] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Looking for run records", total=None)
        files = find_files(paths, unlisted.append)
        if single and len(files) == 1:
            _show(files[0].load(), render, json=json)
            return
        table = RunTable()
        bar.update(task, description="Reading run records", total=len(files))
        runs = read_runs(files, lambda done: bar.update(task, completed=done))
    table.load(runs.rows)
    fleet = Fleet(
        groups=table.groups(words),
        total=table.groups([])[0],
        repeated=runs.repeated,
        other_versions=runs.other_versions,
        broken=runs.broken,
        unlisted=unlisted,
    )
    if csv is not None:
        table.write_csv(csv)
    if parquet is not None:
        table.write_parquet(parquet)
    _show(fleet, render_fleet, json=json)


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
    console = _console(stderr=True)
    for place, record in merge_jobs(paths, console.print):
        console.print(f"Written to {place}.", soft_wrap=True)
        _show(record, render, json=json)


def _console(*, stderr: bool = False) -> Console:
    """Return a terminal that shows texts as they are: the ``[amd]`` of an extra or of a name is no markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


def _show(facts: _Facts, render: Callable[[_Facts], RenderableType], *, json: bool) -> None:
    if json:
        typer.echo(dump_json(facts))
    else:
        _console().print(render(facts))


@contextlib.contextmanager
def _live(render: Callable[[_Facts], RenderableType]) -> Iterator[Callable[[_Facts], None]]:
    """Show on stderr what is known so far, each time that the function is called with it."""
    with Live(console=_console(stderr=True), transient=True, auto_refresh=False) as live:
        yield lambda known: live.update(render(known), refresh=True)


@app.command()
def export(
    path: Annotated[str, typer.Argument(help="An energy.json, or the directory that holds one; or a URL of these.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="What to write.")],
) -> None:
    """Write a run in another program's format: codecarbon's CSV, a model card's block, or an SCI statement."""
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
    check_currency(currency)
    kwh = _above_zero("--kwh", kwh)
    duration = timedelta(hours=_above_zero("--run-hours", run_hours, _HOURS_OF_A_YEAR))
    within = timedelta(hours=_above_zero("--hours", hours, _HOURS_OF_A_YEAR))
    now = datetime.now(UTC)
    prices = price_table(_prices(price) if price else None)
    ahead = forecast(location, series, now)
    found = plan(ahead, prices, kwh=kwh, duration=duration, now=now, within=within)
    if json:
        facts = {"source": ahead.source, "currency": None if prices is None else currency, **msgspec.to_builtins(found)}
        typer.echo(msgspec.json.encode(facts).decode())
    else:
        _console().print(render_plan(found, ahead.source, currency))


def _above_zero(option: str, value: float, most: float | None = None) -> float:
    if not (isfinite(value) and 0 < value <= (most or value)):
        limit = "" if most is None else f", {most:g} at most"
        msg = f"{option} is {value:g}; give a number above 0{limit}."
        raise ConfigurationError(msg)
    return value


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
    found = over_the_life(load_records(train), load_record(predict), per_day=per_day, days=days)
    if plot is not None:
        plot_lifecycle(found, plot)
    _show(found, render_lifecycle, json=json)


def _prices(texts: Sequence[str]) -> dict[str, float]:
    prices: dict[str, float] = {}
    for text in texts:
        time, _, value = text.partition("=")
        if time in prices:
            msg = f"--price has two prices from {time} on; give one for each time."
            raise ConfigurationError(msg)
        try:
            prices[time] = float(value)
        except ValueError:
            msg = f"--price {text!r} is none; write it as 06:00=0.32."
            raise ConfigurationError(msg) from None
    return prices


@app.command()
def doctor(
    devices: Annotated[list[str] | None, typer.Argument(help="Ids or globs such as 'nvml:*'; all, if none is given.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show each device's power, until Ctrl-C.")] = False,
) -> None:
    """Tell what can be measured here, how and how well, and what cannot, why, and what to do about it."""
    chosen: Literal["auto"] | list[str] = devices or "auto"
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(chosen, json=json)
        return
    with _console(stderr=True).status(f"Measuring for {SECONDS:g} s ..."):
        diagnosis = examine(chosen)
    _show(diagnosis, render_diagnosis, json=json)


def _watch(devices: Literal["auto"] | list[str], *, json: bool) -> None:
    console = _console()
    readings = live_watts(devices)
    if json or not console.is_terminal:
        for watts in readings:
            typer.echo(msgspec.json.encode(watts).decode() if json else _line(watts))
    else:
        with Live(console=console, auto_refresh=False) as live:
            for watts in readings:
                live.update(render_watts(watts), refresh=True)


def _line(watts: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {quantity(value, 'W')}" for name, value in watts.items())


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
    outcome = run_demo(framework, epochs=epochs, logdir=logdir)
    console = _console()
    console.print(render(outcome.record))
    console.print(f"Test accuracy {outcome.accuracy:.1%}. Record: {outcome.record_path}", soft_wrap=True)
    console.print(f"Energy panels: tensorboard --logdir {logdir}  (tab Custom Scalars)", soft_wrap=True)


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
    sizes = _whole_numbers(batch_sizes)
    if plot is not None:
        check_picture(plot)
    fn, make_batch = load(target, "fn", "make_batch")
    with _live(render_profile) as progress:
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
    _show(found, render_profile, json=json)


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
    if plot is not None:
        check_picture(plot)
    models, data, metric = load(target, "models", "data", "metric")
    with _live(render_comparison) as progress:
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
    _show(found, render_comparison, json=json)


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        msg = f"--batch-sizes {text!r} are none; write them as 1,8,64."
        raise ConfigurationError(msg) from None


def main() -> None:
    """Run the command; what the user can get wrong ends with one sentence and status 2."""
    try:
        app()
    except EnergyError as error:
        sys.stderr.write(f"ml-energy: {error}\n")
        sys.exit(2)
