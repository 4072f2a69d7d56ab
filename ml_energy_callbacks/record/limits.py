"""The size of a record, which is written again and again; pure."""

from msgspec.structs import replace

from ml_energy_callbacks.record.epochs import limit_epochs
from ml_energy_callbacks.record.power import limit_power
from ml_energy_callbacks.record.schema import RunRecord


def limit_size(record: RunRecord) -> RunRecord:
    """Return the record with so few epochs and slices of power that its file stays below 1 MB, however long the run is."""
    return replace(record, epochs=limit_epochs(record.epochs), power=limit_power(record.power))
