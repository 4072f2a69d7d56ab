"""What several tests of the core use."""

import pytest

from ml_energy_callbacks import EnergyMeter, RunRecord


@pytest.fixture(scope="module")
def empty() -> RunRecord:
    """A record without devices and stages."""
    with EnergyMeter(backends=[], carbon_intensity=100, verbose=False) as meter:
        pass
    return meter.record
