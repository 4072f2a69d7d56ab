"""NVIDIA GPUs through the real nvidia-ml-py over a simulated driver."""

import time

import pytest
from simulated.nvml import SimulatedDriver

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError

NOT_SUPPORTED, DRIVER_NOT_LOADED, GPU_IS_LOST = 3, 9, 15


def meter() -> EnergyMeter:
    return EnergyMeter(devices=["nvml:*"], carbon_intensity=100, verbose=False)


@pytest.mark.parametrize("period_s", [0.1, 0.02])
def test_a_runs_total_is_the_truth(driver: SimulatedDriver, period_s: float) -> None:
    driver.start(period_s=period_s)
    with meter() as m:
        start = driver.true_joules()
        for i in range(30):
            driver.set_power(90 if i % 2 else 420)
            time.sleep(0.1)
        end = driver.true_joules()
    total = m.record.total.joules
    assert total is not None
    assert total == pytest.approx(end - start, rel=0.001, abs=2 * period_s * 90)
    assert m.record.total.provenance == "measured"
    assert m.record.devices[0].update_period_s == pytest.approx(period_s, rel=0.01)
    assert driver.users == 0  # every nvmlInit was shut down


def test_gpus_add_up(driver: SimulatedDriver) -> None:
    driver.start(gpus=8, watts=300)
    with meter() as m:
        time.sleep(0.5)
    assert m.record.total.joules == pytest.approx(8 * 300 * m.record.total.seconds, rel=0.01)
    assert len(m.record.devices) == 8


def test_a_window_is_told_once_the_counter_has_refreshed(driver: SimulatedDriver) -> None:
    with meter() as m:
        time.sleep(0.6)
        with m.window() as window:
            time.sleep(0.5)
        assert window.joules is None
        time.sleep(0.4)
        assert window.joules == pytest.approx(45, rel=0.05)


def test_without_an_energy_counter_power_is_integrated(driver: SimulatedDriver) -> None:
    driver.set_counter(present=False)
    with meter() as m:
        time.sleep(0.5)
    (device,) = m.record.devices
    assert device.method == "power_integration"
    assert device.joules == pytest.approx(90 * m.record.total.seconds, rel=0.05)


def test_a_failing_gpu_leaves_a_gap_that_is_reported(driver: SimulatedDriver) -> None:
    with meter() as m:
        time.sleep(0.5)
        driver.set_error(GPU_IS_LOST)
        time.sleep(0.5)
        driver.set_error(0)
        time.sleep(0.5)
    (device,) = m.record.devices
    assert device.missing_s == pytest.approx(0.5, abs=0.15)
    # The counter went on counting, so that its total holds the gap as well.
    assert device.joules == pytest.approx(90 * m.record.total.seconds, rel=0.05)


def test_a_reload_of_the_driver_is_survived(driver: SimulatedDriver) -> None:
    with meter() as m:
        time.sleep(0.5)
        driver.reload()
        time.sleep(2.5)
    (device,) = m.record.devices
    assert device.joules is not None
    known = m.record.total.seconds - device.missing_s
    assert 0.05 < device.missing_s < 2.0
    assert device.joules == pytest.approx(90 * known, rel=0.15)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [0, 1, 2, 3]), ("2,0", [2, 0]), ("GPU-00000001", [1]), ("", None), ("0,9,1", [0])],
)
def test_only_visible_gpus_are_read(driver: SimulatedDriver, visible: str | None, expected: list[int] | None) -> None:
    driver.start(gpus=4)
    backend = NvmlBackend({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    if expected is None:
        with pytest.raises(BackendUnavailableError, match="hides every GPU"):
            backend.open()
        return
    gpus = backend.open()
    assert [gpu.device.id for gpu in gpus] == [f"nvml:GPU-{i:08x}-0000-0000-0000-000000000000" for i in expected]
    for gpu in gpus:
        gpu.close()
        gpu.close()
    assert driver.users == 0


def test_where_cudas_order_is_not_known_all_gpus_are_counted_and_it_is_said(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    driver.set_name("Another GPU", 1)
    gpus = NvmlBackend({"CUDA_VISIBLE_DEVICES": "1"}).open()
    assert len(gpus) == 2
    assert "CUDA_VISIBLE_DEVICES" in (gpus[0].device.note or "")


def test_why_there_is_no_gpu_is_said(driver: SimulatedDriver) -> None:
    driver.set_init_error(DRIVER_NOT_LOADED)
    with pytest.raises(BackendUnavailableError, match=r"not loaded.*modprobe"):
        NvmlBackend({}).open()
    driver.set_init_error(0)
    driver.set_error(NOT_SUPPORTED)
    with pytest.raises(BackendUnavailableError, match="No GPU here tells"):
        NvmlBackend({}).open()


def test_a_failed_read_is_an_error_never_a_zero(driver: SimulatedDriver) -> None:
    (gpu,) = NvmlBackend({}).open()
    driver.set_error(GPU_IS_LOST)
    with pytest.raises(ReadError, match="lost"):
        gpu.read()
