"""A process that has imported what examples and pages import, from which those are forked."""

import os
from collections.abc import Iterator

import pytest
from forked import Warm, warm

IMPORTED = (
    "sklearn.datasets",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "scipy.ndimage",
    "rich.console",
    "rich.table",
    "keras",
    "ml_energy_callbacks.demo.lightning",
    "ml_energy_callbacks.keras",
    "ml_energy_callbacks.inference",
    "ml_energy_callbacks.report",
)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """What runs programs that have torch, Lightning and Keras imported."""
    # On a busy machine torch's threads wait for each other in busy loops, for the smallest of networks.
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    with warm(tmp_path_factory.mktemp("programs"), *IMPORTED, environment=environment) as process:
        yield process
