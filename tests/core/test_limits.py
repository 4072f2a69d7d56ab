"""More power than a device can draw is not believed, by the device's own limit before that of its kind."""

from dataclasses import replace
from pathlib import Path

import pytest

from ml_energy_callbacks.backends.cpu_model import CpuModelBackend
from ml_energy_callbacks.backends.discovery import discover
from ml_energy_callbacks.backends.intel_gpu import IntelGpuBackend
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.clock import Timing
from ml_energy_callbacks.testing import (
    ManualClock,
    PowerCurve,
    ScriptedBackend,
    ScriptedCounter,
    ScriptedPower,
    SteppedMeter,
)
from ml_energy_callbacks.testing.hwmon import SimulatedIntelGpu
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.testing.powercap import SimulatedPowercap

XE_WATTS, XE_LIMITS = 3868.0, {"power1_crit": 328.0, "power1_max": 190.0}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def xe(folder: Path, clock: ManualClock, curve: PowerCurve) -> IntelGpuBackend:
    gpu = SimulatedIntelGpu(folder, clock)
    gpu.card(curve, limits=XE_LIMITS)
    return IntelGpuBackend(root=gpu.root)


def test_a_card_above_its_critical_power_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    backend = xe(tmp_path, clock, PowerCurve(clock, XE_WATTS))
    with SteppedMeter(clock, backends=[backend], carbon_intensity=1, verbose=False) as m:
        clock.advance(2)
    assert m.record.devices == []
    assert m.record.total.joules is None
    words = "shows more than 656 W, which it cannot draw; it is not counted."
    assert any(warning.endswith(words) for warning in m.record.warnings)


def test_a_card_that_exceeds_its_limit_in_mid_run_is_doubted(tmp_path: Path, clock: ManualClock) -> None:
    curve = PowerCurve(clock, 150)
    with SteppedMeter(clock, backends=[xe(tmp_path, clock, curve)], carbon_intensity=1, verbose=False) as m:
        clock.advance(2)
        curve.set(XE_WATTS)
        clock.advance(4)
        curve.set(150)
        clock.advance(2)
    (device,) = m.record.devices
    # Between the two reads at each edge, up to 70 ms, what is still believed may be counted.
    assert device.joules == pytest.approx(150 * 4, abs=2 * 656 * 0.07)
    assert device.missing_s == pytest.approx(4, abs=0.3)
    assert device.relative_uncertainty == 1.0
    assert any("showed more than 656 W, which it cannot draw" in warning for warning in m.record.warnings)


def test_a_card_at_its_limit_is_believed(tmp_path: Path, clock: ManualClock) -> None:
    curve = PowerCurve(clock, 40)
    with SteppedMeter(clock, backends=[xe(tmp_path, clock, curve)], carbon_intensity=1, verbose=False) as m:
        clock.advance(1)
        curve.set(400)  # for a moment, it may be above
        clock.advance(1)
    assert m.record.warnings == []
    assert m.record.total.joules == pytest.approx(440, rel=0.1)


def test_a_processor_above_its_limit_is_replaced_by_the_model(tmp_path: Path, clock: ManualClock) -> None:
    powercap = SimulatedPowercap(tmp_path / "powercap", clock)
    package = powercap.package(PowerCurve(clock, 1200))
    package.limit(125)
    package.limit(253, constraint=1)
    backends = [RaplBackend(powercap.files.root, proc=tmp_path, clock=clock), CpuModelBackend(clock=clock)]
    found = discover(backends=backends, timing=Timing(clock, clock.advance))
    assert [source.device.method for source in found.sources] == ["model"]
    assert "shows more than 506 W" in found.refused["rapl:package-0"]


def test_a_processor_without_limits_is_judged_by_its_tdp(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: AMD Ryzen 9 5950X 16-Core Processor\n", encoding="ascii")
    powercap = SimulatedPowercap(tmp_path / "powercap", clock)
    powercap.package(PowerCurve(clock, 1200))
    backend = RaplBackend(powercap.files.root, proc=tmp_path, clock=clock, find_tdp=lambda name: (name, 105.0))
    assert [source.device.max_watts for source in backend.open()] == [105 * 2.5]
    found = discover(backends=[backend], timing=Timing(clock, clock.advance))
    assert list(found.refused) == ["rapl:package-0"]


def test_power_replaces_a_counter_that_runs_too_fast(driver: SimulatedDriver, clock: ManualClock) -> None:
    driver.start(curves=[PowerCurve(clock, 200)], clock=clock)
    driver.set_limit(300)
    driver.set_counter_rate(12)
    with SteppedMeter(clock, backends=[NvmlBackend({})], carbon_intensity=1, verbose=False) as m:
        clock.advance(2)
    (device,) = m.record.devices
    assert device.method == "power_integration"
    assert "shows more than 600 W" in (device.note or "")
    assert device.joules == pytest.approx(200 * m.record.total.seconds, rel=0.05)


def test_power_stands_in_for_a_counter_that_runs_too_fast_in_mid_run(driver: SimulatedDriver, clock: ManualClock) -> None:
    driver.start(curves=[PowerCurve(clock, 200)], clock=clock)
    driver.set_limit(300)
    with SteppedMeter(clock, backends=[NvmlBackend({})], carbon_intensity=1, verbose=False) as m:
        clock.advance(2)
        driver.set_counter_rate(12)
        clock.advance(4)
    assert m.record.total.joules == pytest.approx(200 * m.record.total.seconds, rel=0.05)
    assert any("showed more than 600 W, which it cannot draw; its power is" in warning for warning in m.record.warnings)


@pytest.mark.parametrize("at_once", [True, False])
def test_power_above_the_devices_limit_is_not_integrated(clock: ManualClock, *, at_once: bool) -> None:
    curve = PowerCurve(clock, 900 if at_once else 50)
    power = ScriptedPower(curve, clock)
    power.device = replace(power.device, max_watts=100.0)
    with SteppedMeter(clock, backends=[ScriptedBackend([power])], carbon_intensity=1, verbose=False) as m:
        clock.advance(2)
        curve.set(900)
        clock.advance(2)
    assert m.record.total.joules == (None if at_once else pytest.approx(100, rel=0.1))
    assert any("more than 200 W, which it cannot draw" in warning for warning in m.record.warnings)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_changes_nothing(clock: ManualClock, limit: float) -> None:
    counter = ScriptedCounter(PowerCurve(clock, 100), clock, period_s=0.02)
    counter.device = replace(counter.device, max_watts=limit)
    with SteppedMeter(clock, backends=[ScriptedBackend([counter])], carbon_intensity=1, verbose=False) as m:
        clock.advance(1)
    assert m.record.total.joules == pytest.approx(100 * m.record.total.seconds, rel=0.05)
