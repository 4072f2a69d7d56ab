"""Exports a run record in the format of another program."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_energy_callbacks.record.schema import RunRecord


class Format(StrEnum):
    """Formats of the export."""

    CODECARBON_CSV = "codecarbon-csv"
    MODEL_CARD = "model-card"
    SCI_JSON = "sci-json"


def export(record: "RunRecord", form: Format) -> str:
    """Return a run in one of the formats.

    Raises:
        RecordError: The record lacks a value that the format requires.
    """
    # Imported here, because the command's help needs only the names of the formats.
    from ml_energy_callbacks.report.formats import codecarbon_csv, model_card, sci_json  # noqa: PLC0415

    writers = {Format.CODECARBON_CSV: codecarbon_csv, Format.MODEL_CARD: model_card, Format.SCI_JSON: sci_json}
    return writers[form](record)
