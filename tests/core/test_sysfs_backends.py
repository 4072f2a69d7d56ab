"""Backends that read what Linux shows as files, over simulated trees."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from privilege import unprivileged

from ml_energy_callbacks.backends.arm_power import ArmPowerBackend
from ml_energy_callbacks.backends.battery import BatteryBackend
from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_text
from ml_energy_callbacks.backends.intel_gpu import IntelGpuBackend
from ml_energy_callbacks.backends.jetson import JetsonBackend
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Backend, Source
from ml_energy_callbacks.testing import ManualClock, PowerCurve, SineCurve, SquareCurve
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.hwmon import (
    SimulatedBatteries,
    SimulatedIntelGpu,
    SimulatedJetson,
    SimulatedPowerMeters,
)

ORIN_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
XAVIER_RAILS = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
THOR_RAILS = ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def curve() -> SquareCurve:
    return SquareCurve(60, 240, period_s=0.7)


@contextmanager
def opened(backend: Backend) -> Iterator[Sequence[Source]]:
    sources = backend.open()
    try:
        yield sources
    finally:
        for source in sources:
            source.close()


def ids(sources: Sequence[Source]) -> list[str]:
    return [source.device.id for source in sources]


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class TestIntelGpu(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> Bench:
        gpu = SimulatedIntelGpu(tmp_path / "machine", clock, curve)
        other = SineCurve(150, 60, period_s=0.9)
        gpu.card(other, address="0000:04:00.0", driver="i915", channels={"pkg": 1.0})
        curves = {"intel-gpu:0000:03:00.0": curve, "intel-gpu:0000:04:00.0": other}
        absent = IntelGpuBackend(tmp_path / "nothing")
        return Bench(IntelGpuBackend(gpu.root), clock, curves.get, absent, gpu.fail, gpu.mend, refresh_s=0.01)


class TestJetsonModule(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> Bench:
        jetson = SimulatedJetson(tmp_path, clock, {"VDD_IN": curve, "VDD_CPU_GPU_CV": curve, "VDD_SOC": curve})
        absent = JetsonBackend(tmp_path / "nothing")
        return Bench(JetsonBackend(jetson.root), clock, lambda _: curve, absent, jetson.fail, jetson.mend, resolution=0.005)


@pytest.mark.parametrize("driver", ["ina3221", "ina3221x"], scope="class")
class TestJetsonRails(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock, driver: str) -> Bench:
        curves = {name: SquareCurve(1 + n, 10 * (1 + n), 0.3 + 0.1 * n) for n, name in enumerate(XAVIER_RAILS)}
        jetson = SimulatedJetson(tmp_path, clock, curves, driver=driver)
        backend = JetsonBackend(jetson.root)

        def truth(device_id: str) -> SquareCurve:
            return curves[device_id.removeprefix("jetson:")]

        return Bench(backend, clock, truth, JetsonBackend(tmp_path / "nothing"), jetson.fail, jetson.mend, resolution=0.005)


class TestGrace(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> Bench:
        meters = SimulatedPowerMeters(tmp_path, clock)
        other = SineCurve(200, 100, period_s=1.3)
        meters.grace(curve, socket=0)
        meters.grace(other, socket=1)
        curves = {"arm-power:socket-0": curve, "arm-power:socket-1": other}
        absent = ArmPowerBackend(tmp_path / "nothing")
        return Bench(ArmPowerBackend(meters.root), clock, curves.get, absent, meters.fail, meters.mend)


class TestMachineMeter(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> Bench:
        meters = SimulatedPowerMeters(tmp_path, clock)
        meters.meter(curve, interval_s=1.0, accuracy="95.0%")
        absent = ArmPowerBackend(tmp_path / "nothing")
        return Bench(ArmPowerBackend(meters.root), clock, lambda _: curve, absent, meters.fail, meters.mend, refresh_s=2.0)


class TestBattery(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock) -> Bench:
        curve = SquareCurve(8, 45, period_s=0.6)
        batteries = SimulatedBatteries(tmp_path, clock, [curve])
        backend, absent = BatteryBackend(batteries.root), BatteryBackend(tmp_path / "nothing")
        return Bench(backend, clock, lambda _: curve, absent, batteries.fail, batteries.mend)


def every_backend(folder: Path, clock: ManualClock, curve: SquareCurve) -> Sequence[Backend]:
    """Return each of this module's backends over a machine that has such hardware."""
    meters = SimulatedPowerMeters(folder / "meters", clock)
    meters.grace(curve)
    meters.altra(curve)
    return (
        IntelGpuBackend(SimulatedIntelGpu(folder / "gpu", clock, curve).root),
        JetsonBackend(SimulatedJetson(folder / "jetson", clock, {"VDD_IN": curve}).root),
        ArmPowerBackend(meters.root),
        BatteryBackend(SimulatedBatteries(folder / "batteries", clock, [curve]).root),
    )


