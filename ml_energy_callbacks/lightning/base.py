"""The callbacks' base class, which is that of each of Lightning's packages that the program has imported.

A package's trainer accepts only callbacks derived from its own class. Importing a package has effects on the other one: it
redirects the messages of both to its own logger. Of two that are installed, none is therefore imported that the program does
not use.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

_PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def _imported() -> list[Any]:
    """Return the packages that the program has imported so far."""
    return [sys.modules[name] for name in _PACKAGES if hasattr(sys.modules.get(name), "Callback")]


def _import_one() -> list[Any]:
    """Import the first package that is installed."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name.partition(".")[0]):
            return [importlib.import_module(name)]
    msg = "ml_energy_callbacks.lightning needs PyTorch Lightning: pip install 'ml-energy-callbacks[lightning]'"
    raise ImportError(msg)


if TYPE_CHECKING:
    from pytorch_lightning import Callback
else:
    Callback = type("Callback", tuple(package.Callback for package in _imported() or _import_one()), {})


__all__ = ["Callback", "adopt_imported", "timers"]


def adopt_imported() -> None:
    """Derive the base class from the package, too, that the program has imported since."""
    bases = tuple(package.Callback for package in _imported())
    if Callback.__bases__ != bases:
        Callback.__bases__ = bases


def timers() -> tuple[Any, ...]:
    """Return the class ``Timer`` of each package that the program has imported."""
    return tuple(package.callbacks.Timer for package in _imported())
