"""Run records for people and for other programs; each name is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ml_energy_callbacks.report.headline import summary
    from ml_energy_callbacks.report.quantities import quantity, uncertainty
    from ml_energy_callbacks.report.table import render

__all__ = ["quantity", "render", "summary", "uncertainty"]

_HOMES: Final = {"quantity": "quantities", "render": "table", "summary": "headline", "uncertainty": "quantities"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute may be anything
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
