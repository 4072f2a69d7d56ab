"""The commands and their options. Each imports what it needs when it runs, so that help and other commands start quickly."""

# ruff: noqa: PLC0415 - see above
import os
from pathlib import Path
from typing import Annotated

import typer

from ml_energy_callbacks.demo import Framework
from ml_energy_callbacks.report.export import Format


def _in_home(path: Path | None) -> Path | None:
    """Return a path with the user's home for ``~``, which a shell leaves as it is in ``--csv=~/runs.csv``."""
    return path and Path(os.path.expanduser(path))  # noqa: PTH111 - the method of Path raises where there is no home


_Width = Annotated[float, typer.Option(help="Half-width of the 95 % interval of J/sample to reach, as a fraction.")]
_Seconds = Annotated[float, typer.Option(help="Time limit in seconds; no block of calls starts after it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_Plot = Annotated[Path | None, typer.Option(callback=_in_home, help="Draw the result into this file, such as cost.png.")]

_MEASURE, _READ, _PLAN = "Measure", "Read runs", "Plan"
"""Groups of commands in the help."""

app = typer.Typer(
    help="Energy, carbon and cost of training and inference.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _examples(*lines: str) -> str:
    """Return examples for the end of a command's help, one a line."""
    return "\n\n".join(["Examples:", *lines])


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


@app.command(
    rich_help_panel=_MEASURE,
    epilog=_examples(
        "ml-energy doctor",
        "ml-energy doctor --all",
        "ml-energy doctor --watch 'nvml:*'",
    ),
)
def doctor(
    devices: Annotated[list[str] | None, typer.Argument(help="Ids or globs such as 'nvml:*'; default: all.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also list hardware that is not present.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the power of each device until Ctrl-C.")] = False,
) -> None:
    """Show how accurately this machine can measure energy, and what to do about the rest."""
    from ml_energy_callbacks.cli.doctor import report_machine, watch_machine

    if watch:
        watch_machine(devices or "auto", json=json)
    else:
        report_machine(devices or "auto", json=json, everything=everything)


@app.command(
    rich_help_panel=_MEASURE,
    epilog=_examples(
        "ml-energy demo",
        "ml-energy demo --framework keras --epochs 5",
    ),
)
def demo(
    *,
    framework: Annotated[
        Framework, typer.Option(help="Framework to train with; for Keras, KERAS_BACKEND selects the backend.")
    ] = Framework.LIGHTNING,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 50,
    logdir: Annotated[Path, typer.Option(callback=_in_home, help="Directory of the run, for TensorBoard.")] = Path(
        "energy_logs"
    ),
) -> None:
    """Train, validate, test and predict with a small network on real images, and show the energy used."""
    from ml_energy_callbacks.cli.demo import demonstrate

    demonstrate(framework, epochs=epochs, logdir=logdir)


@app.command(
    rich_help_panel=_MEASURE,
    context_settings={"allow_interspersed_args": False},
    epilog=_examples(
        "ml-energy run -- python train.py --epochs 3",
        "ml-energy run --location FRA -- ./train.sh",
    ),
)
def run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, such as: python train.py --epochs 3")],
    *,
    output_dir: Annotated[Path, typer.Option(callback=_in_home, help="Directory of the run record.")] = Path("energy_logs/run"),
    location: Annotated[
        str | None, typer.Option(help="Where the electricity comes from, such as FRA; default: the world average.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON, in the last line of stderr.")] = False,
) -> None:
    """Measure the energy of any command: ml-energy run -- python train.py.

    Its input, outputs, signals and exit status stay its own; the energy is printed on stderr.
    """
    from ml_energy_callbacks.cli.run import measure_command

    measure_command(command, output_dir=output_dir, location=location, json=json)


@app.command(
    rich_help_panel=_MEASURE,
    epilog=_examples(
        "ml-energy profile serve:build --batch-sizes 1,8,64",
        "ml-energy profile serve:build --latency-limit 0.1 --plot cost.png",
        "ml-energy profile --generate models/tiny-llama --prompts 32,128,512 --new-tokens 16,64",
    ),
)
def profile(
    target: Annotated[
        str,
        typer.Argument(
            help="module:function; the function returns (fn, make_batch). With --generate, one that returns a model, "
            "or the directory of a model."
        ),
    ],
    *,
    batch_sizes: Annotated[
        str | None,
        typer.Option(help="Batch sizes to measure, separated by commas; default: 1,2,4,8,16,32, with --generate 1,8."),
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Measure what a model of Hugging Face generates, by its lengths in tokens.")
    ] = False,
    prompts: Annotated[str | None, typer.Option(help="With --generate: lengths of prompts; default: 32,128,512.")] = None,
    new_tokens: Annotated[str | None, typer.Option(help="With --generate: numbers of new tokens; default: 16,64.")] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="With --generate: sample tokens instead of taking the most likely one.")
    ] = False,
    width: _Width = 0.05,
    latency_limit: Annotated[float | None, typer.Option(help="Longest acceptable p95 latency of a batch, in s.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Time limit in seconds; no block of calls starts after it; default: 120, with --generate 300."),
    ] = None,
    json: _Json = False,
    plot: _Plot = None,
) -> None:
    """Measure the energy of a prediction at each batch size, and show the best one; or that of generated text."""
    from ml_energy_callbacks.cli.predictions import report_generation, report_profile

    if generate:
        report_generation(
            target,
            batch_sizes=batch_sizes,
            prompts=prompts,
            new_tokens=new_tokens,
            sample=sample,
            latency_limit=latency_limit,
            width=width,
            seconds=seconds,
            json=json,
            plot=plot,
        )
        return
    report_profile(
        target,
        of_generation=prompts is not None or new_tokens is not None or sample,
        batch_sizes=batch_sizes,
        width=width,
        latency_limit=latency_limit,
        seconds=seconds,
        json=json,
        plot=plot,
    )


