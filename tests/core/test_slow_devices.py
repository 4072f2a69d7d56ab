"""A device that is slow to answer costs no other device a joule."""

import threading
import time
from collections.abc import Iterator

import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.drivers.nvml import driver_of
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing.nvml import SimulatedDriver

pytestmark = pytest.mark.xdist_group("nvml")  # one worker compiles the driver

SLOW = 1
WATTS = 100.0


@pytest.fixture(autouse=True)
def gpus(driver: SimulatedDriver) -> Iterator[None]:
    """Four GPUs, one of them without a counter; after the test, none is slow."""
    driver_of.cache_clear()
    driver.start(gpus=4, watts=WATTS)
    driver.set_counter(False, 2)
    before = set(threading.enumerate())
    yield
    driver.set_latency(0, SLOW)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)


def readers() -> int:
    return sum(thread.name == "ml-energy-sampler-quick" for thread in threading.enumerate())


def meter() -> EnergyMeter:
    return EnergyMeter(backends=[NvmlBackend({})], carbon_intensity=1, verbose=False)


@pytest.mark.parametrize("latency_s", [0.4, 2.0])
def test_a_slow_gpu_costs_no_other_gpu_a_joule(driver: SimulatedDriver, latency_s: float) -> None:
    with meter() as m:
        began = monotonic_clock()
        time.sleep(0.5)
        driver.set_latency(latency_s, SLOW)
        while monotonic_clock() - began < 4e9:
            time.sleep(0.05)
        assert readers() > 1
    assert m.record.total.seconds > 4
    assert len(m.record.devices) == 4
    for i, device in enumerate(m.record.devices):
        if i != SLOW:
            assert device.missing_s < 1
            assert device.joules == pytest.approx(WATTS * (m.record.total.seconds - device.missing_s), rel=0.03)


def test_a_gpu_that_hangs_at_the_end_costs_no_other_gpu_a_joule(driver: SimulatedDriver) -> None:
    with meter() as m:
        time.sleep(1.0)
        driver.set_latency(4, SLOW)
        time.sleep(0.1)  # too short to be noticed
    assert any("did not respond" in warning for warning in m.record.warnings)
    for i, device in enumerate(m.record.devices):
        if i != SLOW:
            assert device.missing_s < 0.5  # a busy machine may begin late
            assert device.joules == pytest.approx(WATTS * (m.record.total.seconds - device.missing_s), rel=0.03)


def test_a_gpu_that_is_slow_from_the_start_costs_no_other_gpu_its_checks(driver: SimulatedDriver) -> None:
    driver.set_latency(0.6, SLOW)
    driver.set_counter_rate(0, 3)
    with meter() as m:
        time.sleep(0.5)
    assert m.record.devices[3].method == "power_integration"
    assert "is frozen" in (m.record.devices[3].note or "")