def test_what_is_closed_is_not_read_any_more(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    for backend in every_backend(tmp_path, clock, curve):
        for source in backend.open():
            source.close()
            with pytest.raises(ReadError):
                source.read()


def test_hardware_that_is_not_here_is_not_missed(tmp_path: Path) -> None:
    for backend in (IntelGpuBackend(tmp_path), JetsonBackend(tmp_path), ArmPowerBackend(tmp_path), BatteryBackend(tmp_path)):
        with pytest.raises(BackendUnavailableError) as caught:
            backend.open()
        assert not caught.value.present


# --- Intel


def test_a_cards_counter_is_read_and_never_the_packages_beside_it(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve
) -> None:
    gpu = SimulatedIntelGpu(tmp_path, clock, curve)
    with opened(IntelGpuBackend(gpu.root)) as sources:
        before = sources[0].read()
        clock.advance(7)
        assert ids(sources) == ["intel-gpu:0000:03:00.0"]
        assert sources[0].read() - before == pytest.approx(curve.joules(8_000_000_000) - curve.joules(1_000_000_000))
        assert sources[0].device.note is None


@pytest.mark.parametrize("driver", ["xe", "i915"])
def test_a_packages_counter_serves_alone_and_says_what_it_leaves_out(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve, driver: str
) -> None:
    gpu = SimulatedIntelGpu(tmp_path, clock)
    gpu.card(curve, driver=driver, channels={"pkg": 1.0})
    with opened(IntelGpuBackend(gpu.root)) as sources:
        assert sources[0].read() == pytest.approx(curve.joules(clock()))
        assert "is not included" in (sources[0].device.note or "")
        assert sources[0].device.relative_uncertainty == 0.2


def test_tiles_and_other_chips_are_no_cards(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    gpu = SimulatedIntelGpu(tmp_path, clock, curve)
    gpu.card(curve, driver="i915_gt0", channels={"pkg": 0.5})
    gpu.card(curve, driver="amdgpu", address="0000:05:00.0")
    with opened(IntelGpuBackend(gpu.root)) as sources:
        assert ids(sources) == ["intel-gpu:0000:03:00.0"]


def test_a_card_without_a_counter_is_told_with_a_fix(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    gpu = SimulatedIntelGpu(tmp_path, clock)
    gpu.card(curve, channels={})
    with pytest.raises(BackendUnavailableError, match=r"no energy counter\. Update Linux: i915 .* 6\.2, xe .* 6\.8") as caught:
        IntelGpuBackend(gpu.root).open()
    assert caught.value.present


def test_a_counter_for_root_alone_is_refused(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    gpu = SimulatedIntelGpu(tmp_path, clock, curve)
    for file in tmp_path.glob("devices/**/energy*_input"):
        file.chmod(0o400 if os.geteuid() == 0 else 0)
    with unprivileged(gpu.root), pytest.raises(BackendUnavailableError, match="This user has no permission") as caught:
        IntelGpuBackend(gpu.root).open()
    assert caught.value.present
    hwmon = gpu.root / "hwmon0"
    assert f"`sudo chmod a+r {hwmon}/energy1_input {hwmon}/energy2_input`" in str(caught.value.fix)


# --- Jetson


@pytest.mark.parametrize("total", ["VDD_IN", "POM_5V_IN"])
def test_a_modules_total_is_read_alone(tmp_path: Path, clock: ManualClock, curve: SquareCurve, total: str) -> None:
    jetson = SimulatedJetson(tmp_path, clock, {"GPU": curve, total: curve, "VDD_SOC": curve, "VDD_MUX": curve})
    with opened(JetsonBackend(jetson.root)) as sources:
        assert ids(sources) == [f"jetson:{total}"]
        assert sources[0].device.kind == "soc"
        assert sources[0].device.covers == ("cpu", "gpu", "dram")


@pytest.mark.parametrize(
    ("rails", "kinds", "covers"),
    [
        (XAVIER_RAILS, ["gpu", "cpu", "soc", "soc", "dram", "board"], set()),
        (ORIN_RAILS, ["gpu", "cpu", "board"], {"dram"}),
        (THOR_RAILS, ["gpu", "cpu", "board"], {"dram", "gpu"}),
    ],
    ids=["AGX Xavier", "AGX Orin", "AGX Thor"],
)
def test_a_module_without_a_total_is_the_rails_that_share_no_joule(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve, rails: Sequence[str], kinds: Sequence[str], covers: set[str]
) -> None:
    jetson = SimulatedJetson(tmp_path, clock, dict.fromkeys(rails, curve))
    with opened(JetsonBackend(jetson.root)) as sources:
        assert [source.device.kind for source in sources] == kinds
        assert {kind for source in sources for kind in source.device.covers} == covers
        assert "jetson:VDDQ_VDD2_1V8AO" not in ids(sources)


def test_rails_that_nobody_knows_are_not_added_up(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    jetson = SimulatedJetson(tmp_path, clock, {"VDD_NPU": curve, "VDD_CPU_CV": curve, "NC": curve})
    with pytest.raises(BackendUnavailableError, match=r"VDD_CPU_CV, VDD_NPU include others") as caught:
        JetsonBackend(jetson.root).open()
    assert caught.value.present


def test_another_chip_with_the_same_label_is_no_rail(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    jetson = SimulatedJetson(tmp_path, clock, {"VDD_IN": curve}, driver="pmbus")
    with pytest.raises(BackendUnavailableError, match="no power monitor"):
        JetsonBackend(jetson.root).open()


def test_a_rail_that_is_off_draws_nothing_rather_than_less(tmp_path: Path, clock: ManualClock) -> None:
    off = PowerCurve(clock, -0.04)
    jetson = SimulatedJetson(tmp_path, clock, dict.fromkeys(XAVIER_RAILS, off))
    with opened(JetsonBackend(jetson.root)) as sources:
        assert sources[0].read() == 0


def test_a_module_of_which_a_rail_is_missing_is_not_passed_off_as_whole(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve
) -> None:
    jetson = SimulatedJetson(tmp_path, clock, dict.fromkeys(XAVIER_RAILS, curve))
    next(tmp_path.glob("**/1-0041/**/curr2_input")).unlink()
    before = open_files()
    with pytest.raises(BackendUnavailableError, match=r"cannot be read.*curr2_input") as caught:
        JetsonBackend(jetson.root).open()
    assert open_files() == before
    assert caught.value.present
    assert caught.value.fix is None, "no permission brings it back"


def test_rails_for_root_alone_are_told_with_the_command_that_opens_them(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve
) -> None:
    jetson = SimulatedJetson(tmp_path, clock, {"VDD_IN": curve})
    for file in tmp_path.glob("**/*_input"):
        file.chmod(0o400 if os.geteuid() == 0 else 0)
    with (
        unprivileged(jetson.root),
        pytest.raises(BackendUnavailableError, match=r"cannot be read.*Permission denied") as caught,
    ):
        JetsonBackend(jetson.root).open()
    assert caught.value.present
    assert f"`sudo chmod a+r {jetson.root}/1-0040/hwmon/hwmon0/*_input`" in str(caught.value.fix)


# --- Arm servers and ACPI power meters


def test_of_a_grace_sockets_meters_the_total_alone_is_read(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.grace(curve, with_gpu=True)
    with opened(ArmPowerBackend(meters.root)) as sources:
        device = sources[0].device
        assert ids(sources) == ["arm-power:socket-0"]
        assert (device.kind, device.covers, device.whole_machine) == ("cpu", ("dram",), False)
        assert (device.update_period_s, device.min_interval_s) == (0.05, 0.0)
        assert (device.node, device.relative_uncertainty) == (0, 0.1)
        assert device.note == "Processor and its memory, mean power of the last 0.05 s."


def test_each_grace_socket_is_a_node_so_that_a_gpus_module_holds_its_own_alone(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve
) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.grace(curve, socket=0)
    meters.grace(curve, socket=1)
    with opened(ArmPowerBackend(meters.root)) as sources:
        assert {source.device.id: source.device.node for source in sources} == {
            "arm-power:socket-0": 0,
            "arm-power:socket-1": 1,
        }


def test_a_socket_or_a_card_that_tells_nothing_is_told(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    meters = SimulatedPowerMeters(tmp_path / "meters", clock)
    meters.grace(curve, socket=0)
    meters.grace(PowerCurve(clock, 0), socket=1)
    with opened(ArmPowerBackend(meters.root)) as sources:
        assert ids(sources) == ["arm-power:socket-0"]
        told = "The power meter of Processor socket 1 does not answer: its energy is not included."
        assert sources[0].device.missing == told
    gpu = SimulatedIntelGpu(tmp_path / "gpu", clock, curve)
    gpu.card(curve, address="0000:05:00.0", channels={})
    with opened(IntelGpuBackend(gpu.root)) as sources:
        told = "1 of 2 Intel GPUs have no readable counter: their energy is not included."
        assert sources[0].device.missing == told


def test_the_names_of_graces_successor_are_known(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    for label in ("Total Power in uW socket 0", "CPU Rail Power in uW socket 0", "Total CPU Energy In uJ socket 0"):
        meters.meter(curve, label=label)
    with opened(ArmPowerBackend(meters.root)) as sources:
        assert ids(sources) == ["arm-power:socket-0"]


def test_rails_of_a_socket_whose_total_is_missing_are_neither_it_nor_the_machine(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve
) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.meter(curve, label="CPU Power Socket 0")
    with pytest.raises(BackendUnavailableError, match=r"no power meter.*modprobe"):
        ArmPowerBackend(meters.root).open()


@pytest.mark.parametrize("with_device", [True, False], ids=["up to Linux 6.15", "since then"])
def test_a_meter_that_says_nothing_of_itself_is_the_machines(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve, *, with_device: bool
) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.meter(curve, interval_s=2.0, accuracy="80.0%", with_device=with_device)
    with opened(ArmPowerBackend(meters.root)) as sources:
        device = sources[0].device
        assert ids(sources) == ["arm-power:machine"]
        assert (device.kind, device.whole_machine, device.min_interval_s) == ("board", True, 2.0)
        assert device.relative_uncertainty == pytest.approx(0.2)
        assert "mean power of the last 2 s" in (device.note or "")


@pytest.mark.parametrize("milliseconds", [0, 0xFFFFFFFF, 3_600_001, "none"])
def test_an_interval_that_cannot_be_one_is_unknown(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve, milliseconds: int | str
) -> None:
    """The firmware may then take long, so that the meter is not read as often as a quick one."""
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.meter(curve, label="Grace Power Socket 0")
    next(tmp_path.glob("devices/**/power1_average_interval")).write_text(f"{milliseconds}\n")
    with opened(ArmPowerBackend(meters.root)) as sources:
        device = sources[0].device
        assert (device.update_period_s, device.min_interval_s, device.relative_uncertainty) == (None, 1.0, 0.1)
        assert "unknown interval" in (device.note or "")


@pytest.mark.parametrize(
    ("interval_s", "least_s", "uncertainty"),
    [(0.4, 0.0, 0.1), (5, 5, 0.1), (12, 5, 0.1), (30, 5, 0.25), (300, 5, 1.0), (3600, 5, 1.0)],
)
def test_a_long_mean_is_read_often_enough_and_known_to_lag(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve, interval_s: float, least_s: float, uncertainty: float
) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.meter(curve, interval_s=interval_s)
    with opened(ArmPowerBackend(meters.root)) as sources:
        device = sources[0].device
        assert device.min_interval_s == least_s
        assert device.relative_uncertainty == pytest.approx(uncertainty)


def test_several_meters_that_say_nothing_are_not_guessed_at(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.meter(curve)
    meters.meter(curve)
    before = open_files()
    with pytest.raises(BackendUnavailableError, match="2 ACPI power meters") as caught:
        ArmPowerBackend(meters.root).open()
    assert caught.value.present
    assert open_files() == before
    meters.grace(curve)
    with opened(ArmPowerBackend(meters.root)) as sources:
        assert ids(sources) == ["arm-power:socket-0"]


def test_altras_two_supplies_are_both_read(tmp_path: Path, clock: ManualClock, curve: SquareCurve) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.altra(curve)
    with opened(ArmPowerBackend(meters.root)) as sources:
        assert ids(sources) == ["arm-power:APMC0D8A:00-cpu", "arm-power:APMC0D8A:00-io"]
        assert all(source.device.min_interval_s > 0 for source in sources), "the management processor may be slow"
        assert sum(source.read() for source in sources) == pytest.approx(curve.watts(clock()))


@pytest.mark.parametrize("microwatts", [0, 0xFFFFFFFF * 1000], ids=["never answered", "could not measure"])
def test_what_a_meter_says_that_could_not_measure_is_no_power(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve, microwatts: int
) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.grace(curve)
    backend = ArmPowerBackend(meters.root)
    with opened(backend) as sources:
        meters.fail()
        for file in tmp_path.glob("devices/**/power1_average"):
            file.write_text(f"{microwatts}\n")
        with pytest.raises(ReadError, match=str(microwatts)):
            sources[0].read()
        with pytest.raises(BackendUnavailableError, match=r"does not answer.*acpi_ipmi") as caught:
            backend.open()
        assert caught.value.present
        meters.mend()
        assert sources[0].read() > 0


def test_a_silent_meter_of_the_whole_machine_leaves_nothing_out_of_the_total(
    tmp_path: Path, clock: ManualClock, curve: SquareCurve
) -> None:
    meters = SimulatedPowerMeters(tmp_path, clock)
    meters.meter(curve)
    meters.fail()
    with pytest.raises(BackendUnavailableError, match=r"does not answer.*acpi_ipmi") as caught:
        ArmPowerBackend(meters.root).open()
    assert not caught.value.present


# --- Batteries


def test_a_battery_that_tells_current_and_voltage_is_as_good(tmp_path: Path, clock: ManualClock) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 23)], tells_current=True)
    with opened(BatteryBackend(batteries.root)) as sources:
        device = sources[0].device
        assert sources[0].read() == pytest.approx(23, abs=1e-3)
        assert (device.kind, device.whole_machine, device.min_interval_s) == ("board", True, 1.0)


def test_a_minus_sign_of_a_current_that_flows_out_is_no_negative_power(tmp_path: Path, clock: ManualClock) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, -23)], tells_current=True)
    with opened(BatteryBackend(batteries.root)) as sources:
        assert sources[0].read() == pytest.approx(23, abs=1e-3)


def test_two_batteries_are_one_device_and_the_one_that_rests_adds_nothing(tmp_path: Path, clock: ManualClock) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 20), PowerCurve(clock, 5)])
    with opened(BatteryBackend(batteries.root)) as sources:
        assert ids(sources) == ["battery:0"]
        assert sources[0].read() == pytest.approx(25)
        batteries.status(0, "Not charging")
        assert sources[0].read() == pytest.approx(5)


def charge(batteries: SimulatedBatteries) -> None:
    batteries.plug_in("Charging")


def be_full(batteries: SimulatedBatteries) -> None:
    batteries.plug_in("Full")


def be_helped(batteries: SimulatedBatteries) -> None:
    batteries.plug_in("Discharging")


def charge_one_from_the_other(batteries: SimulatedBatteries) -> None:
    batteries.status(0, "Charging")


@pytest.mark.parametrize("change", [charge, be_full, be_helped, charge_one_from_the_other])
def test_a_battery_that_does_not_feed_the_machine_alone_tells_nothing(
    tmp_path: Path, clock: ManualClock, change: Callable[[SimulatedBatteries], None]
) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 20), PowerCurve(clock, 5)])
    backend = BatteryBackend(batteries.root)
    with opened(backend) as sources:
        change(batteries)
        with pytest.raises(ReadError, match="not supply the machine on its own"):
            sources[0].read()
        with pytest.raises(
            BackendUnavailableError, match=r"not supply the machine on its own.*Unplug the power supply"
        ) as caught:
            backend.open()
        assert not caught.value.present
        batteries.unplug()
        assert sources[0].read() == pytest.approx(25)


