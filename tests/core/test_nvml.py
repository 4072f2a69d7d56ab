"""NVIDIA GPUs through the real nvidia-ml-py over a simulated driver."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pynvml
import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.discovery import discover
from ml_energy_callbacks.backends.drivers.nvml import driver_of
from ml_energy_callbacks.backends.nvml import NvmlBackend
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import PowerSource, SharedSource
from ml_energy_callbacks.testing import Curve, ManualClock, PowerCurve, SineCurve, SquareCurve, StepCurve, SteppedMeter
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.nvml import SimulatedDriver

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 1, 3, 4, 6
DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, GPU_IS_LOST, VERSION_MISMATCH, UNKNOWN = 9, 12, 15, 18, 999

NO_VARIABLES: dict[str, str] = {}

pytestmark = pytest.mark.xdist_group("nvml")  # one worker compiles the driver


@pytest.fixture(autouse=True)
def _each_world_has_its_own_driver() -> None:
    """The simulated driver forgets what an earlier test left open; so do we."""
    driver_of.cache_clear()


def uuid(gpu: int) -> str:
    return f"GPU-{gpu:08x}-0000-0000-0000-000000000000"


def shown(**variables: str) -> list[int]:
    """Return the numbers of the GPUs that are opened under these environment variables, in their order."""
    gpus = NvmlBackend(variables).open()
    for gpu in gpus:
        gpu.close()
    return [int(gpu.device.id[len("nvml:GPU-") :][:8], 16) for gpu in gpus]


def used_of(variables: dict[str, str], numbers: Sequence[int]) -> list[str]:
    """Return the ids of the devices of a job that runs on the GPUs of these numbers of CUDA's."""
    found = discover(backends=[NvmlBackend(variables)], gpus=[f"cuda:{number}" for number in numbers])
    for source in found.sources:
        source.close()
    return [source.device.id for source in found.sources]


def plug_in(pci: Path, bus: int = 1, *, node: int = -1, vendor: str = "0x10de", kind: str = "0x030200") -> Path:
    """Put a device on the PCI bus; it is an NVIDIA GPU unless told otherwise."""
    folder = pci / f"0000:{bus:02x}:00.0"
    folder.mkdir(parents=True)
    for name, text in {"vendor": vendor, "class": kind, "numa_node": str(node)}.items():
        (folder / name).write_text(f"{text}\n")
    return pci


def rounds_until_all_answer(gpus: Sequence[Any], most: int) -> int:
    for round_ in range(most):
        failed = 0
        for gpu in gpus:
            try:
                gpu.read()
            except ReadError:
                failed += 1
        if not failed:
            return round_
    return most


def meter() -> EnergyMeter:
    return EnergyMeter(devices=["nvml:*"], carbon_intensity=100, verbose=False)


class Conformance(BackendConformance):
    """Three GPUs, whose curves, grids and features differ."""

    counters = True

    @pytest.fixture
    def bench(self, driver: SimulatedDriver, tmp_path: Path) -> Bench:
        clock = ManualClock()
        curves: Sequence[Curve] = [SquareCurve(90, 420, period_s=0.7), SineCurve(200, 100, 3.1), StepCurve([(0, 60), (5, 350)])]
        driver.start(curves=curves, clock=clock)
        driver.set_refresh(0.02, offset_s=0.007, jitter_s=0.004, gpu=1)
        for gpu in range(3):
            driver.set_counter(present=self.counters, gpu=gpu)
        truth = {f"nvml:{uuid(i)}": curve for i, curve in enumerate(curves)}

        def fail(code: int = GPU_IS_LOST) -> None:
            for gpu in range(3):
                driver.set_error(code, gpu)

        def mend() -> None:
            fail(0)

        hidden = NvmlBackend({"CUDA_VISIBLE_DEVICES": "NoDevFiles"})
        return Bench(NvmlBackend(NO_VARIABLES, pci=tmp_path), clock, truth.get, absent=hidden, fail=fail, mend=mend)


class TestCounters(Conformance):
    """GPUs that count joules."""


class TestPower(Conformance):
    """GPUs that tell their power alone."""

    counters = False


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def clock(driver: SimulatedDriver) -> ManualClock:
    """The clock of a driver with three GPUs of 90 W."""
    clock = ManualClock()
    driver.start(curves=[PowerCurve(clock, 90) for _ in range(3)], clock=clock)
    return clock


def stepped(clock: ManualClock, gpus: int = 3) -> SteppedMeter:
    devices = [f"nvml:{uuid(gpu)}" for gpu in range(gpus)]
    return SteppedMeter(clock, devices=devices, carbon_intensity=100, verbose=False)


@pytest.mark.parametrize("period_s", [0.1, 0.02])
def test_a_runs_total_is_the_truth(driver: SimulatedDriver, period_s: float) -> None:
    clock = ManualClock()
    curve = PowerCurve(clock, 90)
    driver.start(curves=[curve], clock=clock, period_s=period_s)
    with stepped(clock, 1) as m:
        start = curve.joules()
        for i in range(30):
            curve.set(90 if i % 2 else 420)
            clock.advance(0.1)
        end = curve.joules()
    total = m.record.total.joules
    assert total is not None
    # The run began up to two refreshes before `start` was read; up to one more is the counter's own.
    assert total == pytest.approx(end - start, rel=0.001, abs=3 * period_s * 90)
    assert m.record.total.provenance == "measured"
    assert m.record.devices[0].update_period_s == pytest.approx(period_s, rel=0.01)
    assert driver.users == 0  # every nvmlInit was shut down


