"""Rows -> what groups of runs used, by DuckDB, an optional extra."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.fleet.rows import Row
from ml_energy_callbacks.metrics import JOULES_PER_KWH

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
    """What the runs of a group used; a sum is over the runs that know it, and None where none does.

    Attributes:
        by: What the runs have in common, by the words of ``--by``; None where they do not tell it.
        runs: Number of runs.
        kwh: Energy in kWh.
        kwh_unknown: Number of runs whose energy is not known, or not of all processes and devices, so that ``kwh`` is a lower
            bound.
        relative_uncertainty: Half-width of the 95 % interval of ``kwh`` as a share of it. The runs' errors are taken to add up,
            as those of one kind of hardware do.
        estimated_share: Share of ``kwh`` that a model estimated; the rest is measured.
        co2e_grams: Emissions in g CO2e.
        co2e_unknown: Number of runs whose emissions are not known, or not of all processes and devices.
        co2e_assumed: Number of runs whose emissions are, at least in part, by the world's average: nobody named a place.
        cost: Cost of the electricity by currency; empty where none is known.
        cost_unknown: Number of runs whose cost is not known, or not of all processes and devices.
        train_joules_per_sample: Energy of a sample of training in J: the sum of joules over the sum of samples, of the runs
            that know both, compiling left out.
        train_relative_uncertainty: Half-width of its 95 % interval as a share of it.
        predict_joules_per_sample: The same of prediction.
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
    """What many runs used.

    Attributes:
        groups: In the order of what they have in common; what is not told comes last.
        total: All runs.
        repeated: How many records were of a run that another one tells, too, and were left out.
        other_versions: Files of a schema version that this release does not read.
        broken: Files that cannot be read, or are no run record.
        unlisted: Directories that could not be looked into.
    """

    groups: list[Group]
    total: Group
    repeated: int
    other_versions: list[str]
    broken: list[str]
    unlisted: list[str]


def check_by(words: Sequence[str]) -> list[str]:
    """Return what to group by, each word once.

    Raises:
        ConfigurationError: A word is not known.
    """
    for word in words:
        if word not in _COLUMNS and not (word.startswith(_ONE_TAG) and word != _ONE_TAG):
            msg = f"--by is {word!r}; give {', '.join(_COLUMNS)}, or tag:NAME for one tag's value."
            raise ConfigurationError(msg)
    return list(dict.fromkeys(words))


def _import_duckdb() -> "ModuleType":
    try:
        import duckdb  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = "A table of many runs needs DuckDB: pip install 'ml-energy-callbacks[fleet]', or name a single run."
        raise ConfigurationError(msg) from None
    module: ModuleType = duckdb
    return module


class RunTable:
    """The rows as a table in memory.

    Raises:
        ConfigurationError: DuckDB is missing.
    """

    def __init__(self) -> None:
        """Open the table, which has no rows yet."""
        self._duckdb = _import_duckdb()
        self._db: Any = self._duckdb.connect()
        columns = ", ".join(f"{name} {kind}" for name, kind in _ROW_TYPES.items())
        self._db.execute(f"CREATE TABLE runs ({columns})")

    def load(self, rows: Sequence[Row]) -> None:
        """Add rows, many at a time, as JSON, which DuckDB takes faster than values; all at once would take much memory."""
        types = msgspec.json.encode([_ROW_TYPES]).decode()
        for start in range(0, len(rows), _AT_ONCE):
            chunk = msgspec.json.encode(rows[start : start + _AT_ONCE]).decode()
            self._db.execute("INSERT INTO runs SELECT unnest(from_json(?::VARCHAR, ?), recursive := true)", [chunk, types])

    def groups(self, by: Sequence[str]) -> list[Group]:
        """Return the groups of runs that have something in common; by nothing, the one group of all runs.

        Args:
            by: Words that passed :func:`check_by`.

        Raises:
            ConfigurationError: No run has a tag that is asked for.
        """
        for word in by:
            self._check_tag(word)
        keys = "".join(f"{_key(word)} AS k{i}, " for i, word in enumerate(by))
        costs: dict[tuple[str | None, ...], dict[str, float]] = {}
        priced = "FROM runs WHERE cost IS NOT NULL GROUP BY ALL ORDER BY ALL"
        for *key, currency, cost in self._query(f"SELECT {keys}currency, sum(cost) {priced}"):
            costs.setdefault(tuple(key), {})[currency] = cost
        # Of SQL there are our own words alone, and tags' names, which are quoted.
        found = self._query(f"SELECT {keys}{_SUMS} FROM runs GROUP BY ALL ORDER BY ALL NULLS LAST")  # noqa: S608 - as said
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
        """Write the rows as CSV with a header; an unknown figure is an empty cell.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        self._write(path, lambda table: table.write_csv(str(path), header=True))

    def write_parquet(self, path: Path) -> None:
        """Write the rows as Parquet.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        self._write(path, lambda table: table.write_parquet(str(path)))

    def _write(self, path: Path, write: Callable[[Any], None]) -> None:
        try:
            write(self._db.table("runs"))
        except self._duckdb.Error as error:
            msg = f"The runs cannot be written to {path}: {str(error).splitlines()[0]}; name a file that can be written."
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
            there = f"there are: {', '.join(names)}" if names else "no run has any"
            msg = f"No run has the tag {word.removeprefix(_ONE_TAG)!r}; {there}."
            raise ConfigurationError(msg)


def _key(word: str) -> str:
    """Return the SQL expression of what to group by; a tag's name is quoted as a JSON pointer (RFC 6901) in an SQL string."""
    if not word.startswith(_ONE_TAG):
        return _COLUMNS[word]
    pointer = word.removeprefix(_ONE_TAG).replace("~", "~0").replace("/", "~1").replace("'", "''")
    return f"json_extract_string(tags, '/{pointer}')"


def _unknown(column: str) -> str:
    """Return the SQL of how many runs do not know all of something."""
    return f"count(*) FILTER ({column} IS NULL OR incomplete)"


def _relative_uncertainty(joules: str, relative: str) -> str:
    """Return the SQL of the uncertainty of a sum whose parts' errors add up; unknown where that of a part is."""
    doubtful = f"{joules} > 0 AND {relative} IS NULL"
    return f"CASE WHEN NOT bool_or({doubtful}) THEN sum({joules} * {relative}) / nullif(sum({joules}), 0) END"


_SUMS = f"""
    count(*) AS runs,
    sum(joules) / {JOULES_PER_KWH} AS kwh,
    {_unknown("joules")} AS kwh_unknown,
    {_relative_uncertainty("joules", "relative_uncertainty")} AS relative_uncertainty,
    sum(estimated_joules) / nullif(sum(joules), 0) AS estimated_share,
    sum(co2e_grams) AS co2e_grams,
    {_unknown("co2e_grams")} AS co2e_unknown,
    count(co2e_grams) FILTER (intensity_assumed) AS co2e_assumed,
    {_unknown("cost")} AS cost_unknown,
    sum(train_joules) / nullif(sum(train_samples), 0) AS train_joules_per_sample,
    {_relative_uncertainty("train_joules", "train_relative_uncertainty")} AS train_relative_uncertainty,
    sum(predict_joules) / nullif(sum(predict_samples), 0) AS predict_joules_per_sample,
    {_relative_uncertainty("predict_joules", "predict_relative_uncertainty")} AS predict_relative_uncertainty
"""
