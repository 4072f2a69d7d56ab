"""The frameworks behind one face, for the tests of what all callbacks promise.

``ML_ENERGY_FRAMEWORK`` chooses the framework; Keras's backend is Keras's own choice.
"""

import importlib
import os
from typing import Any


def load() -> Any:
    """Return the module of the framework under test."""
    return importlib.import_module(f"frameworks.{os.environ.get('ML_ENERGY_FRAMEWORK', 'lightning')}_loops")