@pytest.mark.parametrize(
    ("period_s", "steps"), [(0.02, 10), *(pytest.param(p, 30, marks=pytest.mark.full) for p in (0.1, 0.02))]
)
def test_a_runs_total_is_the_truth_in_real_time(driver: SimulatedDriver, period_s: float, steps: int) -> None:
    driver.start(period_s=period_s)
    earliest = driver.true_joules()
    with meter() as m:
        start = driver.true_joules()
        for i in range(steps):
            driver.set_power(90 if i % 2 else 420)
            time.sleep(0.1)
        end = driver.true_joules()
    latest = driver.true_joules()
    total = m.record.total.joules
    assert total is not None
    # A busy machine may take its time between the meter's start or end and the look at the truth.
    slack = 3 * period_s * 90
    assert 0.999 * (end - start) - slack <= total <= 1.001 * (latest - earliest) + slack
    assert driver.users == 0


def test_gpus_add_up(driver: SimulatedDriver) -> None:
    clock = ManualClock()
    driver.start(curves=[PowerCurve(clock, 300) for _ in range(8)], clock=clock)
    with stepped(clock, 8) as m:
        clock.advance(0.5)
    assert m.record.total.joules == pytest.approx(8 * 300 * m.record.total.seconds, rel=0.03)
    assert len(m.record.devices) == 8


def test_a_window_is_told_once_the_counter_has_refreshed(clock: ManualClock) -> None:
    with stepped(clock, 1) as m:
        clock.advance(0.6)
        with m.window() as window:
            clock.advance(0.5)
        assert window.joules is None
        clock.advance(0.4)
        assert window.joules == pytest.approx(45, rel=0.05)


def test_a_failing_gpu_leaves_a_gap_that_is_reported(driver: SimulatedDriver, clock: ManualClock) -> None:
    with stepped(clock, 1) as m:
        driver.set_error(GPU_IS_LOST, after_s=0.5, for_s=0.5)
        clock.advance(1.5)
    (device,) = m.record.devices
    assert device.missing_s == pytest.approx(0.5, abs=0.15)
    # The counter went on counting, so that its total holds the gap as well.
    assert device.joules == pytest.approx(90 * m.record.total.seconds, rel=0.05)


@pytest.mark.parametrize("gpus", [1, 3])
def test_a_reload_of_the_driver_is_survived_by_every_gpu(driver: SimulatedDriver, clock: ManualClock, gpus: int) -> None:
    with stepped(clock, gpus) as m:
        clock.advance(0.5)
        driver.reload()
        clock.advance(2.5)
    assert len(m.record.devices) == gpus
    for device in m.record.devices:
        assert device.joules is not None
        known = m.record.total.seconds - device.missing_s
        assert 0 < device.missing_s < 2.0
        assert device.joules == pytest.approx(90 * known, rel=0.15)
    assert driver.users == 0


def test_while_a_gpu_is_lost_the_others_are_read_and_it_comes_back(driver: SimulatedDriver, clock: ManualClock) -> None:
    with stepped(clock) as m:
        driver.set_error(GPU_IS_LOST, 0, after_s=0.4, for_s=1.3)
        clock.advance(3.4)
    assert [device.missing_s > 0 for device in m.record.devices] == [True, False, False]
    assert m.record.devices[0].missing_s < 2.5
    for device in m.record.devices:
        assert device.joules == pytest.approx(90 * m.record.total.seconds, rel=0.05)


def test_a_read_that_blocks_does_not_hold_up_the_loop(driver: SimulatedDriver) -> None:
    driver.start(watts=200)
    longest = 0.0
    with meter() as m, m.stage("train"):
        driver.set_latency(1.5, after_s=0.3, for_s=0.1)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            start = time.monotonic()
            with m.batch(1):
                time.sleep(0.005)
            longest = max(longest, time.monotonic() - start)
    assert longest < 0.5
    (device,) = m.record.devices
    assert device.missing_s == pytest.approx(1.5, abs=0.4)
    assert device.joules == pytest.approx(200 * m.record.total.seconds, rel=0.03)


def test_another_process_sees_the_simulated_gpus_by_its_environment_alone(driver: SimulatedDriver) -> None:
    program = (
        "import json; from ml_energy_callbacks.backends.nvml import NvmlBackend; "
        "print(json.dumps([(gpu.device.id, gpu.watts()) for gpu in NvmlBackend({}).open()]))"
    )
    environment = os.environ | driver.environment(gpus=2, watts=150)
    output = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True).stdout
    assert json.loads(output) == [[f"nvml:{uuid(0)}", 150.0], [f"nvml:{uuid(1)}", 150.0]]


def test_a_forked_process_does_not_wait_for_a_thread_that_it_has_not_got(driver: SimulatedDriver) -> None:
    program = (
        "import os, signal\nfrom ml_energy_callbacks.backends.nvml import NvmlBackend\n"
        "from ml_energy_callbacks.backends.drivers.nvml import driver_of\n"
        "gpus = NvmlBackend({}).open()\n"
        "driver_of(os.getpid())._lock.acquire()\n"
        "pid = os.fork()\n"
        "if not pid: signal.alarm(10); os._exit(int(NvmlBackend({}).open()[0].read() > 900))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    environment = os.environ | driver.environment()
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, timeout=20).stdout == b"1\n"


