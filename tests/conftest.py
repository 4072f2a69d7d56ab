"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest
from simulated.nvml import SimulatedDriver


@pytest.fixture(scope="session")
def _driver_library(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDriver:
    return SimulatedDriver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(_driver_library: SimulatedDriver) -> Iterator[SimulatedDriver]:
    """A simulated NVIDIA driver with one GPU of 90 W whose counter refreshes every 100 ms; the test may start it anew."""
    _driver_library.start()
    yield _driver_library
    _driver_library.end()