@app.command(
    rich_help_panel=_MEASURE,
    epilog=_examples(
        "ml-energy compare models:build",
        "ml-energy compare models:build --width 0.02 --json",
    ),
)
def compare(
    target: Annotated[str, typer.Argument(help="module:function; the function returns (models, data, metric).")],
    *,
    width: _Width = 0.05,
    seconds: _Seconds = 120.0,
    json: _Json = False,
    plot: _Plot = None,
) -> None:
    """Measure the energy of the predictions of several models, and their accuracy on the same data."""
    from ml_energy_callbacks.cli.predictions import report_comparison

    report_comparison(target, width=width, seconds=seconds, json=json, plot=plot)


@app.command(
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy report runs/a",
        "ml-energy report -v runs/a",
        "ml-energy report runs --by run",
        "ml-energy report runs --by model --by month --csv runs.csv",
    ),
)
def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="An energy.json, a directory with one or more below it, a pattern, or a URL of these; several are possible."
        ),
    ],
    *,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="List runs with run, or group them by tag, tag:NAME, model, host, month, framework, status; default: month."
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(callback=_in_home, help="Write one row per run to this CSV file.")] = None,
    parquet: Annotated[Path | None, typer.Option(callback=_in_home, help="Write one row per run to this Parquet file.")] = None,
    html: Annotated[
        Path | None, typer.Option(callback=_in_home, help="Write the run, or a comparison of the runs, to this HTML file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record, or the groups, as JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show phases, devices, processes, latencies and sources of one run.")
    ] = False,
) -> None:
    """Show the energy of one run, or of many runs in groups."""
    from ml_energy_callbacks.cli.report import report_runs, write_page

    if html is not None:
        write_page(paths, html, others=bool(by or csv or parquet or json or verbose))
        return
    report_runs(paths, by=by, csv=csv, parquet=parquet, json=json, verbose=verbose)


@app.command(
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy diff runs/a runs/b",
        "ml-energy diff runs/a runs/b --json",
    ),
)
def diff(
    a: Annotated[str, typer.Argument(help="The first run: an energy.json, a directory that contains one, or a URL of these.")],
    b: Annotated[str, typer.Argument(help="The second run.")],
    *,
    json: _Json = False,
) -> None:
    """Show what changed between two runs and why: samples, time per sample and power of each stage and phase."""
    from ml_energy_callbacks.cli.diff import report_difference

    report_difference(a, b, json=json)


@app.command(
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy export runs/a --format model-card",
        "ml-energy export runs --format cyclonedx --set model=ResNet",
        "ml-energy export runs/tuning --format eu-gpai --predict runs/serving --per-day 1e6 --days 365",
    ),
)
def export(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="The runs of a model: an energy.json, a directory of which all records count, a pattern, or a URL of these."
        ),
    ],
    *,
    form: Annotated[Format, typer.Option("--format", metavar="FORMAT", help=f"Format to write: {', '.join(Format)}.")],
    facts: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A fact that no record knows, such as version=1.0; repeatable."),
    ] = None,
    predict: Annotated[
        str | None, typer.Option(help="Record of a run of predictions, for the energy of the model's lifetime.")
    ] = None,
    per_day: Annotated[float | None, typer.Option(help="Predictions per day.")] = None,
    days: Annotated[float | None, typer.Option(help="Lifetime of the model in days.")] = None,
) -> None:
    """Write the runs of a model in another format: for catalogues, bills of materials, regulators, or codecarbon."""
    from ml_energy_callbacks.cli.export import write_export

    write_export(paths, form, facts or [], predict=predict, per_day=per_day, days=days)