# ------------------------------------------------------------------------------------------------ how it is read


def test_power_is_told_beside_the_counter(driver: SimulatedDriver) -> None:
    clock = ManualClock()
    curve = SquareCurve(100, 300, period_s=1.0)
    driver.start(curves=[curve], clock=clock, period_s=0)
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert isinstance(gpu, PowerSource)
    seen = set()
    for _ in range(10):
        clock.advance(0.1)
        assert gpu.watts() == curve.watts(clock())
        seen.add(gpu.watts())
    assert seen == {100, 300}
    driver.set_counter_rate(0)
    frozen = gpu.read()
    clock.advance(1.0)
    assert gpu.read() == frozen
    assert gpu.watts() == curve.watts(clock())


def test_without_a_counter_instant_power_is_read_and_else_its_average(driver: SimulatedDriver) -> None:
    clock = ManualClock(20 * 10**9)
    driver.start(curves=[StepCurve([(0, 100), (20, 300)])], clock=clock, period_s=0)
    driver.set_counter(present=False)
    clock.advance(0.5)
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert gpu.device.method == "power_integration"
    assert "instant power" in (gpu.device.note or "")
    assert gpu.read() == 300
    assert not isinstance(gpu, PowerSource)  # there is nothing to hold it against
    driver.set_instant_power(present=False)
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert "average over 1 s" in (gpu.device.note or "")
    assert gpu.read() == pytest.approx(200)


@pytest.mark.parametrize(
    ("counter", "instant", "window_s"), [(True, True, 0.025), (False, True, 0.025), (True, False, None), (False, False, None)]
)
def test_the_window_is_that_of_the_power_that_is_read(
    driver: SimulatedDriver,
    counter: bool,  # noqa: FBT001
    instant: bool,  # noqa: FBT001
    window_s: float | None,
) -> None:
    driver.start()
    driver.set_name("NVIDIA H100 80GB HBM3")
    driver.set_counter(present=counter)
    driver.set_instant_power(present=instant)
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert gpu.device.power_window_s == window_s
    assert gpu.device.latency_s == 0.002
    driver.set_name("NVIDIA H100X")
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert gpu.device.power_window_s is None


def test_a_power_of_zero_is_no_reading(driver: SimulatedDriver) -> None:
    driver.start(watts=0)
    driver.set_counter(present=False)
    with pytest.raises(BackendUnavailableError, match="No GPU of this machine reports"):
        NvmlBackend(NO_VARIABLES).open()


def test_a_superchip_is_read_as_one(driver: SimulatedDriver) -> None:
    clock = ManualClock()
    own, rest = SquareCurve(200, 500, period_s=1.0), SineCurve(150, 50, 2.0)
    driver.start(curves=[own], clock=clock, period_s=0)
    driver.set_module(rest)
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert gpu.device.covers == ("cpu", "dram")
    assert "superchip" in (gpu.device.note or "")
    start, start_joules = clock(), gpu.read()
    clock.advance(3.3)
    true = own.joules(clock()) - own.joules(start) + rest.joules(clock()) - rest.joules(start)
    assert gpu.read() - start_joules == pytest.approx(true, abs=0.002)
    assert gpu.watts() == pytest.approx(own.watts(clock()) + rest.watts(clock()), abs=0.001)


def test_a_gpu_alone_covers_nothing_else(driver: SimulatedDriver) -> None:
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert (gpu.device.covers, gpu.device.shared, gpu.device.note) == ((), False, None)


def test_the_counter_itself_shows_whether_it_covers_the_module(driver: SimulatedDriver, tmp_path: Path) -> None:
    driver.start(gpus=3)
    for gpu, node in enumerate([4, -1, 4]):
        driver.set_module(SineCurve(150, 50, 2.0), gpu, counted=gpu < 2)
        plug_in(tmp_path, gpu + 1, node=node)
    start = time.monotonic()
    gpus = NvmlBackend(NO_VARIABLES, pci=tmp_path).open()
    assert time.monotonic() - start < 1.5
    assert [gpu.device.covers for gpu in gpus] == [("cpu", "dram"), ("cpu", "dram"), ()]
    assert [gpu.device.node for gpu in gpus] == [4, None, 4]
    assert ["superchip" in (gpu.device.note or "") for gpu in gpus] == [True, True, False]
    assert all(gpu.watts() >= 190 for gpu in gpus[:2])
    assert gpus[2].watts() == 90


def test_two_gpus_whose_counters_both_follow_the_module_that_they_share_are_told_by_their_own_power(
    driver: SimulatedDriver, tmp_path: Path
) -> None:
    driver.start(gpus=2)
    for gpu in range(2):
        driver.set_module(SineCurve(150, 50, 2.0), gpu)
        plug_in(tmp_path, gpu + 1, node=1)
    gpus = NvmlBackend(NO_VARIABLES, pci=tmp_path).open()
    assert [(gpu.device.method, gpu.device.covers, gpu.read()) for gpu in gpus] == [("power_integration", (), 90.0)] * 2


