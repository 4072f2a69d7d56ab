"""Apple silicon through a stand-in for the module zeus_apple_silicon."""

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from ml_energy_callbacks.backends.apple import AppleBackend
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Source
from ml_energy_callbacks.testing import Curve, ManualClock, SineCurve, SquareCurve
from ml_energy_callbacks.testing.apple import SimulatedApple
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench

CPU, GPU, DRAM, ANE = SineCurve(12, 8, 2), SquareCurve(2, 30, 0.5), SineCurve(3, 1, 1), SquareCurve(0, 4, 1)
NOTHING = SquareCurve(0, 0, 1)
CHIP: dict[str, Curve] = {"cpu_total_mj": CPU, "gpu_mj": GPU, "gpu_sram_mj": NOTHING, "dram_mj": DRAM, "ane_mj": ANE}
IDS = ["apple:cpu", "apple:gpu", "apple:dram", "apple:ane"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def chip(clock: ManualClock) -> Iterator[SimulatedApple]:
    """A chip that has every counter."""
    with SimulatedApple(clock, CHIP) as chip:
        yield chip


def open_on_a_mac(clock: ManualClock) -> Sequence[Source]:
    return AppleBackend("Darwin", "arm64", clock).open()


class TestApple(BackendConformance):
    """What is promised of every backend."""

    @pytest.fixture
    def bench(self, clock: ManualClock, chip: SimulatedApple) -> Bench:
        def fail() -> None:
            chip.read_error = RuntimeError("Failed to convert CFString to std::string")

        def mend() -> None:
            chip.read_error = None

        return Bench(
            AppleBackend("Darwin", "arm64", clock),
            clock,
            dict(zip(IDS, (CPU, GPU, DRAM, ANE), strict=True)).__getitem__,
            absent=AppleBackend("Linux", "aarch64", clock),
            fail=fail,
            mend=mend,
            refresh_s=0.0,
        )


def test_the_parts_of_the_chip_are_read_and_none_twice(clock: ManualClock, chip: SimulatedApple) -> None:
    # Cores, clusters and managers are inside the processor's total.
    chip.curves |= {"efficiency_core_manager_mj": SquareCurve(50, 50, 1), "performance_core_manager_mj": SquareCurve(50, 50, 1)}
    sources = open_on_a_mac(clock)
    assert [source.device.id for source in sources] == IDS
    assert [source.device.kind for source in sources] == ["cpu", "gpu", "dram", "soc"]
    before = sum(source.read() for source in sources)
    clock.advance(4)
    after = sum(source.read() for source in sources)
    assert after - before == pytest.approx(4 * (12 + 16 + 3 + 2), abs=0.02)


def test_the_gpus_memory_is_part_of_it(clock: ManualClock, chip: SimulatedApple) -> None:
    chip.curves["gpu_sram_mj"] = SquareCurve(5, 5, 1)
    gpu = open_on_a_mac(clock)[1]
    before = gpu.read()
    clock.advance(4)
    assert gpu.read() - before == pytest.approx(4 * (16 + 5), abs=0.01)


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        ({"dram_mj"}, ["apple:cpu", "apple:gpu", "apple:ane"]),
        ({"gpu_sram_mj"}, IDS),  # as on the M5
        ({"gpu_mj"}, ["apple:cpu", "apple:dram", "apple:ane"]),
        ({"cpu_total_mj", "ane_mj", "dram_mj"}, ["apple:gpu"]),
    ],
)
def test_what_the_chip_does_not_count_is_no_device(
    clock: ManualClock, chip: SimulatedApple, missing: set[str], found: list[str]
) -> None:
    for name in missing:
        del chip.curves[name]
    assert [source.device.id for source in open_on_a_mac(clock)] == found


def test_a_chip_that_counts_nothing_is_told(clock: ManualClock, chip: SimulatedApple) -> None:
    chip.curves.clear()
    with pytest.raises(BackendUnavailableError, match="virtual machines have none") as caught:
        open_on_a_mac(clock)
    assert caught.value.present


def test_apples_figures_are_said_to_be_estimates(clock: ManualClock, chip: SimulatedApple) -> None:
    for source in open_on_a_mac(clock):
        assert source.device.provenance == "estimated"
        assert source.device.method == "energy_counter"
        assert "Estimated" in (source.device.note or "")