@pytest.mark.parametrize("online", [1, 2])
def test_a_supply_by_usb_c_feeds_the_machine_too(tmp_path: Path, clock: ManualClock, online: int) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 20)], supply="USB")
    with opened(BatteryBackend(batteries.root)) as sources:
        assert sources[0].read() == pytest.approx(20)
        batteries.files.fix("class/power_supply/AC/online", online)
        with pytest.raises(ReadError, match="not supply the machine on its own"):
            sources[0].read()


def test_a_mouse_that_hangs_on_usb_is_not_the_machines_supply(tmp_path: Path, clock: ManualClock) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 20)], supply="USB")
    batteries.files.fix("class/power_supply/AC/online", 1)
    batteries.files.fix("class/power_supply/AC/scope", "Device")
    with opened(BatteryBackend(batteries.root)) as sources:
        assert sources[0].read() == pytest.approx(20)


@pytest.mark.parametrize("power", ["0", "none"])
def test_a_power_that_a_driver_leaves_empty_is_taken_from_current_and_voltage(
    tmp_path: Path, clock: ManualClock, power: str
) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 23)], tells_current=True)
    batteries.files.fix("class/power_supply/BAT0/power_now", power)
    with opened(BatteryBackend(batteries.root)) as sources:
        assert sources[0].read() == pytest.approx(23, abs=1e-3)


