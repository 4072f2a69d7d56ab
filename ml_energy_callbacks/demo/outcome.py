"""The result of a demonstration."""

from dataclasses import dataclass
from pathlib import Path

from ml_energy_callbacks.record.schema import RunRecord


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a demonstration.

    Attributes:
        accuracy: Share of the test images that were classified correctly.
        record: The run's record.
        record_path: Path or URL of the record, or None.
    """

    accuracy: float
    record: RunRecord
    record_path: Path | str | None
