"""Groups and sums of rows; pure."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.fleet.rows import Row
from ml_energy_callbacks.metrics import JOULES_PER_KWH, ratio
from ml_energy_callbacks.record.schema import FILE_NAME

_ONE_TAG = "tag:"


def _place(row: Row) -> str:
    """Return where a run is: the directory of its record, or the file if it has another name than usual."""
    folder, name = os.path.split(row.file)
    return (folder or ".") if name == FILE_NAME else row.file


_VALUES: Mapping[str, Callable[[Row], str | None]] = {
    "tag": lambda row: row.tags,
    "model": lambda row: row.model,
    "host": lambda row: row.host,
    "month": lambda row: row.month,
    "framework": lambda row: row.framework,
    "status": lambda row: row.status,
    "run": _place,
}


class Group(msgspec.Struct, kw_only=True, frozen=True):
    """Sums over the runs of a group; a sum includes the runs whose value is known, and is None if none is.

    Attributes:
        by: The common values of the runs, by the words of ``--by``; None if the runs do not have one.
        runs: Number of runs.
        started_at: Wall-clock start of the first one, ISO 8601 with offset.
        seconds: Time of all of them in s.
        kwh: Energy in kWh.
        kwh_unknown: Number of runs whose energy is unknown, completely or for some processes or devices, so that ``kwh`` is a
            lower bound.
        relative_uncertainty: Half-width of the 95 % interval of ``kwh`` as a share of it. The runs' errors are assumed to add
            up, as for one kind of hardware.
        estimated_share: Share of ``kwh`` that was estimated by a model; the rest is measured.
        co2e_grams: Emissions in g CO2e.
        co2e_unknown: Number of runs whose emissions are unknown, completely or for some processes or devices.
        co2e_assumed: Number of runs whose emissions are based, at least in part, on the world average: no location was set.
        cost: Cost of the electricity by currency; empty if none is known.
        cost_unknown: Number of runs whose cost is unknown, completely or for some processes or devices.
        train_joules_per_sample: Energy of a training sample in J: sum of joules divided by sum of samples, over the runs
            where both are known, excluding compilation.
        train_relative_uncertainty: Half-width of its 95 % interval as a share of it.
        train_joules_per_token: Energy of a training token in J, in the same way.
        train_token_relative_uncertainty: Half-width of its 95 % interval as a share of it.
        predict_joules_per_sample: The same for prediction.
        predict_relative_uncertainty: The same.
        predict_joules_per_token: The same.
        predict_token_relative_uncertainty: The same.
    """

    by: dict[str, str | None]
    runs: int
    started_at: str
    seconds: float
    kwh: float | None
    kwh_unknown: int
    relative_uncertainty: float | None
    estimated_share: float | None
    co2e_grams: float | None
    co2e_unknown: int
    co2e_assumed: int
    cost: dict[str, float]
    cost_unknown: int
    train_joules_per_sample: float | None
    train_relative_uncertainty: float | None
    train_joules_per_token: float | None
    train_token_relative_uncertainty: float | None
    predict_joules_per_sample: float | None
    predict_relative_uncertainty: float | None
    predict_joules_per_token: float | None
    predict_token_relative_uncertainty: float | None


class Fleet(msgspec.Struct, kw_only=True, frozen=True):
    """Energy of many runs.

    Attributes:
        groups: Sorted by their common values, unknown ones last; runs by their start.
        total: Sums over all runs.
        included: Number of runs that were left out, because a run of ``ml-energy run`` includes their energy.
        repeated: Number of records that were left out, because a longer record of the same run is included.
        other_versions: Files of a schema version that this release does not read.
        broken: Files that cannot be read or are not run records.
        unlisted: Directories that could not be listed.
    """

    groups: list[Group]
    total: Group
    included: int
    repeated: int
    other_versions: list[str]
    broken: list[str]
    unlisted: list[str]


def check_by(words: Sequence[str]) -> list[str]:
    """Return the words to group by, without repetitions.

    Raises:
        ConfigurationError: A word is unknown.
    """
    for word in words:
        if word not in _VALUES and not (word.startswith(_ONE_TAG) and word != _ONE_TAG):
            msg = f"--by is {word!r}; use {', '.join(_VALUES)}, or tag:NAME for the value of one tag."
            raise ConfigurationError(msg)
    return list(dict.fromkeys(words))


def group_rows(rows: Sequence[Row], by: Sequence[str]) -> list[Group]:
    """Return groups of runs with common values; without words, one group of all runs.

    Args:
        rows: The runs, at least one.
        by: Words that passed :func:`check_by`.

    Raises:
        ConfigurationError: No run has a requested tag.
    """
    values = [_value_of(word, rows) for word in by]
    groups: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(value(row) for value in values), []).append(row)
    found = [_sum(dict(zip(by, key, strict=True)), those) for key, those in groups.items()]
    if "run" in by:
        return sorted(found, key=lambda group: group.started_at)
    return sorted(found, key=lambda group: [(value is None, value or "") for value in group.by.values()])


def _value_of(word: str, rows: Sequence[Row]) -> Callable[[Row], str | None]:
    """Return what a word of ``--by`` stands for in a row."""
    if not word.startswith(_ONE_TAG):
        return _VALUES[word]
    name, tags = word.removeprefix(_ONE_TAG), {row.tags: _tags(row) for row in rows}
    names = sorted({each for found in tags.values() for each in found})
    if name not in names:
        existing = f"existing tags are {', '.join(names)}" if names else "no run has any tag"
        msg = f"No run has the tag {name!r}; {existing}."
        raise ConfigurationError(msg)
    return lambda row: tags[row.tags].get(name)


def _tags(row: Row) -> dict[str, str]:
    return {} if row.tags is None else msgspec.json.decode(row.tags, type=dict[str, str])


def _sum(by: dict[str, str | None], rows: Sequence[Row]) -> Group:
    joules = _known_sum(row.joules for row in rows)
    costs = {row.currency for row in rows if row.currency is not None and row.cost is not None}
    train, train_doubt = _each((row.train_joules, row.train_samples, row.train_relative_uncertainty) for row in rows)
    train_token, train_token_doubt = _each(
        (row.train_token_joules, row.train_tokens, row.train_relative_uncertainty) for row in rows
    )
    predict, predict_doubt = _each((row.predict_joules, row.predict_samples, row.predict_relative_uncertainty) for row in rows)
    predict_token, predict_token_doubt = _each(
        (row.predict_token_joules, row.predict_tokens, row.predict_relative_uncertainty) for row in rows
    )
    return Group(
        by=by,
        runs=len(rows),
        started_at=min(row.started_at for row in rows),
        seconds=fsum(row.seconds for row in rows),
        kwh=None if joules is None else joules / JOULES_PER_KWH,
        kwh_unknown=sum(row.joules is None or row.incomplete for row in rows),
        relative_uncertainty=_doubt((row.joules, row.relative_uncertainty) for row in rows),
        estimated_share=ratio(_known_sum(row.estimated_joules for row in rows), joules),
        co2e_grams=_known_sum(row.co2e_grams for row in rows),
        co2e_unknown=sum(row.co2e_grams is None or row.incomplete for row in rows),
        co2e_assumed=sum(row.intensity_assumed and row.co2e_grams is not None for row in rows),
        cost={name: fsum(row.cost or 0.0 for row in rows if row.currency == name) for name in sorted(costs)},
        cost_unknown=sum(row.cost is None or row.incomplete for row in rows),
        train_joules_per_sample=train,
        train_relative_uncertainty=train_doubt,
        train_joules_per_token=train_token,
        train_token_relative_uncertainty=train_token_doubt,
        predict_joules_per_sample=predict,
        predict_relative_uncertainty=predict_doubt,
        predict_joules_per_token=predict_token,
        predict_token_relative_uncertainty=predict_token_doubt,
    )


def _known_sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return fsum(known) if known else None


def _doubt(parts: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Return the relative uncertainty of a sum whose parts' errors add up; unknown if that of a part is."""
    known = [(joules, relative) for joules, relative in parts if joules]
    errors = [joules * relative for joules, relative in known if relative is not None]
    return ratio(fsum(errors), fsum(joules for joules, _ in known)) if len(errors) == len(known) else None


def _each(parts: Iterable[tuple[float | None, int | None, float | None]]) -> tuple[float | None, float | None]:
    """Return the energy of a sample or a token in J, from that of each run's and their number, and its relative uncertainty."""
    found = list(parts)
    joules = _known_sum(joules for joules, _, _ in found)
    number = _known_sum(number for _, number, _ in found)
    return ratio(joules, number), _doubt((joules, relative) for joules, _, relative in found)
