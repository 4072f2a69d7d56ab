"""Energy, carbon and cost of training and inference, one callback away.

The callbacks are in ``ml_energy_callbacks.lightning``; any other loop uses :class:`EnergyMeter`. Importing this package
imports no framework, and each name below only when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ml_energy_callbacks.exceptions import EnergyError
    from ml_energy_callbacks.meter.loop import LoopDescription
    from ml_energy_callbacks.meter.meter import EnergyMeter
    from ml_energy_callbacks.record.load import load_record
    from ml_energy_callbacks.record.schema import RunRecord

__all__ = ["EnergyError", "EnergyMeter", "LoopDescription", "RunRecord", "load_record"]

_HOMES: Final = {
    "EnergyError": "exceptions",
    "EnergyMeter": "meter.meter",
    "LoopDescription": "meter.loop",
    "RunRecord": "record.schema",
    "load_ipython_extension": "meter.cell_magic",
    "load_record": "record.load",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute may be anything
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("ml-energy-callbacks")
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