def test_a_battery_of_two_that_fails_is_not_left_out(tmp_path: Path, clock: ManualClock) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 20), PowerCurve(clock, 5)])
    with opened(BatteryBackend(batteries.root)) as sources:
        (batteries.root / "BAT1" / "power_now").write_text("none\n")
        with pytest.raises(ReadError, match="does not report its power"):
            sources[0].read()


def test_a_battery_that_is_taken_out_is_an_error(tmp_path: Path, clock: ManualClock) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 20), PowerCurve(clock, 5)])
    with opened(BatteryBackend(batteries.root)) as sources:
        (batteries.root / "BAT1" / "status").unlink()
        with pytest.raises(ReadError):
            sources[0].read()


@pytest.mark.parametrize("watts", [0.0, 20.0])
def test_a_battery_that_does_not_tell_its_power_is_refused(tmp_path: Path, clock: ManualClock, watts: float) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, watts)] * 2)
    if watts:
        (batteries.root / "BAT1" / "power_now").unlink()
    before = open_files()
    with pytest.raises(BackendUnavailableError, match="does not report its power") as caught:
        BatteryBackend(batteries.root).open()
    assert open_files() == before
    assert not caught.value.present


def test_a_mouses_battery_is_not_the_machines(tmp_path: Path, clock: ManualClock) -> None:
    batteries = SimulatedBatteries(tmp_path, clock, [PowerCurve(clock, 2)])
    batteries.files.fix("class/power_supply/BAT0/scope", "Device")
    with pytest.raises(BackendUnavailableError, match="no battery"):
        BatteryBackend(batteries.root).open()


