"""``ml-energy export``: the runs of a model in another format."""

from collections.abc import Sequence

import typer

from ml_energy_callbacks.cli.output import print_json, print_line
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.record.find import find_files, is_run
from ml_energy_callbacks.record.load import load_record
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.report.export.facts import parse_facts
from ml_energy_callbacks.report.export.subject import Lifetime
from ml_energy_callbacks.report.lifecycle import lifecycle


def write_export(
    paths: Sequence[str],
    form: Format,
    facts: Sequence[str],
    *,
    predict: str | None,
    per_day: float | None,
    days: float | None,
) -> None:
    """Print the runs in the format; on stderr, what could not be looked into."""
    known = parse_facts(facts, form)
    records = _load(paths)
    text = export(records, form, known, lifetime=_lifetime(records, predict, per_day, days))
    if text.startswith(("{", "[")):
        print_json(text.rstrip())
    else:
        typer.echo(text, nl=False)


def _load(paths: Sequence[str]) -> list[RunRecord]:
    """Return the records; a broken one is an error, as an export without it would leave energy out."""
    if len(paths) == 1 and is_run(paths[0]):
        return [load_record(paths[0])]
    unlisted: list[str] = []
    records = [file.load() for file in find_files(paths, unlisted.append)]
    for folder in unlisted:
        print_line(f"{folder} cannot be listed; the runs in it are not included.", stderr=True)
    return records


def _lifetime(records: Sequence[RunRecord], predict: str | None, per_day: float | None, days: float | None) -> Lifetime | None:
    if predict is None and per_day is None and days is None:
        return None
    if predict is None or per_day is None or days is None:
        msg = "The predictions of a lifetime need --predict, --per-day and --days together."
        raise ConfigurationError(msg)
    prediction = load_record(predict)
    return Lifetime(prediction, lifecycle(records, prediction, per_day=per_day, days=days))
