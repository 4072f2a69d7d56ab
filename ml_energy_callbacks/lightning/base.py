"""The callbacks' base class: the ``Callback`` of each of Lightning's packages that is installed."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Callback
    from pytorch_lightning.callbacks import Timer
    from pytorch_lightning.utilities import rank_zero_info
else:
    # Each package's trainer accepts only callbacks derived from its own class: ours are derived from both.
    _PACKAGES = ("pytorch_lightning", "lightning.pytorch")
    _found = [importlib.import_module(name) for name in _PACKAGES if importlib.util.find_spec(name.partition(".")[0])]
    if not _found:
        _msg = "ml_energy_callbacks.lightning needs PyTorch Lightning: pip install 'ml-energy-callbacks[lightning]'"
        raise ImportError(_msg)
    Callback = type("Callback", tuple(package.Callback for package in _found), {})
    Timer = tuple(package.callbacks.Timer for package in _found)
    rank_zero_info = importlib.import_module(f"{_found[0].__name__}.utilities").rank_zero_info

__all__ = ["Callback", "Timer", "rank_zero_info"]
