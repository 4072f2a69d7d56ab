"""The writer of each format."""

from collections.abc import Callable, Mapping
from functools import partial

from ml_energy_callbacks.report.export import Format
from ml_energy_callbacks.report.export.codecarbon_csv import codecarbon_csv
from ml_energy_callbacks.report.export.cyclonedx import cyclonedx
from ml_energy_callbacks.report.export.eu_gpai import eu_gpai_json, eu_gpai_markdown
from ml_energy_callbacks.report.export.model_card import model_card
from ml_energy_callbacks.report.export.sci import sci_json
from ml_energy_callbacks.report.export.subject import Subject

WRITERS: Mapping[Format, Callable[[Subject], str]] = {
    Format.CODECARBON_CSV: codecarbon_csv,
    Format.MODEL_CARD: model_card,
    Format.SCI_JSON: sci_json,
    Format.CYCLONEDX: partial(cyclonedx, version="1.6"),
    Format.CYCLONEDX_1_7: partial(cyclonedx, version="1.7"),
    Format.EU_GPAI: eu_gpai_markdown,
    Format.EU_GPAI_JSON: eu_gpai_json,
}
