"""What a record asks of layers above it, which are imported only then: ``report`` shows it, and a replay verifies it."""

import importlib
from typing import Any


def from_above(module: str, name: str) -> Any:  # noqa: ANN401 - a function of any kind
    """Return a function of a module of this package; importing a record imports none of those above it."""
    return getattr(importlib.import_module(f"ml_energy_callbacks.{module}"), name)


def shown_by(module: str, name: str) -> Any:  # noqa: ANN401 - as above
    """Return a function of a module of ``ml_energy_callbacks.report``."""
    return from_above(f"report.{module}", name)
