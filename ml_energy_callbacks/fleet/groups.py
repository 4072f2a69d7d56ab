"""Groups and sums of rows with DuckDB (an optional extra)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.fleet.rows import Row
from ml_energy_callbacks.metrics import JOULES_PER_KWH
from ml_energy_callbacks.safe_text import csv_cell, in_texts

if TYPE_CHECKING:
    from types import ModuleType

_COLUMNS: Mapping[str, str] = {
    "tag": "tags",
    "model": "model",
    "host": "host",
    "month": "month",
    "framework": "framework",
    "status": "status",
}
_ONE_TAG = "tag:"

_TYPES = {str: "VARCHAR", float: "DOUBLE", int: "BIGINT", bool: "BOOLEAN"}


def _sql_type(kind: Any) -> str:  # noqa: ANN401 - a type or a union of it and None
    return next(_TYPES[part] for part in (*get_args(kind), kind) if part in _TYPES)


_ROW_TYPES = {field.name: _sql_type(field.type) for field in msgspec.structs.fields(Row)}

_AT_ONCE = 500


class Group(msgspec.Struct, kw_only=True, frozen=True):
    """Sums over the runs of a group; a sum includes the runs whose value is known, and is None if none is.

    Attributes:
        by: The common values of the runs, by the words of ``--by``; None if the runs do not have one.
        runs: Number of runs.
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
        predict_joules_per_sample: The same for prediction.
        predict_relative_uncertainty: The same.
    """

    by: dict[str, str | None]
    runs: int
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
    predict_joules_per_sample: float | None
    predict_relative_uncertainty: float | None


class Fleet(msgspec.Struct, kw_only=True, frozen=True):
    """Energy of many runs.

    Attributes:
        groups: Sorted by their common values; unknown values come last.
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
        if word not in _COLUMNS and not (word.startswith(_ONE_TAG) and word != _ONE_TAG):
            msg = f"--by is {word!r}; use {', '.join(_COLUMNS)}, or tag:NAME for the value of one tag."
            raise ConfigurationError(msg)
    return list(dict.fromkeys(words))


def _import_duckdb() -> "ModuleType":
    try:
        import duckdb  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = "A table of many runs requires DuckDB: pip install 'ml-energy-callbacks[fleet]', or pass a single run."
        raise ConfigurationError(msg) from None
    module: ModuleType = duckdb
    return module