@pytest.mark.parametrize("broken", ["none", "still"])
@pytest.mark.parametrize(("nodes", "modules"), [([0, 1], 2), ([0, 0], 0), ([-1, -1], 0)])
def test_without_a_counter_a_module_of_several_gpus_is_none_of_theirs(
    driver: SimulatedDriver, tmp_path: Path, broken: str, nodes: list[int], modules: int
) -> None:
    driver.start(gpus=2)
    for gpu, node in enumerate(nodes):
        driver.set_module(SineCurve(150, 50, 2.0), gpu)
        if broken == "none":
            driver.set_counter(present=False, gpu=gpu)
        else:
            driver.set_counter_rate(0, gpu)
        plug_in(tmp_path, gpu + 1, node=node)
    gpus = NvmlBackend(NO_VARIABLES, pci=tmp_path).open()
    assert sum(gpu.device.covers == ("cpu", "dram") for gpu in gpus) == modules
    powers = [gpu.read() if broken == "none" else gpu.watts() for gpu in gpus]
    assert all((watts > 90) == (modules > 0) for watts in powers)


class Glitch:
    """The rest of a module that tells 100 W once and then nothing."""

    told = False

    def watts(self, time_ns: int) -> float:
        watts, self.told = 0.0 if self.told else 100.0, True
        return watts

    def joules(self, time_ns: int) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("rest", "covers"),
    [
        (StepCurve([(0, 0.001)]), ()),
        (StepCurve([(0, 9)]), ()),
        (StepCurve([(0, 10)]), ("cpu", "dram")),
        (Glitch(), ()),
    ],
)
def test_a_module_draws_clearly_more_than_its_gpu_each_time(
    driver: SimulatedDriver, rest: Curve, covers: tuple[str, ...]
) -> None:
    driver.start(curves=[StepCurve([(0, 90)])], clock=ManualClock())
    driver.set_module(rest)
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert gpu.device.covers == covers


def test_a_driver_that_takes_no_notice_of_the_scope_makes_no_superchip(driver: SimulatedDriver) -> None:
    driver.start(curves=[StepCurve([(0, 90)])], clock=ManualClock())
    driver.set_module(StepCurve([(0, 0)]))
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert gpu.device.covers == ()


# ------------------------------------------------------------------------------------------------ which GPUs


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        (" 3 , 1", [3, 1]),
        ("1x", [1]),
        ("0,9,1", [0]),
        ("0,-1,1", [0]),
        ("0,GPU-00000001", [0]),
        ("GPU-00000001", [1]),
        ("GPU-00000002,GPU-00000000-0000", [2, 0]),
        ("GPU-00000001,2", [1]),
        ("GPU-00000001,GPU-0000000,GPU-00000002", [1]),
        ("", None),
        ("-1", None),
        ("NoDevFiles", None),
        ("GPU-0000000", None),
        ("1,1", None),
        ("GPU-00000001,GPU-00000001-0", None),
        ("MIG-00000001", None),
    ],
)
def test_only_visible_gpus_are_read(driver: SimulatedDriver, visible: str | None, expected: list[int] | None) -> None:
    driver.start(gpus=4)
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    if expected is None:
        with pytest.raises(BackendUnavailableError, match="hides every GPU"):
            shown(**variables)
    else:
        assert shown(**variables) == expected
    assert driver.users == 0


def test_ordinals_are_in_the_order_of_the_pci_bus(driver: SimulatedDriver) -> None:
    driver.start(gpus=3)
    for gpu, bus in enumerate([0x65, 0x17, 0xCA]):
        driver.set_bus(bus, gpu)
    assert shown(CUDA_VISIBLE_DEVICES="0") == [1]
    driver.set_name("Another GPU", 2)
    assert shown(CUDA_VISIBLE_DEVICES="1,2", CUDA_DEVICE_ORDER="PCI_BUS_ID") == [0, 2]


