"""A training with one of the Lightning packages, where hardly anything else is installed: alone.py PACKAGE FOLDER."""

import importlib.util
import sys
from pathlib import Path

from lightning_models import PACKAGES, loader, module, trainer

from ml_energy_callbacks.lightning import EnergyBudget, EnergyCallback


def main(package: str, folder: Path) -> None:
    """Fit, with a logger of Lightning's own choice, and test."""
    (other,) = set(PACKAGES) - {package}
    for name in (other.partition(".")[0], "tensorboard", "tensorflow", "transformers", "keras"):
        assert importlib.util.find_spec(name) is None
    t, m = trainer(folder, [EnergyCallback(), EnergyBudget(kwh=1)], package, logger=True), module(package)
    t.fit(m, loader(), loader(8))
    t.test(m, loader(8), verbose=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
