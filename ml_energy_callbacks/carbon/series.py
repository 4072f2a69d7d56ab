"""Carbon intensity as a time series from a file: of a supply contract, of a grid, or of a day to be replayed."""

import csv
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.provider import Quote
from ml_energy_callbacks.exceptions import ConfigurationError

TIME, INTENSITY = "time", "g_per_kwh"


@dataclass(frozen=True, slots=True)
class IntensitySeries:
    """Intensities, each of which holds until the next begins, and the last for as long as the one before it.

    Attributes:
        times: When each begins, in order; kept in UTC, as Python takes differences inside one time zone by the wall clock.
        values: Intensity from then on, in g CO2e per kWh.
        location: What the place is called, or None.
        source: Where the values come from.
        fallback: What holds where the series says nothing.
    """

    times: Sequence[datetime]
    values: Sequence[float]
    location: str | None
    source: str
    fallback: CarbonIntensity

    def __post_init__(self) -> None:
        """Refuse what is no series.

        Raises:
            ConfigurationError: It is empty, its times do not rise or have no offset, or a value is no number from 0 upwards.
        """
        if any(time.tzinfo is None for time in self.times) or not all(isfinite(v) and v >= 0 for v in self.values):
            msg = f"The intensities of {self.source} need times with an offset from UTC, and numbers from 0 upwards."
            raise ConfigurationError(msg)
        object.__setattr__(self, "times", [time.astimezone(UTC) for time in self.times])
        if not self.times or len(self.times) != len(self.values) or any(b <= a for a, b in pairwise(self.times)):
            msg = f"The intensities of {self.source} are no series: give as many values as times, each time after the last."
            raise ConfigurationError(msg)

    @property
    def end(self) -> datetime:
        """When the last value ends."""
        last = self.times[-1]
        return last + (last - self.times[-2] if len(self.times) > 1 else timedelta(hours=1))

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant; outside the series, the fallback."""
        place = bisect_right(self.times, when) - 1
        if place < 0:
            return Quote(self.fallback, self.times[0], f"{self.source} says nothing before {self.times[0].isoformat()}.")
        if when >= self.end:
            return Quote(self.fallback, None, f"{self.source} says nothing from {self.end.isoformat()} on.")
        until = self.times[place + 1] if place + 1 < len(self.times) else self.end
        return Quote(CarbonIntensity(self.values[place], self.location, self.source, self.times[place].year), until)


def load_series(path: Path, location: str | None, fallback: CarbonIntensity, now: datetime | None) -> IntensitySeries:
    """Read a series from a CSV or Parquet file with the columns ``time`` (ISO 8601 with an offset) and ``g_per_kwh``.

    Args:
        path: The file.
        location: What the place is called.
        fallback: What holds where the series says nothing.
        now: The series has to say something then; None where it may be all ahead.

    Raises:
        ConfigurationError: It cannot be read, is malformed, or says nothing about now; the message names the line.
    """
    times: list[datetime] = []
    values: list[float] = []
    for number, row in enumerate(_rows(path), 1):
        where = f"{path}, value {number}"
        time, value = _time(row[TIME], where), _value(row[INTENSITY], where)
        if times and time <= times[-1]:
            msg = f"{where}: {time.isoformat()} does not come after {times[-1].isoformat()}; sort the rows by time."
            raise ConfigurationError(msg)
        times.append(time)
        values.append(value)
    if not times:
        msg = f"{path} holds no value; give rows of {TIME} and {INTENSITY}."
        raise ConfigurationError(msg)
    series = IntensitySeries(times, values, location, path.name, fallback)
    if now is not None and not times[0] <= now < series.end:
        msg = (
            f"{path} covers {times[0].isoformat()} to {series.end.isoformat()}, and not now, "
            f"{now.isoformat(timespec='seconds')}: give a series that covers the run."
        )
        raise ConfigurationError(msg)
    return series


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    """Return the rows of a file, which have both columns."""
    try:
        rows, columns = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        msg = f"The series of carbon intensities {path} cannot be read: {reason}"
        raise ConfigurationError(msg) from None
    if missing := {TIME, INTENSITY} - set(columns):
        msg = f"{path} has no column {' and no column '.join(sorted(missing))}; it needs {TIME} and {INTENSITY}."
        raise ConfigurationError(msg)
    return rows


def _csv(path: Path) -> tuple[list[dict[str, Any]], Sequence[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader), reader.fieldnames or ()


def _parquet(path: Path) -> tuple[list[dict[str, Any]], Sequence[str]]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = f"Reading {path} needs pyarrow: pip install 'ml-energy-callbacks[parquet]', or give a CSV file."
        raise ConfigurationError(msg) from None
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise OSError(str(error).splitlines()[0]) from None
    return table.to_pylist(), table.column_names


def _time(text: Any, where: str) -> datetime:  # noqa: ANN401 - as the file has it
    try:
        time = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
    except ValueError:
        msg = f"{where}: {text!r} is no time; write it as 2026-11-25T13:00:00+01:00."
        raise ConfigurationError(msg) from None
    if time.tzinfo is None:
        msg = f"{where}: {text} has no offset from UTC; write it as 2026-11-25T13:00:00+01:00, or with Z for UTC."
        raise ConfigurationError(msg)
    return time.astimezone(UTC)


def _value(text: Any, where: str) -> float:  # noqa: ANN401 - as the file has it
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not (isfinite(value) and value >= 0):
        msg = f"{where}: {text!r} is no intensity; give grams of CO2e per kWh, from 0 upwards."
        raise ConfigurationError(msg)
    return value