def test_where_cudas_order_is_not_known_all_gpus_are_counted_and_it_is_said(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    driver.set_name("Another GPU", 1)
    gpus = NvmlBackend({"CUDA_VISIBLE_DEVICES": "1"}).open()
    assert len(gpus) == 2
    assert "CUDA_VISIBLE_DEVICES" in (gpus[0].device.note or "")
    assert shown(CUDA_VISIBLE_DEVICES="GPU-00000001") == [1]
    with pytest.raises(BackendUnavailableError, match="hides every GPU"):
        shown(CUDA_VISIBLE_DEVICES="-1")


@pytest.mark.parametrize(
    ("variables", "used", "expected"),
    [
        ({}, [1, 2], [1, 2]),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, [0], [3]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-00000002,GPU-00000000"}, [1], [0]),
    ],
)
def test_the_gpus_of_a_job_may_be_told_by_cudas_numbers(
    driver: SimulatedDriver, variables: dict[str, str], used: list[int], expected: list[int]
) -> None:
    driver.start(gpus=4)
    assert used_of(variables, used) == [f"nvml:{uuid(gpu)}" for gpu in expected]


def test_where_cudas_numbers_are_not_known_all_visible_gpus_count(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    driver.set_name("Another GPU", 1)
    assert used_of({}, [0]) == [f"nvml:{uuid(0)}", f"nvml:{uuid(1)}"]
    assert used_of({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [1]) == [f"nvml:{uuid(1)}"]
    assert used_of({"CUDA_VISIBLE_DEVICES": f"{uuid(1)},{uuid(0)}"}, [0]) == [f"nvml:{uuid(1)}"]
    driver.start(gpus=2)
    driver.set_mig(SLICES, 1)
    assert used_of({}, [1]) == [f"nvml:{uuid(0)}", f"nvml:{uuid(1)}"]


def test_a_gpu_that_cannot_be_read_keeps_its_number(driver: SimulatedDriver) -> None:
    driver.start(gpus=3)
    driver.set_error(NOT_SUPPORTED, 0)
    assert used_of({}, [1]) == [f"nvml:{uuid(1)}"]


SLICES = ["MIG-aaaaaaaa-0000-0000-0000-000000000001", "MIG-bbbbbbbb-0000-0000-0000-000000000002"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (SLICES[0], [1]),
        ("MIG-bbbbbbbb", [1]),
        (",".join(SLICES), [1]),
        (f"{SLICES[0]},{SLICES[0]}", None),
        (f"MIG-{uuid(1)}/3/0", [1]),
        (f"MIG-{uuid(7)}/3/0", None),
        ("MIG-cccccccc", None),
    ],
)
def test_a_mig_slice_is_its_whole_gpu(driver: SimulatedDriver, visible: str, expected: list[int] | None) -> None:
    driver.start(gpus=2)
    driver.set_mig(SLICES, 1)
    if expected is None:
        with pytest.raises(BackendUnavailableError, match="hides every GPU"):
            shown(CUDA_VISIBLE_DEVICES=visible)
    else:
        assert shown(CUDA_VISIBLE_DEVICES=visible) == expected


def test_a_gpu_with_mig_is_shared_and_it_is_said(driver: SimulatedDriver) -> None:
    driver.start(gpus=3)
    driver.set_mig(SLICES, 1)
    driver.set_mig(None, 2)  # it could, but does not
    gpus = NvmlBackend(NO_VARIABLES).open()
    assert [gpu.device.shared for gpu in gpus] == [False, True, False]
    assert "slices cannot be measured" in (gpus[1].device.note or "")
    assert gpus[1].read() > 0
    assert gpus[1].process_share([os.getpid()]) is None


def test_a_handle_of_a_slice_tells_no_energy(driver: SimulatedDriver) -> None:
    """So do real ones: it is why the whole GPU is read."""
    driver.set_mig(SLICES)
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)
    assert pynvml.nvmlDeviceGetUUID(mig) == SLICES[1]
    with pytest.raises(pynvml.NVMLError, match="Not Supported"):
        pynvml.nvmlDeviceGetTotalEnergyConsumption(mig)
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)) == uuid(0)
    pynvml.nvmlShutdown()


# ------------------------------------------------------------------------------------------------ whose use


def process_files(root: Path, namespace: str) -> Path:
    link = root / "self/ns/pid"
    link.parent.mkdir(parents=True)
    link.symlink_to(namespace)
    return root


def one_gpu(driver: SimulatedDriver, clock: ManualClock, proc: Path) -> Any:
    driver.start(curves=[StepCurve([(0, 90)])], clock=clock)
    driver.add_process_sample(999, 100)
    clock.advance(1.0)
    (gpu,) = NvmlBackend(NO_VARIABLES, proc=proc).open()
    assert isinstance(gpu, SharedSource)
    return gpu


def test_a_processes_share_is_its_part_of_what_ran_since_the_last_call(driver: SimulatedDriver, tmp_path: Path) -> None:
    clock = ManualClock()
    gpu = one_gpu(driver, clock, process_files(tmp_path, "pid:[4026531836]"))
    assert gpu.process_share([1]) is None  # what was before it was opened is not told
    for percent in (60, 80):
        driver.add_process_sample(1, percent)
        driver.add_process_sample(2, 20)
        driver.add_process_sample(3, 10)
        clock.advance(1.0)
    assert gpu.process_share([1, 3, 77]) == pytest.approx((60 + 80 + 20) / 200)
    assert gpu.process_share([1, 3]) is None
    driver.add_process_sample(2, 50)
    clock.advance(1.0)
    assert gpu.process_share([1, 3]) == 0.0  # others' alone
    driver.add_process_sample(1, 0)
    clock.advance(1.0)
    assert gpu.process_share([1]) is None  # nothing ran
    driver.add_process_sample(1, 10)
    driver.add_process_sample(2, 4_000_000_000)  # an uninitialised entry
    clock.advance(1.0)
    assert gpu.process_share([1]) == 1.0
    driver.set_error(NO_PERMISSION)
    assert gpu.process_share([1]) is None
    driver.set_error(0)
    NvmlBackend(NO_VARIABLES).open()  # somebody else goes on holding the driver
    driver.add_process_sample(1, 10)
    clock.advance(1.0)
    gpu.close()
    assert gpu.process_share([1]) is None


def test_in_a_pid_namespace_of_its_own_no_share_is_told(driver: SimulatedDriver, tmp_path: Path) -> None:
    clock = ManualClock()
    for proc in (process_files(tmp_path, "pid:[4026532198]"), tmp_path / "nothing"):
        gpu = one_gpu(driver, clock, proc)
        driver.add_process_sample(1, 60)
        clock.advance(1.0)
        assert gpu.process_share([1]) is None