# --- Files


def test_a_number_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("12\n")
    number = NumberFile(file)
    assert number.read() == 12
    file.write_text("-7\n")
    assert number.read() == -7
    number.close()
    number.close()
    with pytest.raises(ReadError, match="closed"):
        number.read()


@pytest.mark.parametrize("text", ["", "none\n", "1.5\n"])
def test_what_is_no_whole_number_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "number"
    file.write_text(text)
    number = NumberFile(file)
    with pytest.raises(ReadError, match=str(file)):
        number.read()
    number.close()


def test_a_file_that_comes_back_is_opened_again(tmp_path: Path) -> None:
    # A directory opens, and each read of it fails, as of a device that is gone.
    place = tmp_path / "number"
    place.mkdir()
    number = NumberFile(place)
    before = open_files()
    with pytest.raises(ReadError, match="cannot be read"):
        number.read()
    place.rmdir()
    for _ in range(2):
        with pytest.raises(ReadError, match="No such file"):
            number.read()
    assert open_files() == before - 1
    place.write_text("12\n")
    assert number.read() == 12
    number.close()


def test_a_link_that_leads_elsewhere_later_is_not_followed(tmp_path: Path) -> None:
    place, other = tmp_path / "number", tmp_path / "other"
    place.mkdir()
    other.write_text("99\n")
    link = tmp_path / "link"
    link.symlink_to(place)
    number = NumberFile(link)
    with pytest.raises(ReadError):
        number.read()
    link.unlink()
    link.symlink_to(other)
    place.rmdir()
    with pytest.raises(ReadError):
        number.read()
    number.close()


def test_a_file_that_is_not_there_has_no_text(tmp_path: Path) -> None:
    file = tmp_path / "text"
    assert read_text(file) is None
    file.write_text(" xe\n")
    assert read_text(file) == "xe"
