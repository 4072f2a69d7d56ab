"""A run record -> the formats of other programs."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_energy_callbacks.record.schema import RunRecord


class Format(StrEnum):
    """What a run can be written as."""

    CODECARBON_CSV = "codecarbon-csv"
    MODEL_CARD = "model-card"
    SCI_JSON = "sci-json"


def export(record: "RunRecord", form: Format) -> str:
    """Return a run in one of the formats.

    Raises:
        RecordError: The run does not know what the format is about.
    """
    # The names of the formats are wanted for the help of the command, too, which needs nothing of this.
    from ml_energy_callbacks.report.formats import codecarbon_csv, model_card, sci_json  # noqa: PLC0415

    writers = {Format.CODECARBON_CSV: codecarbon_csv, Format.MODEL_CARD: model_card, Format.SCI_JSON: sci_json}
    return writers[form](record)