# ------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("code", "plugged", "reason", "fix", "present"),
    [
        (LIBRARY_NOT_FOUND, False, "was not found", "--gpus all", False),
        (LIBRARY_NOT_FOUND, True, "There is an NVIDIA GPU.*was not found", "Install the NVIDIA driver;.*--gpus all", True),
        (DRIVER_NOT_LOADED, False, "not loaded, and there is no NVIDIA GPU", None, False),
        (DRIVER_NOT_LOADED, True, "not loaded", "modprobe", True),
        (NO_PERMISSION, False, "no permission to use", "/dev/nvidia", True),
        (GPU_IS_LOST, False, "lost", "dmesg", True),
        (VERSION_MISMATCH, False, "different versions", "Reboot", True),
        (UNKNOWN, False, "NVML cannot be used: Unknown Error", None, False),
        (UNKNOWN, True, "NVML cannot be used: Unknown Error", None, True),
    ],
)
def test_why_there_is_no_gpu_is_said(
    driver: SimulatedDriver, tmp_path: Path, *, code: int, plugged: bool, reason: str, fix: str | None, present: bool
) -> None:
    driver.set_init_error(code)
    plug_in(tmp_path, 0x10, vendor="0x1002")  # another maker's GPU
    plug_in(tmp_path, 0x11, kind="0x0c0330")  # NVIDIA's USB controller
    if plugged:
        plug_in(tmp_path)
    with pytest.raises(BackendUnavailableError) as caught:
        NvmlBackend(NO_VARIABLES, pci=tmp_path).open()
    assert re.search(reason, caught.value.reason)
    assert caught.value.fix is None if fix is None else re.search(fix, caught.value.fix or "")
    assert caught.value.present is present
    assert driver.users == 0


@pytest.mark.parametrize(
    ("code", "reason", "present"),
    [
        (NOT_SUPPORTED, "No GPU of this machine reports.*Not Supported", True),
        (NO_PERMISSION, "has no access", False),
        (GPU_IS_LOST, "has lost its GPU.*dmesg", True),
        (UNKNOWN, "No NVIDIA GPU answers: Unknown Error", True),
    ],
)
def test_a_driver_that_starts_and_then_answers_nothing_is_no_gpu(
    driver: SimulatedDriver, *, code: int, reason: str, present: bool
) -> None:
    driver.set_error(code)
    with pytest.raises(BackendUnavailableError, match=reason) as caught:
        NvmlBackend(NO_VARIABLES).open()
    assert caught.value.present is present
    assert driver.users == 0


def test_a_jetsons_gpu_is_not_missed_for_its_board_is_measured(driver: SimulatedDriver, tmp_path: Path) -> None:
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree/compatible").write_text("nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0")
    driver.set_error(NOT_SUPPORTED)
    with pytest.raises(BackendUnavailableError, match="No GPU of this machine reports") as caught:
        NvmlBackend(NO_VARIABLES, proc=tmp_path).open()
    assert not caught.value.present


def test_no_gpu_and_hidden_gpus_are_not_missed(driver: SimulatedDriver) -> None:
    with pytest.raises(BackendUnavailableError, match="hides every GPU") as caught:
        shown(CUDA_VISIBLE_DEVICES="7")
    assert not caught.value.present
    driver.set_init_error(VERSION_MISMATCH)
    with pytest.raises(BackendUnavailableError, match="hides every GPU") as caught:
        shown(CUDA_VISIBLE_DEVICES="")
    assert not caught.value.present
    driver.start(gpus=0)
    with pytest.raises(BackendUnavailableError, match="lists no GPU") as caught:
        shown()
    assert not caught.value.present


