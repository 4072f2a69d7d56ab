"""Estimates where nothing measures."""

from pathlib import Path

import pytest

from ml_energy_callbacks.backends.cpu_model import CpuModelBackend, find_tdp, load_share
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.testing import ManualClock


def test_the_load_curve_joins_its_points() -> None:
    assert load_share(0) == pytest.approx(0.19)
    assert load_share(0.05) == pytest.approx((0.19 + 0.34) / 2)
    assert load_share(1) == pytest.approx(1.05)


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("Intel(R) Xeon(R) CPU E5-2630 v3 @ 2.40GHz", 85),
        ("AMD EPYC 9454 48-Core Processor", 290),
        ("A processor that nobody made", None),
    ],
)
def test_the_tdp_is_that_of_the_table(name: str, watts: float | None) -> None:
    assert find_tdp(name) == watts


def cpuinfo(folder: Path, name: str, flags: str) -> CpuModelBackend:
    text = "".join(f"processor\t: {i}\nmodel name\t: {name}\nphysical id\t: {i % 2}\nflags\t\t: {flags}\n\n" for i in range(4))
    (folder / "cpuinfo").write_text(text)
    return CpuModelBackend(proc=folder, clock=ManualClock())


def test_a_processor_of_the_table_is_estimated_by_its_tdp(tmp_path: Path) -> None:
    (source,) = cpuinfo(tmp_path, "AMD EPYC 9454 48-Core Processor", "fpu").open()
    assert source.device.provenance == "estimated"
    assert source.device.relative_uncertainty == 0.5
    assert "2 x 290 W" in (source.device.note or "")


def test_a_virtual_machine_is_estimated_by_its_threads_and_less_sure(tmp_path: Path) -> None:
    (source,) = cpuinfo(tmp_path, "AMD EPYC 9454 48-Core Processor", "fpu hypervisor").open()
    assert source.device.relative_uncertainty == 1.0
    assert "virtual machine" in (source.device.note or "")


def test_the_cpu_model_stays_between_idle_and_full_load(tmp_path: Path) -> None:
    clock = ManualClock()
    cpuinfo(tmp_path, "AMD EPYC 9454 48-Core Processor", "fpu")
    (source,) = CpuModelBackend(proc=tmp_path, clock=clock).open()
    source.read()
    clock.advance(1)
    sum(range(3_000_000))
    assert 580 * 0.19 - 1e-6 <= source.read() <= 580 * 1.05


def test_memory_is_a_constant_power_by_its_size() -> None:
    clock = ManualClock()
    (source,) = MemoryModelBackend(clock).open()
    start = source.read()
    clock.advance(10)
    one = source.read() - start
    clock.advance(10)
    assert source.read() - start == pytest.approx(2 * one)
    assert one > 0
