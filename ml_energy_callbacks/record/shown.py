"""How a record shows itself: the package ``report``, a layer above, is imported when that is asked for."""

import importlib
from typing import Any


def shown_by(module: str, name: str) -> Any:  # noqa: ANN401 - a function of any kind
    """Return a function of a module of ``ml_energy_callbacks.report``; importing a record imports none of them."""
    return getattr(importlib.import_module(f"ml_energy_callbacks.report.{module}"), name)
