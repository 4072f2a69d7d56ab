"""Rows as CSV and Parquet; Parquet is written by DuckDB (an optional extra)."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.fleet.rows import Row
from ml_energy_callbacks.safe_text import csv_cell

_COLUMNS = [field.name for field in msgspec.structs.fields(Row)]
_TYPES = {str: "VARCHAR", float: "DOUBLE", int: "BIGINT", bool: "BOOLEAN"}
_AT_ONCE = 500


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV with a header; unknown values are empty cells, and no text is a formula of a spreadsheet.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for row in rows:
                writer.writerow(map(_cell, msgspec.structs.astuple(row)))
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write rows as Parquet.

    Raises:
        ConfigurationError: DuckDB is missing, or the file cannot be written.
    """
    try:
        import duckdb  # noqa: PLC0415 - an optional extra
    except ImportError:
        msg = "A Parquet file requires DuckDB: pip install 'ml-energy-callbacks[fleet]', or use --csv."
        raise ConfigurationError(msg) from None
    types = {field.name: _sql_type(field.type) for field in msgspec.structs.fields(Row)}
    db: Any = duckdb.connect()
    db.execute("SET enable_progress_bar = false")  # which a slow machine would see in the middle of the output
    db.execute(f"CREATE TABLE runs ({', '.join(f'{name} {kind}' for name, kind in types.items())})")
    # In chunks of JSON, which DuckDB reads faster than values; a single one would need much memory.
    for start in range(0, len(rows), _AT_ONCE):
        chunk = msgspec.json.encode(rows[start : start + _AT_ONCE]).decode()
        unnested = "unnest(from_json(?::VARCHAR, ?), recursive := true)"
        db.execute(f"INSERT INTO runs SELECT {unnested}", [chunk, msgspec.json.encode([types]).decode()])
    try:
        db.table("runs").write_parquet(str(path))
    except duckdb.Error as error:
        raise _unwritable(path, str(error).splitlines()[0]) from None


def _cell(value: object) -> object:
    if isinstance(value, str):
        return csv_cell(value)
    return str(value).lower() if isinstance(value, bool) else value


def _sql_type(kind: Any) -> str:  # noqa: ANN401 - a type or a union of it and None
    return next(_TYPES[part] for part in (*get_args(kind), kind) if part in _TYPES)


def _unwritable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"The runs cannot be written to {path}: {reason}; use a file that can be written.")


def check_output(path: Path) -> None:
    """Check that a file can be written, before the work starts.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        reason = _reason_against(path)
    except OSError as error:  # such as a parent folder without permission to enter it
        reason = error.strerror
    if reason is not None:
        msg = f"The runs cannot be written to {path}: {reason}; use a file in a writable folder."
        raise ConfigurationError(msg)


def _reason_against(path: Path) -> str | None:
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "permission denied"
    return None
