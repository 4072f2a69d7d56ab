"""The writer of each format."""

from collections.abc import Callable, Mapping
from functools import partial

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.report.export import Format
from ml_energy_callbacks.report.export.ai_energy_score import ai_energy_score_csv, ai_energy_score_json
from ml_energy_callbacks.report.export.boamps import boamps
from ml_energy_callbacks.report.export.codecarbon_csv import codecarbon_csv
from ml_energy_callbacks.report.export.cyclonedx import cyclonedx
from ml_energy_callbacks.report.export.eu_gpai import eu_gpai_json, eu_gpai_markdown
from ml_energy_callbacks.report.export.model_card import model_card
from ml_energy_callbacks.report.export.sci import sci_json
from ml_energy_callbacks.report.export.sci_ai import sci_ai
from ml_energy_callbacks.report.export.spdx import spdx
from ml_energy_callbacks.report.export.subject import Lifetime, Subject

WRITERS: Mapping[Format, Callable[[Subject], str]] = {
    Format.CODECARBON_CSV: codecarbon_csv,
    Format.MODEL_CARD: model_card,
    Format.SCI_JSON: sci_json,
    Format.SCI_AI: sci_ai,
    Format.CYCLONEDX: partial(cyclonedx, version="1.6"),
    Format.CYCLONEDX_1_7: partial(cyclonedx, version="1.7"),
    Format.SPDX: spdx,
    Format.BOAMPS: boamps,
    Format.EU_GPAI: eu_gpai_markdown,
    Format.EU_GPAI_JSON: eu_gpai_json,
    Format.AI_ENERGY_SCORE: ai_energy_score_csv,
    Format.AI_ENERGY_SCORE_JSON: ai_energy_score_json,
}

_WITH_LIFETIME = {Format.CYCLONEDX, Format.CYCLONEDX_1_7, Format.SPDX, Format.EU_GPAI, Format.EU_GPAI_JSON}
"""The formats that have a place for predictions that were not made yet."""


def check_lifetime(form: Format, lifetime: Lifetime | None) -> None:
    """Refuse a lifetime where the format has no place for it.

    Raises:
        ConfigurationError: It has none.
    """
    if lifetime is not None and form not in _WITH_LIFETIME:
        msg = (
            f"{form} has no place for predictions that were not made: leave out --predict, --per-day and --days, and pass the "
            "run of predictions among the others."
        )
        raise ConfigurationError(msg)
