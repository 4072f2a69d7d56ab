"""Energy of many runs, in groups."""

from ml_energy_callbacks.fleet.groups import Fleet, Group, check_by, group_rows
from ml_energy_callbacks.fleet.output import check_output, write_csv, write_parquet
from ml_energy_callbacks.fleet.reading import Runs, read_each, read_runs
from ml_energy_callbacks.fleet.rows import Row
from ml_energy_callbacks.fleet.table import file_notes, render_fleet
from ml_energy_callbacks.job.merge import merge_jobs
from ml_energy_callbacks.record.find import RecordFile, find_files, is_run

__all__ = [
    "Fleet",
    "Group",
    "RecordFile",
    "Row",
    "Runs",
    "check_by",
    "check_output",
    "file_notes",
    "find_files",
    "group_rows",
    "is_run",
    "merge_jobs",
    "read_each",
    "read_runs",
    "render_fleet",
    "write_csv",
    "write_parquet",
]
