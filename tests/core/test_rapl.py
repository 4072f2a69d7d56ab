"""Processors through a simulated powercap tree."""

import os
import time
from pathlib import Path

import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends import discover
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError


def zone(root: Path, folder: str, name: str, microjoules: int = 0, wrap: int = 65_532_610_987) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{wrap}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_packages_and_memory_are_read_and_nothing_twice(tmp_path: Path) -> None:
    for package in (0, 1):
        zone(tmp_path, f"intel-rapl:{package}", f"package-{package}", 5_000_000)
        zone(tmp_path, f"intel-rapl:{package}/intel-rapl:{package}:0", "core")
        zone(tmp_path, f"intel-rapl:{package}/intel-rapl:{package}:1", "uncore")
        zone(tmp_path, f"intel-rapl:{package}/intel-rapl:{package}:2", "dram")
    zone(tmp_path, "intel-rapl:2", "psys")
    zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    sources = RaplBackend(tmp_path).open()
    assert [(source.device.id, source.device.kind) for source in sources] == [
        ("rapl:package-0", "cpu"),
        ("rapl:package-0-dram", "dram"),
        ("rapl:package-1", "cpu"),
        ("rapl:package-1-dram", "dram"),
    ]
    assert sources[0].read() == 5.0
    for source in sources:
        source.close()
        source.close()
    with pytest.raises(ReadError):
        sources[0].read()


def test_a_counter_that_wraps_several_times_in_a_run_gives_the_exact_total(tmp_path: Path) -> None:
    wrap, step = 50_000_000, 7_300_001
    value = 49_000_000
    file = zone(tmp_path, "intel-rapl:0", "package-0", value, wrap)
    meter = EnergyMeter(backends=[RaplBackend(tmp_path)], sample_interval=0.01, carbon_intensity=1, verbose=False)
    with meter:
        time.sleep(0.1)
        with meter.stage("train"):
            for _ in range(30):
                value += step
                file_value = f"{value % wrap}\n"
                with file.open("r+") as opened:
                    opened.write(file_value.ljust(12))
                time.sleep(0.05)
    joules = [device.joules for device in meter.record.devices]
    assert value // wrap >= 4
    assert joules == [pytest.approx(30 * step / 1e6, rel=1e-9)]
    assert meter.record.total.joules == pytest.approx(30 * step / 1e6, rel=1e-9)


def test_a_machine_without_counters_is_no_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="virtual machines have none"):
        RaplBackend(tmp_path / "nothing").open()


def test_a_counter_for_root_alone_is_refused_with_a_recipe(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0")
    file.chmod(0o400)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != folder.parent and os.geteuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    else:
        file.chmod(0)
    try:
        with pytest.raises(BackendUnavailableError, match=r"root alone.*udev"):
            RaplBackend(tmp_path).open()
    finally:
        if privileged:
            os.seteuid(0)


def test_a_model_is_taken_only_for_what_nothing_measures(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    found = discover(backends=[RaplBackend(tmp_path), MemoryModelBackend()])
    assert [source.device.id for source in found.sources] == ["rapl:package-0", "memory-model:0"]
    zone(tmp_path, "intel-rapl:0/intel-rapl:0:0", "dram")
    found = discover(backends=[RaplBackend(tmp_path), MemoryModelBackend()])
    assert [source.device.id for source in found.sources] == ["rapl:package-0", "rapl:package-0-dram"]
    chosen = discover(["memory-*"], backends=[RaplBackend(tmp_path), MemoryModelBackend()])
    assert [source.device.id for source in chosen.sources] == ["memory-model:0"]