def test_after_a_reload_of_the_driver_the_next_read_but_one_is_good(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    gpus = NvmlBackend(NO_VARIABLES).open()
    driver.reload()
    for gpu in gpus:
        with pytest.raises(ReadError):
            gpu.read()
    assert all(gpu.read() >= 0 for gpu in gpus)


def test_a_gpu_that_was_lost_during_a_restart_is_found_soon_after(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    gpu, _ = NvmlBackend(NO_VARIABLES).open()
    driver.set_error(GPU_IS_LOST, 0)
    for _ in range(25):  # a restart is among them
        with pytest.raises(ReadError):
            gpu.read()
    driver.set_error(0, 0)
    failures = 0
    for _ in range(40):
        try:
            gpu.read()
        except ReadError:
            failures += 1
    assert failures <= 10


def told_missing(gpus: Sequence[Any]) -> set[str | None]:
    return {gpu.device.missing for gpu in gpus}


def test_a_gpu_that_cannot_be_read_does_not_hide_the_others_and_is_told_of(driver: SimulatedDriver) -> None:
    driver.start(gpus=4)
    driver.set_error(GPU_IS_LOST, 0)
    assert shown() == [1, 2, 3]
    note = "1 GPU of this machine cannot be read (GPU is lost): its energy is not included."
    assert told_missing(NvmlBackend(NO_VARIABLES).open()) == {note}
    driver.set_error(NOT_SUPPORTED, 2)  # it is found, and tells nothing
    assert shown() == [1, 3]
    note = "2 GPUs of this machine cannot be read (GPU is lost, Not Supported): their energy is not included."
    assert told_missing(NvmlBackend(NO_VARIABLES).open()) == {note}


def test_a_lost_gpu_that_cuda_visible_devices_shows_is_missed(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    driver.set_error(GPU_IS_LOST, 1)
    with pytest.raises(BackendUnavailableError, match="has lost its GPU") as caught:
        shown(CUDA_VISIBLE_DEVICES=uuid(1))
    assert caught.value.present
    with pytest.raises(BackendUnavailableError, match="hides every GPU"):
        shown(CUDA_VISIBLE_DEVICES="")


def test_another_jobs_gpu_is_passed_over_in_silence_and_cuda_does_not_number_it(driver: SimulatedDriver) -> None:
    """So it is under SLURM, which hides the GPUs of other jobs by cgroups."""
    driver.start(gpus=3)
    driver.set_error(NO_PERMISSION, 0)
    assert shown() == [1, 2]
    assert told_missing(NvmlBackend(NO_VARIABLES).open()) == {None}
    assert shown(CUDA_VISIBLE_DEVICES="0") == [1]


def test_a_failed_read_is_an_error_never_a_zero(driver: SimulatedDriver) -> None:
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    driver.set_error(GPU_IS_LOST)
    for read in (gpu.read, gpu.watts):
        with pytest.raises(ReadError, match="lost"):
            read()
    driver.set_error(0)
    assert gpu.read() > 0
    gpu.close()
    for read in (gpu.read, gpu.watts):
        with pytest.raises(ReadError, match="closed"):
            read()


def test_after_a_reload_every_gpu_is_got_hold_of_again_by_one_restart(driver: SimulatedDriver) -> None:
    driver.start(gpus=3)
    gpus = NvmlBackend(NO_VARIABLES).open()
    assert driver.users == 3
    driver.reload()
    assert rounds_until_all_answer(gpus, 100) == 1
    assert driver.users == driver_of(os.getpid()).generation == 1
    for gpu in gpus:
        assert gpu.read() >= 0  # what is closed first does not take the driver from the others
        gpu.close()
    assert driver.users == 0


def test_a_restart_for_a_lost_gpu_leaves_the_others_alone(driver: SimulatedDriver) -> None:
    driver.start(gpus=3)
    lost, *others = NvmlBackend(NO_VARIABLES).open()
    driver.set_error(GPU_IS_LOST, 0)
    for _ in range(100):
        with pytest.raises(ReadError, match="lost"):
            lost.read()
        assert all(gpu.read() > 0 for gpu in others)
    assert driver.users == 1  # there were restarts
    driver.set_error(0)
    assert rounds_until_all_answer([lost], 100) <= 10  # it is looked for between two restarts
    for gpu in (lost, *others):
        gpu.close()
    assert driver.users == 0


def test_a_second_meter_does_not_take_a_gpu_away_that_is_lost_for_a_moment(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    (_, gpu) = NvmlBackend(NO_VARIABLES).open()
    driver.set_error(GPU_IS_LOST, 1)
    assert shown() == [0]
    driver.set_error(0, 1)
    assert gpu.read() > 0


def test_where_nvml_cannot_be_started_anew_all_gpus_wait_until_it_can(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    gpus = NvmlBackend(NO_VARIABLES).open()
    driver.reload()
    driver.set_init_error(DRIVER_NOT_LOADED)
    assert rounds_until_all_answer(gpus, 100) == 100
    assert driver.users == 0
    driver.set_init_error(0)
    assert rounds_until_all_answer(gpus, 100) < 100
    (again, _) = NvmlBackend(NO_VARIABLES).open()
    for gpu in (*gpus, again, _):
        gpu.close()
    assert driver.users == 0


def test_a_reload_has_to_wait_for_others_in_the_process_that_hold_nvml(driver: SimulatedDriver) -> None:
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    pynvml.nvmlInit()
    driver.reload()
    assert rounds_until_all_answer([gpu], 50) == 50
    pynvml.nvmlShutdown()
    assert rounds_until_all_answer([gpu], 50) < 50
    gpu.close()
    assert driver.users == 0


def test_a_read_beside_another_threads_restart_does_not_fail(driver: SimulatedDriver) -> None:
    driver.start(gpus=2)
    one, other = NvmlBackend(NO_VARIABLES).open()
    over = threading.Event()
    failures: list[ReadError] = []
    reads = 0

    def go_on_reading() -> None:
        nonlocal reads
        while not over.is_set():
            try:
                other.read()
            except ReadError as error:
                failures.append(error)
            reads += 1

    thread = threading.Thread(target=go_on_reading)
    thread.start()
    nvml = driver_of(os.getpid())
    for _ in range(300):
        nvml.restart(nvml.generation)
    over.set()
    thread.join()
    assert not failures
    assert reads > 0
    one.close()
    other.close()


def test_a_reload_is_survived_by_the_power_as_well(driver: SimulatedDriver) -> None:
    """Where the counter stands still, nothing but power is read."""
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    driver.reload()
    failed = 0
    while failed < 50:
        try:
            assert gpu.watts() == 90
            break
        except ReadError:
            failed += 1
    assert 0 < failed < 50


# ------------------------------------------------------------------------------------------------ the simulation itself


def test_counters_can_be_made_to_lie(driver: SimulatedDriver) -> None:
    clock = ManualClock()
    driver.start(curves=[StepCurve([(0, 100)])], clock=clock, period_s=0)
    (gpu,) = NvmlBackend(NO_VARIABLES).open()

    def used() -> float:
        before = gpu.read()
        clock.advance(1.0)
        return gpu.read() - before

    assert used() == pytest.approx(100)
    for rate in (1.3, 0, -1, 1):
        driver.set_counter_rate(rate)
        assert used() == pytest.approx(100 * rate, abs=0.01)
    before = gpu.read()
    driver.jump(5000)
    assert gpu.read() == pytest.approx(before + 5000)
    driver.reload()
    with pytest.raises(ReadError, match="Uninitialized"):
        gpu.read()
    gpu.close()
    (gpu,) = NvmlBackend(NO_VARIABLES).open()
    assert gpu.read() == 0.0


def test_a_reload_outlives_those_who_hold_the_driver(driver: SimulatedDriver) -> None:
    """NVML takes hold of the driver at the first of nested initialisations alone."""
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    driver.reload()
    pynvml.nvmlInit()
    for query in (lambda: pynvml.nvmlDeviceGetHandleByIndex(0), lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)):
        with pytest.raises(pynvml.NVMLError, match="Uninitialized"):
            query()
    assert driver.users == 2
    pynvml.nvmlShutdown()
    pynvml.nvmlShutdown()
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) == 0
    pynvml.nvmlShutdown()


def test_a_gpu_that_cannot_be_reached_is_not_found_either(driver: SimulatedDriver) -> None:
    driver.start(gpus=3)
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(1)
    driver.set_error(GPU_IS_LOST, 1)
    for query in (pynvml.nvmlDeviceGetUUID, pynvml.nvmlDeviceGetName, pynvml.nvmlDeviceGetPciInfo):
        with pytest.raises(pynvml.NVMLError, match="lost"):
            query(gpu)
    assert pynvml.nvmlDeviceGetHandleByUUID(uuid(0))
    with pytest.raises(pynvml.NVMLError, match="lost"):
        pynvml.nvmlDeviceGetHandleByUUID(uuid(2))  # it is behind the lost one
    driver.set_error(NO_PERMISSION, 1)
    assert pynvml.nvmlDeviceGetHandleByUUID(uuid(2))
    with pytest.raises(pynvml.NVMLError, match="Not Found"):
        pynvml.nvmlDeviceGetHandleByUUID(uuid(1))
    pynvml.nvmlShutdown()


def test_refreshes_keep_to_their_grid_but_for_the_jitter(driver: SimulatedDriver) -> None:
    clock = ManualClock()
    driver.start(curves=[StepCurve([(0, 1000)])], clock=clock)

    def instants(jitter_s: float) -> list[float]:
        driver.set_refresh(0.1, offset_s=0.03, jitter_s=jitter_s)
        (gpu,) = NvmlBackend(NO_VARIABLES).open()
        seen = []
        value = gpu.read()
        for _ in range(1000):
            clock.advance(0.001)
            if gpu.read() != value:
                value = gpu.read()
                seen.append(clock() / 1e9)
        return [(instant - 0.03) % 0.1 for instant in seen]

    assert [min(place, 0.1 - place) for place in instants(0.0)] == pytest.approx([0.0] * 10, abs=1e-6)
    places = [(place + 0.05) % 0.1 - 0.05 for place in instants(0.04)]
    assert max(places) - min(places) > 0.01
    assert all(-0.02 <= place <= 0.021 for place in places)


def test_a_curves_gpus_tell_the_same_under_the_same_clock(driver: SimulatedDriver) -> None:
    def run() -> list[float]:
        clock = ManualClock()
        driver.start(gpus=64, curves=[SineCurve(200 + i, 50, 1.7) for i in range(64)], clock=clock)
        gpus = NvmlBackend(NO_VARIABLES).open()
        values = []
        for _ in range(5):
            clock.advance(0.37)
            values += [gpu.read() for gpu in gpus]
        for gpu in gpus:
            gpu.close()
        return values

    assert run() == run()


def test_more_gpus_than_can_be_shown_are_refused(driver: SimulatedDriver) -> None:
    with pytest.raises(ValueError, match="65 GPUs"):
        driver.start(gpus=65)


def test_facts_of_a_gpu_are_told(driver: SimulatedDriver) -> None:
    driver.set_uuid("GPU-12345678-0000-0000-0000-000000000000")
    driver.set_limit(450)
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByUUID("GPU-12345678-0000-0000-0000-000000000000")
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) == 450_000
    assert pynvml.nvmlDeviceGetPciInfo(gpu).busId == "00000000:01:00.0"
    assert pynvml.nvmlSystemGetDriverVersion() == "simulated"
    (energy,) = pynvml.nvmlDeviceGetFieldValues(gpu, [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION])
    assert energy.value.ullVal == pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    pynvml.nvmlShutdown()


def test_a_card_that_no_table_has_is_measured_with_ranges(driver: SimulatedDriver) -> None:
    clock = ManualClock()
    curve = PowerCurve(clock, 90)
    driver.start(curves=[curve], clock=clock)
    driver.set_name("NVIDIA Imaginary 9000")
    waited = 0.0
    with stepped(clock, 1) as m, m.stage("train"):
        for i in range(60):
            before = curve.joules()
            clock.advance(0.04 + 0.001 * (i % 20))
            waited += curve.joules() - before
            with m.batch(samples=1):
                curve.set(300)
                clock.advance(0.15 + 0.001 * (i % 30))
            curve.set(90)
    (device,) = m.record.devices
    wait = m.record.stages["train"].phases["data_wait"]
    assert device.name == "NVIDIA Imaginary 9000"
    assert m.record.total.joules is not None
    assert (wait.low_joules or 0.0) <= waited <= (wait.high_joules or 0.0) <= 1.05 * m.record.total.joules