@app.command(
    "import",
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy import emissions.csv",
        "ml-energy import gpu.csv logs/*_carbontracker.log --output runs/imported",
    ),
)
def import_(
    files: Annotated[list[Path], typer.Argument(help="Logs of other tools; several are possible.")],
    *,
    output: Annotated[Path, typer.Option(callback=_in_home, help="Directory of the run records.")] = Path(
        "energy_logs/imported"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Write a run record for each run in the logs of other tools: codecarbon, carbontracker, Zeus, nvidia-smi, and more.

    The tool is recognised by the first lines. What it does not know is unknown in the record.
    """
    from ml_energy_callbacks.cli.imports import import_logs

    import_logs(files, output=output, json=json)


@app.command(
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy audit runs",
        "ml-energy audit runs emissions.csv gpu.csv --json",
    ),
)
def audit(
    paths: Annotated[
        list[str],
        typer.Argument(help="Each an energy.json, a directory of runs, a pattern, a URL of these, or a log of another tool."),
    ],
    *,
    json: _Json = False,
) -> None:
    """Show what is wrong or doubtful in runs and in logs of other tools, with the evidence.

    The exit status is 1 where something is wrong, and 2 where a file cannot be read.
    """
    from ml_energy_callbacks.cli.audit import report_audit

    report_audit(paths, json=json)


@app.command(
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy merge runs/job",
        "ml-energy merge left/runs/job right/runs/job",
    ),
)
def merge(
    paths: Annotated[
        list[str],
        typer.Argument(help="Directories with the files energy.rank<rank>.json of a job's processes, or URLs of these."),
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Build the record of a job that did not complete, from the files of its processes."""
    from ml_energy_callbacks.cli.merge import merge_and_report

    merge_and_report(paths, json=json)


@app.command(
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy replay raw.jsonl",
    ),
)
def replay(
    path: Annotated[
        Path, typer.Argument(callback=_in_home, help="A recording, as EnergyMeter(recording='raw.jsonl') writes it.")
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Compute the record of a run again, from its recording."""
    from ml_energy_callbacks.cli.replay import replay_and_report

    replay_and_report(path, json=json)


@app.command(
    rich_help_panel=_READ,
    epilog=_examples(
        "ml-energy verify runs/a",
        "ml-energy verify runs --json",
    ),
)
def verify(
    paths: Annotated[
        list[str],
        typer.Argument(help="An energy.json, a directory with one or more below it, or a pattern; several are possible."),
    ],
    *,
    json: _Json = False,
) -> None:
    """Reckon records anew from their raw readings: exit status 0 if all are the same, 1 if one is not, 2 if one cannot be.

    A record has raw readings beside it if it was measured with raw_readings=True.
    """
    from ml_energy_callbacks.cli.verify import verify_records

    verify_records(paths, json=json)


@app.command(
    rich_help_panel=_PLAN,
    epilog=_examples(
        "ml-energy when --location GBR --run-hours 3 --kwh 12",
        "ml-energy when --series forecast.csv --price 06:00=0.32 --price 22:00=0.21",
    ),
)
def when(
    *,
    location: Annotated[
        str | None,
        typer.Option(help="Location of a live forecast: Great Britain (NESO), or a country or zone of Electricity Maps."),
    ] = None,
    series: Annotated[
        Path | None, typer.Option(callback=_in_home, help="A CSV or Parquet file with the columns time and g_per_kwh.")
    ] = None,
    kwh: Annotated[float, typer.Option(help="Energy of the run in kWh.")] = 1.0,
    run_hours: Annotated[float, typer.Option(help="Length of the run in hours; at most one year.")] = 1.0,
    hours: Annotated[float, typer.Option(help="Latest start of the run, in hours from now; at most one year.")] = 24.0,
    price: Annotated[
        list[str] | None, typer.Option(help="Price of a kWh from a time of day on, such as 06:00=0.32; repeatable.")
    ] = None,
    currency: Annotated[str, typer.Option(help="Currency of the price, a three-letter code.")] = "USD",
    json: _Json = False,
) -> None:
    """Show when a run would emit least and cost least, and what that saves."""
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


@app.command(
    rich_help_panel=_PLAN,
    epilog=_examples(
        "ml-energy lifecycle --train runs/tuning --predict runs/serving --per-day 1e6 --days 365",
    ),
)
def lifecycle(
    *,
    train: Annotated[
        list[Path], typer.Option(help="energy.json of a training run, or a directory of which all records count; repeatable.")
    ],
    predict: Annotated[str, typer.Option(help="Record of a run of predictions, its directory, or a URL of these.")],
    per_day: Annotated[float, typer.Option(help="Predictions per day.")],
    days: Annotated[float, typer.Option(help="Lifetime of the model in days.")],
    json: _Json = False,
    plot: Annotated[
        Path | None, typer.Option(callback=_in_home, help="Draw the result into this file, such as life.png.")
    ] = None,
) -> None:
    """Compare the energy of training and inference over the lifetime of a model, and show when inference overtakes training."""
    from ml_energy_callbacks.cli.lifecycle import report_lifecycle

    report_lifecycle(train, predict, per_day=per_day, days=days, json=json, plot=plot)
