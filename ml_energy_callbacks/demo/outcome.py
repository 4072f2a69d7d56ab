"""What a demonstration yields."""

from dataclasses import dataclass
from pathlib import Path

from ml_energy_callbacks.record.schema import RunRecord


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demonstration yields.

    Attributes:
        accuracy: Share of the test images that were told right.
        record: The run's record.
        record_path: Where it was written.
    """

    accuracy: float
    record: RunRecord
    record_path: Path | str | None