class RunTable:
    """The rows of the runs as a table in memory.

    Raises:
        ConfigurationError: DuckDB is missing.
    """

    def __init__(self) -> None:
        """Create an empty table."""
        self._duckdb = _import_duckdb()
        self._db: Any = self._duckdb.connect()
        self._db.execute("SET enable_progress_bar = false")  # which a slow machine would see in the middle of the output
        self._rows: list[Row] = []
        self._create("runs", ())

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        self._rows += rows
        self._insert("runs", rows)

    def _create(self, table: str, rows: Sequence[Row]) -> None:
        columns = ", ".join(f"{name} {kind}" for name, kind in _ROW_TYPES.items())
        self._db.execute(f"CREATE OR REPLACE TABLE {table} ({columns})")
        self._insert(table, rows)

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        """Insert rows in chunks of JSON, which DuckDB reads faster than values; a single chunk would need much memory."""
        types = msgspec.json.encode([_ROW_TYPES]).decode()
        for start in range(0, len(rows), _AT_ONCE):
            chunk = msgspec.json.encode(rows[start : start + _AT_ONCE]).decode()
            unnested = "unnest(from_json(?::VARCHAR, ?), recursive := true)"
            self._db.execute(f"INSERT INTO {table} SELECT {unnested}", [chunk, types])

    def group_rows(self, by: Sequence[str]) -> list[Group]:
        """Return groups of runs with common values; without words, one group of all runs.

        Args:
            by: Words that passed :func:`check_by`.

        Raises:
            ConfigurationError: No run has a requested tag.
        """
        for word in by:
            self._check_tag(word)
        keys = "".join(f"{_group_key(word)} AS k{i}, " for i, word in enumerate(by))
        costs: dict[tuple[str | None, ...], dict[str, float]] = {}
        priced = "FROM runs WHERE cost IS NOT NULL GROUP BY ALL ORDER BY ALL"
        for *key, currency, cost in self._query(f"SELECT {keys}currency, sum(cost) {priced}"):
            costs.setdefault(tuple(key), {})[currency] = cost
        # The SQL consists of constants and of tag names, which are quoted.
        found = self._query(f"SELECT {keys}{_SUMS} FROM runs GROUP BY ALL ORDER BY ALL NULLS LAST")  # noqa: S608 - see above
        names = [column[0] for column in self._db.description][len(by) :]
        return [
            Group(
                by=dict(zip(by, values, strict=False)),
                cost=costs.get(values[: len(by)], {}),
                **dict(zip(names, values[len(by) :], strict=True)),
            )
            for values in found
        ]

    def write_csv(self, path: Path) -> None:
        """Write the rows as CSV with a header; unknown values are empty cells, and no text is a formula of a spreadsheet.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        self._create("cells", [in_texts(row, csv_cell) for row in self._rows])
        self._write("cells", path, lambda table: table.write_csv(str(path), header=True))

    def write_parquet(self, path: Path) -> None:
        """Write the rows as Parquet.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        self._write("runs", path, lambda table: table.write_parquet(str(path)))

    def _write(self, table: str, path: Path, write: Callable[[Any], None]) -> None:
        try:
            write(self._db.table(table))
        except self._duckdb.Error as error:
            msg = f"The runs cannot be written to {path}: {str(error).splitlines()[0]}; use a file that can be written."
            raise ConfigurationError(msg) from None

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._db.execute(sql).fetchall()
        return rows

    def _check_tag(self, word: str) -> None:
        if not word.startswith(_ONE_TAG):
            return
        found = self._query("SELECT DISTINCT unnest(json_keys(tags)) AS name FROM runs ORDER BY name")
        names = [name for (name,) in found]
        if word.removeprefix(_ONE_TAG) not in names:
            existing = f"existing tags are {', '.join(names)}" if names else "no run has any tag"
            msg = f"No run has the tag {word.removeprefix(_ONE_TAG)!r}; {existing}."
            raise ConfigurationError(msg)


def _group_key(word: str) -> str:
    """Return the SQL expression to group by; a tag's name is quoted as a JSON pointer (RFC 6901) in an SQL string."""
    if not word.startswith(_ONE_TAG):
        return _COLUMNS[word]
    pointer = word.removeprefix(_ONE_TAG).replace("~", "~0").replace("/", "~1").replace("'", "''")
    return f"json_extract_string(tags, '/{pointer}')"


def _count_unknown(column: str) -> str:
    """Return the SQL for the number of runs whose value is unknown or incomplete."""
    return f"count(*) FILTER ({column} IS NULL OR incomplete)"


def _relative_uncertainty(joules: str, relative: str) -> str:
    """Return the SQL for the uncertainty of a sum whose parts' errors add up; unknown if that of a part is."""
    undefined = f"{joules} > 0 AND {relative} IS NULL"
    return f"CASE WHEN NOT bool_or({undefined}) THEN sum({joules} * {relative}) / nullif(sum({joules}), 0) END"


_SUMS = f"""
    count(*) AS runs,
    sum(joules) / {JOULES_PER_KWH} AS kwh,
    {_count_unknown("joules")} AS kwh_unknown,
    {_relative_uncertainty("joules", "relative_uncertainty")} AS relative_uncertainty,
    sum(estimated_joules) / nullif(sum(joules), 0) AS estimated_share,
    sum(co2e_grams) AS co2e_grams,
    {_count_unknown("co2e_grams")} AS co2e_unknown,
    count(co2e_grams) FILTER (intensity_assumed) AS co2e_assumed,
    {_count_unknown("cost")} AS cost_unknown,
    sum(train_joules) / nullif(sum(train_samples), 0) AS train_joules_per_sample,
    {_relative_uncertainty("train_joules", "train_relative_uncertainty")} AS train_relative_uncertainty,
    sum(predict_joules) / nullif(sum(predict_samples), 0) AS predict_joules_per_sample,
    {_relative_uncertainty("predict_joules", "predict_relative_uncertainty")} AS predict_relative_uncertainty
"""
