"""Carbon intensity as a time series from a file, such as that of a supply contract or of a grid."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from ml_energy_callbacks.carbon.delimited import TextFile, header_cells, read_table
from ml_energy_callbacks.carbon.intensity import INTENSITIES, CarbonIntensity, is_intensity
from ml_energy_callbacks.carbon.provider import Quote
from ml_energy_callbacks.carbon.published import SeriesForm, series_form
from ml_energy_callbacks.exceptions import ConfigurationError, RecordError
from ml_energy_callbacks.metrics import Basis
from ml_energy_callbacks.safe_text import describe


@dataclass(frozen=True, slots=True)
class IntensitySeries:
    """Intensities that are each valid until the next one; the last is valid for as long as the one before it.

    Attributes:
        times: The start of each value, in order; stored in UTC, because Python's differences within a time zone ignore changes
            of its offset.
        values: Intensity from each time on, in g CO2e per kWh.
        location: The index, or None.
        source: Source of the values.
        fallback: Intensity outside the time of the series.
        basis: The emissions that the values include.
    """

    times: Sequence[datetime]
    values: Sequence[float]
    location: str | None
    source: str
    fallback: CarbonIntensity
    basis: Basis = "unknown"

    def __post_init__(self) -> None:
        """Reject an invalid series.

        Raises:
            ConfigurationError: It is empty, its times do not rise or have no offset, or a value is no possible intensity.
        """
        if any(time.tzinfo is None for time in self.times) or not all(map(is_intensity, self.values)):
            msg = f"The series of {self.source} is invalid; give times with an offset from UTC, and {INTENSITIES}."
            raise ConfigurationError(msg)
        object.__setattr__(self, "times", [time.astimezone(UTC) for time in self.times])
        if not self.times or len(self.times) != len(self.values) or any(b <= a for a, b in pairwise(self.times)):
            msg = (
                f"The series of {self.source} is invalid; give as many values as times, each time later than the previous one."
            )
            raise ConfigurationError(msg)

    @property
    def end(self) -> datetime:
        """End of the last value's validity."""
        last = self.times[-1]
        return last + (last - self.times[-2] if len(self.times) > 1 else timedelta(hours=1))

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant; outside the series, the fallback."""
        index = bisect_right(self.times, when) - 1
        if index < 0:
            return Quote(self.fallback, self.times[0], f"{self.source} has no value before {self.times[0].isoformat()}.")
        if when >= self.end:
            return Quote(self.fallback, None, f"{self.source} has no value from {self.end.isoformat()} on.")
        until = self.times[index + 1] if index + 1 < len(self.times) else self.end
        year = self.times[index].year
        return Quote(CarbonIntensity(self.values[index], self.location, self.source, year, basis=self.basis), until)


def load_series(path: Path, location: str | None, fallback: CarbonIntensity, now: datetime | None) -> IntensitySeries:
    """Read a series from a CSV or Parquet file.

    Its columns are ``time`` (ISO 8601 with an offset) and ``g_per_kwh``, or those of a file of Electricity Maps or NESO, whose
    times are UTC.

    Args:
        path: The file.
        location: The index; None for that of the file.
        fallback: Intensity outside the time of the series.
        now: The present time, for which the series must have a value; None if the series may be entirely in the future.

    Raises:
        ConfigurationError: The file cannot be read, is malformed, or has no value for now; the message states the line.
    """
    times: list[datetime] = []
    values: list[float] = []
    form, rows = _read_rows(path)
    zones: set[str] = set()
    for where, row in rows:
        time = _parse_time(row[form.time], where, naive=form.source is not None)
        value = _parse_value(next((row[name] for name in form.values if row[name] not in {"", None}), None), where)
        if form.zone is not None:
            zones.add(str(row[form.zone]))
            if len(zones) > 1:
                msg = f"{where}: the zone is {describe(row[form.zone])}, another one than above; give a file of one zone."
                raise ConfigurationError(msg)
        if times and time <= times[-1]:
            msg = f"{where}: {time.isoformat()} does not come after {times[-1].isoformat()}; sort the rows by time."
            raise ConfigurationError(msg)
        times.append(time)
        values.append(value)
    if not times:
        msg = f"{path} contains no value; give rows of {form.time} and {form.values[0]}."
        raise ConfigurationError(msg)
    place = location or next(iter(zones), form.location)
    source = path.name if form.source is None else f"{form.source} ({path.name}, times in UTC)"
    series = IntensitySeries(times, values, place, source, fallback, form.basis)
    if now is not None and not times[0] <= now < series.end:
        msg = (
            f"{path} covers {times[0].isoformat()} to {series.end.isoformat()}, but not now, "
            f"{now.isoformat(timespec='seconds')}: give a series that covers the run."
        )
        raise ConfigurationError(msg)
    return series


_Row = tuple[str, Mapping[str, Any]]
"""Where a row is, for a message; and its cells."""


def _read_rows(path: Path) -> tuple[SeriesForm, Sequence[_Row]]:
    """Return the form of a file and its rows, after checking that it has the columns."""
    try:
        rows, columns = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except RecordError as error:
        raise ConfigurationError(str(error)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        msg = f"The series of carbon intensities {path} cannot be read: {reason}"
        raise ConfigurationError(msg) from None
    form = series_form(columns)
    if missing := {form.time, *form.values} - set(columns):
        msg = f"{path} has no column {' and no column '.join(sorted(missing))}; it must have {form.time} and {form.values[0]}."
        raise ConfigurationError(msg)
    return form, rows


def _read_csv(path: Path) -> tuple[list[_Row], Sequence[str]]:
    file = TextFile(path)
    columns = header_cells(next(iter(file.head()), ""))

    def refuse(line: int, reason: str) -> None:
        raise file.error(line, reason.removesuffix(" and is left out"))

    rows: list[_Row] = []
    for row in read_table(file, lambda cells: list(cells) == columns, refuse):
        cells = {name: cell.replace(",", ".") for name, cell in row.cells.items()} if row.comma else row.cells
        rows.append((f"{path}, line {row.line}", cells))
    return rows, columns


def _read_parquet(path: Path) -> tuple[list[_Row], Sequence[str]]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = f"Reading {path} requires pyarrow: pip install 'ml-energy-callbacks[parquet]', or give a CSV file."
        raise ConfigurationError(msg) from None
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise OSError(str(error).splitlines()[0]) from None
    return [(f"{path}, value {number}", row) for number, row in enumerate(table.to_pylist(), 1)], table.column_names


def _parse_time(text: Any, where: str, *, naive: bool) -> datetime:  # noqa: ANN401 - from the file
    """Return a time in UTC; ``naive`` says whether one without an offset is UTC, or refused."""
    try:
        time = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
    except ValueError:
        msg = f"{where}: {text!r} is not a time; write it as 2026-11-25T13:00:00+01:00."
        raise ConfigurationError(msg) from None
    if time.tzinfo is None and naive:
        return time.replace(tzinfo=UTC)
    if time.tzinfo is None:
        msg = f"{where}: {text} has no offset from UTC; write it as 2026-11-25T13:00:00+01:00, or with Z for UTC."
        raise ConfigurationError(msg)
    return time.astimezone(UTC)


def _parse_value(text: Any, where: str) -> float:  # noqa: ANN401 - from the file
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not is_intensity(value):
        msg = f"{where}: {describe(text)} is not an intensity; give {INTENSITIES}."
        raise ConfigurationError(msg)
    return value
