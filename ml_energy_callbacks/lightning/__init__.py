"""Callbacks for PyTorch Lightning, for trainers of ``pytorch_lightning`` and of ``lightning.pytorch``."""

from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.lightning import control, energy_callback
from ml_energy_callbacks.lightning.base import adopt_imported

if TYPE_CHECKING:
    from ml_energy_callbacks.lightning.control import EnergyBudget, EnergyEarlyStopping
    from ml_energy_callbacks.lightning.energy_callback import EnergyCallback

__all__ = ["EnergyBudget", "EnergyCallback", "EnergyEarlyStopping"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class
    """Return a public class, once it is a callback of each package imported by now: LightningCLI checks the class itself."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    adopt_imported()
    return getattr(energy_callback if hasattr(energy_callback, name) else control, name)
