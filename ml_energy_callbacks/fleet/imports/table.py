"""Imported runs as a table for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from ml_energy_callbacks.metrics import JOULES_PER_WH
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report.fitted_table import Column, FittedTable
from ml_energy_callbacks.report.quantities import at_least, column, time_column
from ml_energy_callbacks.safe_text import printable


def render_imports(records: Sequence[RunRecord]) -> FittedTable:
    """Return a table with a row for each run: where it comes from, its totals, and where its record is."""
    totals = [record.total for record in records]
    sources = [record.imported for record in records]
    time_unit, times = time_column([total.seconds for total in totals])
    unit, energies = column([None if total.joules is None else total.joules / JOULES_PER_WH for total in totals], "Wh")
    gram_unit, grams = column([total.co2e_grams for total in totals], "g CO2e")
    least = [at_least(text, lower_bound=record.lower_bound) for text, record in zip(energies, records, strict=True)]
    folders = [Path(record.run.record_path or "").parent.name for record in records]
    return FittedTable(
        [
            Column("record", [printable(name) for name in folders], left=True, narrowest=20),
            Column("tool", [printable(record.run.framework) for record in records], left=True, rank=5),
            Column("line", ["" if source is None else f"{source.line:,}" for source in sources], rank=1),
            Column("rows", ["" if source is None else f"{source.rows:,}" for source in sources], rank=2),
            Column("started", [record.run.started_at[:16].replace("T", " ") for record in records], rank=3),
            Column(f"time\n{time_unit}", times, rank=7),
            Column(f"energy\n{unit}", least),
            Column(f"emissions\n{gram_unit}", grams, rank=4),
        ]
    )
