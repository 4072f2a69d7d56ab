"""Exports run records in the formats of other programs, catalogues and regulators."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ml_energy_callbacks.record.schema import RunRecord
    from ml_energy_callbacks.report.export.facts import Facts
    from ml_energy_callbacks.report.export.subject import Lifetime


class Format(StrEnum):
    """Formats of the export."""

    CODECARBON_CSV = "codecarbon-csv"
    MODEL_CARD = "model-card"
    SCI_JSON = "sci-json"
    SCI_AI = "sci-ai"
    CYCLONEDX = "cyclonedx"
    CYCLONEDX_1_7 = "cyclonedx-1.7"
    SPDX = "spdx"
    BOAMPS = "boamps"
    EU_GPAI = "eu-gpai"
    EU_GPAI_JSON = "eu-gpai-json"
    AI_ENERGY_SCORE = "ai-energy-score"
    AI_ENERGY_SCORE_JSON = "ai-energy-score-json"


def export(
    records: "RunRecord | Sequence[RunRecord]",
    form: Format,
    facts: "Facts | None" = None,
    *,
    lifetime: "Lifetime | None" = None,
) -> str:
    """Return all runs of a model in one of the formats.

    Args:
        records: The record of a run, or those of all runs of a model: failed, resumed and tuning ones count. Several records of
            one run count once, and so does a run inside of a measured command.
        form: The format.
        facts: What the records do not know.
        lifetime: The predictions over the lifetime of the model, of which these records are the training runs: they count as
            energy of inference.

    Raises:
        RecordError: The records lack a value that the format requires.
        ConfigurationError: A fact that the format requires is not given, or the format has no place for a lifetime.
    """
    # Imported here, because the command's help needs only the names of the formats.
    from ml_energy_callbacks.report.export.subject import subject_of  # noqa: PLC0415
    from ml_energy_callbacks.report.export.writers import WRITERS, check_lifetime  # noqa: PLC0415

    check_lifetime(form, lifetime)
    return WRITERS[form](subject_of(records, facts, lifetime))