def test_one_look_serves_all_parts_of_a_round_and_no_part_twice(clock: ManualClock, chip: SimulatedApple) -> None:
    sources = open_on_a_mac(clock)
    clock.advance(1)
    chip.reads = 0
    for source in sources:
        source.read()
    assert chip.reads == 1
    for source in sources:
        source.read()
    assert chip.reads == 2
    sources[0].read()
    clock.advance(0.003)
    sources[1].read()
    assert chip.reads == 4


def test_a_part_that_is_read_later_than_another_gets_its_own_look(clock: ManualClock, chip: SimulatedApple) -> None:
    cpu, gpu, *_ = open_on_a_mac(clock)
    before = gpu.read()
    clock.advance(0.2)
    cpu.read()
    clock.advance(0.2)
    assert gpu.read() - before == pytest.approx(GPU.joules(clock()) - GPU.joules(clock() - 400_000_000), abs=0.01)


def test_a_counter_that_goes_away_is_a_failed_read_until_it_is_back(clock: ManualClock, chip: SimulatedApple) -> None:
    sources = open_on_a_mac(clock)
    dram = sources[2]
    del chip.curves["dram_mj"]
    clock.advance(0.05)
    with pytest.raises(ReadError, match="no longer available"):
        dram.read()
    assert sources[0].read() > 0
    chip.curves["dram_mj"] = DRAM
    clock.advance(0.05)
    assert dram.read() > 0


def test_a_failed_look_is_not_mistaken_for_an_earlier_one(clock: ManualClock, chip: SimulatedApple) -> None:
    cpu, gpu, *_ = open_on_a_mac(clock)
    clock.advance(1)
    cpu.read()
    chip.read_error = RuntimeError("no sample")
    with pytest.raises(ReadError, match="no sample"):
        cpu.read()
    with pytest.raises(ReadError, match="no sample"):
        gpu.read()


def test_a_closed_part_is_not_read_and_the_others_are(clock: ManualClock, chip: SimulatedApple) -> None:
    cpu, gpu, *_ = open_on_a_mac(clock)
    cpu.close()
    cpu.close()
    with pytest.raises(ReadError, match="closed"):
        cpu.read()
    assert gpu.read() > 0


def test_a_monitor_that_cannot_be_made_is_told(clock: ManualClock, chip: SimulatedApple) -> None:
    chip.monitor_error = RuntimeError("Failed to create IOReport subscription")
    with pytest.raises(BackendUnavailableError, match="Failed to create IOReport subscription"):
        open_on_a_mac(clock)
    chip.monitor_error = None
    chip.read_error = RuntimeError("Unsupported or invalid energy unit provided: kWh")
    with pytest.raises(BackendUnavailableError, match="kWh") as caught:
        open_on_a_mac(clock)
    assert caught.value.present


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module", name="zeus_apple_silicon"), r"not installed.*ml-energy-callbacks\[apple\]"),
        (ImportError("incompatible architecture (have 'x86_64')"), "cannot be loaded: incompatible architecture"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_told_with_the_way_out(
    clock: ManualClock, error: Exception, reason: str
) -> None:
    chip = SimulatedApple(clock, CHIP)
    chip.import_error = error
    with chip, pytest.raises(BackendUnavailableError, match=reason) as caught:
        open_on_a_mac(clock)
    assert caught.value.present
    assert "pip install" in str(caught.value.fix)


@pytest.mark.parametrize(("system", "machine"), [("Linux", "arm64"), ("Darwin", "x86_64"), ("Windows", "AMD64")])
def test_on_other_machines_nothing_is_to_be_installed(
    clock: ManualClock, chip: SimulatedApple, system: str, machine: str
) -> None:
    with pytest.raises(BackendUnavailableError, match="no Apple silicon") as caught:
        AppleBackend(system, machine, clock).open()
    assert caught.value.fix is None
    assert not caught.value.present
    assert chip.reads == 0


def test_the_package_is_not_imported_with_the_backend() -> None:
    script = "import sys, ml_energy_callbacks.backends.apple; print('zeus_apple_silicon' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
