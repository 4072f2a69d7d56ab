"""Estimates where nothing measures."""

import importlib.util
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from ml_energy_callbacks.backends.cpu_model import TDP_VARIABLE, CpuModelBackend, find_tdp
from ml_energy_callbacks.backends.drivers.cpuinfo import parse_cpuinfo
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.backends.processor_power import (
    PROCESSOR_SHARE,
    WATTS_PER_GB,
    LoadPower,
    estimate_power,
    find_microarchitecture,
    typical_server,
)
from ml_energy_callbacks.codecarbon_data import Microarchitecture, microarchitectures, processor_tdps, processors
from ml_energy_callbacks.exceptions import ConfigurationError, ReadError
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SquareCurve, SteppedMeter
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.proc import SimulatedProc

EPYC = "AMD EPYC 9454 48-Core Processor"
MILAN, MILAN_CPUID = "AMD EPYC 7763 64-Core Processor", (25, 1, 1)
RESULTS = Path(__file__).parents[3] / "shared" / "data" / "specpower.csv"
"""Published results of SPECpower_ssj2008, which are not part of the project."""


def row(name: str) -> Microarchitecture:
    return next(one for one in microarchitectures() if one.name == name)


def typical(threads: int, tdp_watts: float | None, gigabytes: float | None = None) -> LoadPower:
    """The power of processors of an unknown microarchitecture."""
    server = typical_server(microarchitectures())
    return estimate_power(server, threads=threads, tdp_watts=tdp_watts, gigabytes=gigabytes)


def watts(source: object, clock: ManualClock) -> float:
    """The power that a model now tells."""
    before = source.read()  # type: ignore[attr-defined]
    clock.advance(10)
    return (source.read() - before) / 10  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def load(clock: ManualClock) -> PowerCurve:
    """The share of the processors that works."""
    return PowerCurve(clock, 0.0)


@pytest.fixture
def proc(tmp_path: Path, clock: ManualClock, load: PowerCurve) -> SimulatedProc:
    return SimulatedProc(tmp_path / "proc", clock, load)


def model(proc: SimulatedProc, clock: ManualClock, tdp_watts: float | None = None, **environ: str) -> CpuModelBackend:
    return CpuModelBackend(tdp_watts, proc=proc.root, cgroups=proc.root / "cgroup", clock=clock, environ=environ)


class TestCpuModel(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock) -> Bench:
        proc = SimulatedProc(tmp_path / "proc", clock, SquareCurve(0.1, 0.9, period_s=0.8))
        proc.processor(EPYC)
        stat, hidden = proc.root / "stat", proc.root / "hidden"

        def fail() -> None:
            stat.rename(hidden)

        def mend() -> None:
            hidden.rename(stat)

        return Bench(model(proc, clock), clock, lambda _: None, fail=fail, mend=mend)


class TestMemoryModel(BackendConformance):
    @pytest.fixture
    def bench(self, clock: ManualClock) -> Bench:
        return Bench(MemoryModelBackend(clock), clock, lambda _: None)


def test_the_load_curve_joins_its_points() -> None:
    power = LoadPower([10.0 + 2 * i for i in range(11)], 5.0, 0.6, 0.4)
    assert [power.at(load) for load in (0, 0.05, 0.5, 1)] == pytest.approx([15, 16, 25, 35])


def test_an_idle_processor_is_less_certain_than_a_busy_one() -> None:
    power = LoadPower([1.0] * 11, 0.0, 0.6, 0.4)
    assert [power.uncertainty(load) for load in (0, 0.05, 0.1, 1)] == pytest.approx([0.6, 0.5, 0.4, 0.4])
    assert power.widened(0.5).uncertainty(0) == 1.0


@pytest.mark.parametrize(
    ("name", "known", "watts"),
    [
        ("Intel(R) Xeon(R) CPU E5-2630 v3 @ 2.40GHz", "Intel Xeon E5-2630 v3", 85),
        ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", "Intel Xeon E5-2686 v4", 145),
        ("Intel(R) Xeon(R) CPU           X5650  @ 2.67GHz", "Intel Xeon X5650", 95),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "Intel Xeon Platinum 8375C", 300),
        ("Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", "Intel Xeon Gold 6248", 150),
        ("Intel(R) Xeon(R) Gold 6248R CPU @ 3.00GHz", "Intel Xeon Gold 6248R", 205),
        ("INTEL(R) XEON(R) PLATINUM 8592+", "Intel Xeon Platinum 8592+", 350),
        ("Intel(R) Xeon(R) W-2295 CPU @ 3.00GHz", "Intel Xeon W-2295", 165),
        ("Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz", "Intel Core 2 Duo E8400", 65),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "Intel Core i7-9750H", 45),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", "Intel Core i7-1165G7", 28),
        ("12th Gen Intel(R) Core(TM) i7-12700H", "Intel Core i7-12700H", 45),
        ("13th Gen Intel(R) Core(TM) i9-13900K", "Intel Core i9-13900K", 125),
        ("Intel(R) Core(TM) Ultra 7 155H", "Intel Core Ultra 7 155H", 28),
        ("Intel(R) N100", "Intel N100", 6),
        (EPYC, "AMD EPYC 9454", 290),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763", 280),
        ("AMD EPYC 7R13 Processor", "AMD EPYC 7R13", 225),
        ("AMD EPYC 7B12", "AMD EPYC 7B12", 240),
        ("AMD Ryzen 9 7950X 16-Core Processor", "AMD Ryzen 9 7950X", 170),
        ("AMD Ryzen 5 1600 Six-Core Processor", "AMD Ryzen 5 1600", 65),
        ("AMD Ryzen 7 PRO 4750U with Radeon Graphics", "AMD Ryzen 7 PRO 4750U", 15),
        ("AMD Ryzen 7 7840HS w/ Radeon 780M Graphics", "AMD Ryzen 7 7840HS", 54),
        ("AMD Ryzen 5 3500U with Radeon Vega Mobile Gfx", "AMD Ryzen 5 3500U", 15),
        ("AMD Ryzen Threadripper PRO 5995WX 64-Cores", "AMD Ryzen Threadripper PRO 5995WX", 280),
        ("AMD FX(tm)-8350 Eight-Core Processor", "AMD FX-8350", 125),
        ("AMD A10-7850K Radeon R7, 12 Compute Cores 4C+8G", "AMD A10-7850K", 95),
        ("AMD Opteron(tm) Processor 6276", "AMD Opteron 6276", 115),
    ],
)
def test_the_tdp_is_that_of_the_table(name: str, known: str, watts: float) -> None:
    assert find_tdp(name) == (known, watts)


@pytest.mark.parametrize(
    ("name", "uncertainty"),
    [
        ("13th Gen Intel(R) Core(TM) i5-1335U", 1.0),  # 55 W in the table, 15 W of base power
        ("12th Gen Intel(R) Core(TM) i7-1270P", 1.0),
        ("AMD Ryzen 7 PRO 4750U with Radeon Graphics", 1.0),
        ("Intel(R) Xeon(R) Platinum 8358P CPU @ 2.60GHz", 0.7),
        ("AMD EPYC 7502P 32-Core Processor", 0.7),
        ("12th Gen Intel(R) Core(TM) i7-12700H", 0.7),
    ],
)
def test_a_laptops_tdp_is_known_to_a_factor_of_two(
    proc: SimulatedProc, clock: ManualClock, name: str, uncertainty: float
) -> None:
    proc.processor(name)
    (source,) = model(proc, clock).open()
    assert source.device.relative_uncertainty == uncertainty
    assert ("turbo mode" in (source.device.note or "")) == (uncertainty == 1)


@pytest.mark.parametrize(
    "name",
    [
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        "Intel(R) Xeon(R) Platinum 8480C",  # the table has the 8480+
        "Intel(R) Core(TM)2 Quad CPU    Q6600  @ 2.40GHz",  # it has two of 95 and 105 W
        "Intel Xeon Processor (Cascadelake)",
        "AMD EPYC",
        "AMD EPYC Processor",
        "AMD EPYC-Milan Processor",
        "AMD EPYC 9V74 80-Core Processor",
        "QEMU Virtual CPU version 2.5+",
        "ARMv8 Processor rev 0 (v8l)",
        "aarch64",
        "A processor that nobody made",
    ],
)
def test_a_part_that_the_table_lacks_is_not_taken_for_another(name: str) -> None:
    assert find_tdp(name) is None


@pytest.mark.parametrize("name", ["", "???", "(R)", "é"])
def test_a_name_without_a_word_is_no_part(name: str) -> None:
    assert find_tdp(name) is None


def test_a_part_of_the_table_is_found_by_its_own_name() -> None:
    """Unless the table has several of that name that differ."""
    parts = list(processor_tdps().items())[::50]
    unfound = [name for name, watts in parts if (find_tdp(name) or (name, None))[1] != watts]
    assert len(unfound) < 0.05 * len(parts)


def test_to_open_the_model_again_does_not_search_the_table_again(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor("Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz")
    model(proc, clock).open()
    searches = find_tdp.cache_info().misses
    model(proc, clock).open()
    assert find_tdp.cache_info().misses == searches


def test_a_model_that_is_closed_is_not_read(proc: SimulatedProc, clock: ManualClock) -> None:
    (source,) = model(proc, clock).open()
    source.close()
    source.close()
    with pytest.raises(ReadError, match="closed"):
        source.read()


def test_a_known_part_is_estimated_by_its_tdp(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(EPYC, sockets=2)
    (source,) = model(proc, clock).open()
    assert source.device.provenance == "estimated"
    assert f"2 x 290 W TDP (AMD EPYC 9454 in the table of codecarbon {processors().codecarbon})" in (source.device.note or "")


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_the_joules_are_the_power_at_the_load(proc: SimulatedProc, clock: ManualClock, load: PowerCurve, share: float) -> None:
    proc.processor(EPYC)
    load.set(share)
    (source,) = model(proc, clock).open()
    for _ in range(40):
        clock.advance(0.25)
        joules = source.read()
    assert joules == pytest.approx(typical(4, 290).at(share) * 10, rel=0.01)


def test_a_known_server_is_estimated_by_its_microarchitecture(tmp_path: Path, clock: ManualClock, load: PowerCurve) -> None:
    """Two EPYC 7763 and 256 GB: published results have 75 to 122 W when idle and 406 to 546 W at full load."""
    proc = SimulatedProc(tmp_path / "milan", clock, load, threads=256)
    proc.processor(MILAN, sockets=2, cpuid=MILAN_CPUID)
    proc.memory(256)
    (source,) = model(proc, clock).open()
    assert 75 <= watts(source, clock) <= 122
    assert source.device.relative_uncertainty == 0.6
    load.set(1.0)
    clock.advance(1)
    assert 406 <= watts(source, clock) <= 546
    assert "Zen 3" in (source.device.note or "")


@pytest.mark.parametrize(
    ("vendor", "cpuid", "name"),
    [
        ("AuthenticAMD", (25, 17, 1), "Zen 4"),
        ("AuthenticAMD", (25, 1, 1), "Zen 3"),
        ("GenuineIntel", (6, 85, 4), "Skylake-SP"),
        ("GenuineIntel", (6, 85, 7), "Cascade Lake"),
        ("GenuineIntel", (6, 85, 11), "Cooper Lake"),
        ("GenuineIntel", (6, 158, 9), "Kaby Lake"),
        ("GenuineIntel", (6, 158, 10), "Coffee Lake"),
        ("GenuineIntel", (6, 143, 8), "Sapphire Rapids"),
        ("GenuineIntel", (25, 1, 1), None),
        ("AuthenticAMD", (15, 107, 1), None),
        ("GenuineIntel", (6, 6, 3), None),
    ],
)
def test_the_microarchitecture_is_that_of_cpuid(
    proc: SimulatedProc, vendor: str, cpuid: tuple[int, int, int], name: str | None
) -> None:
    proc.processor("AMD EPYC", vendor=vendor, cpuid=cpuid)
    found = find_microarchitecture(microarchitectures(), parse_cpuinfo((proc.root / "cpuinfo").read_text()))
    assert (found and found.name) == name


def test_each_microarchitecture_draws_more_with_more_load() -> None:
    for one in microarchitectures():
        assert len(one.watts) == 11, one.name
        assert one.watts[0] > 0
        assert sorted(one.watts) == list(one.watts), one.name
        assert 0.4 <= one.load_uncertainty <= one.idle_uncertainty <= 1, one.name
        assert 0.1 < one.watts[-1] / one.tdp_per_thread < 3, one.name


def test_more_memory_draws_more(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(MILAN, cpuid=MILAN_CPUID)
    found = []
    for gigabytes in (4, 104):
        proc.memory(gigabytes)
        (source,) = model(proc, clock).open()
        found.append(watts(source, clock))
    assert found[1] - found[0] == pytest.approx(100 * WATTS_PER_GB)
    assert f"its {gigabytes} GB of memory included" in (source.device.note or "")


def test_the_uncertainty_in_the_record_follows_the_load(proc: SimulatedProc, clock: ManualClock, load: PowerCurve) -> None:
    found = []
    for share in (0.0, 0.05, 0.9):
        proc.processor(MILAN, cpuid=MILAN_CPUID)
        load.set(share)
        meter = SteppedMeter(clock, backends=[model(proc, clock)], carbon_intensity=1, verbose=False)
        with meter, meter.stage("train"), meter.batch(1):
            clock.advance(20)
        (device,) = meter.record.devices
        found.append(device.relative_uncertainty)
        assert meter.record.total.relative_uncertainty == pytest.approx(device.relative_uncertainty)
    assert found == pytest.approx([0.6, 0.5, 0.4], abs=0.02)


def test_time_that_other_guests_took_is_not_work_of_this_machine(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(EPYC)
    (source,) = model(proc, clock).open()
    clock.advance(1)
    (proc.root / "stat").write_text("cpu  100 0 50 150 50 25 25 200 60 40\n")
    assert source.read() == pytest.approx(typical(4, 290).at(200 / 600))


@pytest.mark.parametrize("line", ["", "cpu  1 2 3\n", "cpu  a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8 9\n"])
def test_a_load_that_cannot_be_read_is_an_error(proc: SimulatedProc, clock: ManualClock, line: str) -> None:
    proc.processor(EPYC)
    (source,) = model(proc, clock).open()
    (proc.root / "stat").write_text(line)
    with pytest.raises(ReadError, match="load"):
        source.read()


def test_a_machine_that_has_no_proc_is_read_by_other_means(tmp_path: Path, clock: ManualClock) -> None:
    (source,) = CpuModelBackend(290, proc=tmp_path / "none", clock=clock).open()
    source.read()
    clock.advance(1)
    sum(range(3_000_000))
    power = typical(os.cpu_count() or 1, 290)
    assert power.watts[0] <= source.read()
    assert "GB of memory included" in (source.device.note or "")


def test_a_guest_of_a_known_part_draws_its_share(proc: SimulatedProc, clock: ManualClock, load: PowerCurve) -> None:
    proc.processor(EPYC, virtual=True)
    load.set(1.0)
    (source,) = model(proc, clock).open()
    clock.advance(10)
    assert source.read() == pytest.approx(typical(4, 290 * 4 / 96).at(1.0) * 10, rel=0.01)
    assert "4 threads of 96 with 290 W TDP (AMD EPYC 9454" in (source.device.note or "")


def test_a_guest_of_a_known_microarchitecture_draws_by_its_threads(
    tmp_path: Path, clock: ManualClock, load: PowerCurve
) -> None:
    """The host hides the name, and has 128 threads for each processor."""
    proc = SimulatedProc(tmp_path / "guest", clock, load, threads=2)
    proc.processor("AMD EPYC", virtual=True, cpuid=MILAN_CPUID)
    proc.memory(2)
    load.set(1.0)
    (source,) = model(proc, clock).open()
    clock.advance(1)
    assert watts(source, clock) == pytest.approx(2 * row("Zen 3").watts[-1] + 2 * WATTS_PER_GB, rel=0.01)
    assert 2 * 455 / 256 * 0.6 < watts(source, clock) < 2 * 455 / 256 * 1.4
    assert source.device.relative_uncertainty == pytest.approx(0.5, abs=0.01)  # ±40 %, and the part is unknown
    assert (source.device.note or "").startswith("A virtual machine's 2 threads of an unknown part")


def test_a_small_guest_with_much_memory_draws_five_to_nine_watts(tmp_path: Path, clock: ManualClock, load: PowerCurve) -> None:
    """This project's own machine."""
    proc = SimulatedProc(tmp_path / "guest", clock, load, threads=2)
    proc.processor("AMD EPYC", virtual=True, cpuid=(25, 17, 1))
    proc.memory(25)
    (source,) = model(proc, clock).open()
    found = []
    for share in (0.0, 0.5, 1.0):
        load.set(share)
        clock.advance(1)
        source.read()
        found.append(watts(source, clock))
    assert found == pytest.approx([4.2, 5.4, 6.6], abs=0.1)
    assert 5 < found[1] < found[2] < 9
    assert "its 25 GB of memory included" in (source.device.note or "")


@pytest.mark.parametrize("name", ["Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "AMD EPYC", None])
def test_a_guest_of_an_unknown_host_is_known_to_a_factor_of_two(
    proc: SimulatedProc, clock: ManualClock, load: PowerCurve, name: str | None
) -> None:
    proc.processor(name, virtual=True)
    load.set(1.0)
    (source,) = model(proc, clock).open()
    clock.advance(10)
    assert source.read() == pytest.approx(typical(4, None).at(1.0) * 10, rel=0.01)
    assert source.device.relative_uncertainty == 1.0
    assert "4 threads of an unknown part" in (source.device.note or "")


def limit(proc: SimulatedProc, version: int, quota: str = "", cpus: str = "") -> tuple[Path, int]:
    """Write the control groups of a container that runs in this process; return its file of CPU time, and its units per s."""
    mount = proc.root / "cgroup"
    (proc.root / "self").mkdir(exist_ok=True)
    usage, unit = (
        (mount / "job/step/cpu.stat", 1_000_000) if version == 2 else (mount / "cpuacct/job/step/cpuacct.usage", 10**9)
    )
    for name in ("", "cpu", "cpuset", "cpuacct"):
        (mount / name / "job" / "step").mkdir(parents=True, exist_ok=True)
    if version == 2:
        (proc.root / "self" / "cgroup").write_text("0::/job/step\n")
        (mount / "job/step/cpu.max").write_text(f"{quota or 'max'} 100000\n")
        (mount / "job/cpu.max").write_text("max 100000\n")
        (mount / "job/step/cpuset.cpus.effective").write_text(f"{cpus or '0-3'}\n")
    else:
        (proc.root / "self" / "cgroup").write_text("3:cpuset:/job/step\n2:cpuacct:/job/step\n1:cpu:/job/step\n0::/\n")
        (mount / "cpu/job/step/cpu.cfs_quota_us").write_text(f"{quota or '-1'}\n")
        (mount / "cpu/job/step/cpu.cfs_period_us").write_text("100000\n")
        (mount / "cpuset/job/step/cpuset.effective_cpus").write_text(f"{cpus or '0-3'}\n")
    return usage, unit


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("quota", "cpus", "threads"), [("150000", "", 1.5), ("", "0,2-3", 3), ("100000", "0-1", 1)])
def test_a_container_draws_its_share_by_its_own_load(
    proc: SimulatedProc, clock: ManualClock, version: int, quota: str, cpus: str, threads: float
) -> None:
    proc.processor(MILAN, cpuid=MILAN_CPUID)
    usage, unit = limit(proc, version, quota, cpus)

    def use(seconds: float) -> None:
        usage.write_text(f"usage_usec {seconds * unit:.0f}\nuser_usec 0\n" if version == 2 else f"{seconds * unit:.0f}\n")

    use(5)
    (source,) = model(proc, clock).open()
    clock.advance(10)
    use(5 + threads * 10 * 0.5)  # half of what it may use, while the rest of the machine is idle
    whole = estimate_power(row("Zen 3"), threads=4, tdp_watts=280, gigabytes=None)
    assert source.read() == pytest.approx(whole.at(0.5) * threads / 4 * 10, rel=0.01)
    assert f"the share of a control group with {threads:g} of 4 threads" in (source.device.note or "")
    usage.unlink()
    with pytest.raises(ReadError, match="control group"):
        source.read()


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_without_a_limit_is_the_machine(proc: SimulatedProc, clock: ManualClock, version: int) -> None:
    proc.processor(MILAN, cpuid=MILAN_CPUID)
    usage, _ = limit(proc, version)
    usage.write_text("usage_usec 5\n" if version == 2 else "5\n")
    (source,) = model(proc, clock).open()
    assert "control group" not in (source.device.note or "")


def test_memory_is_not_added_to_a_modelled_processor(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(MILAN, cpuid=MILAN_CPUID)
    models = [model(proc, clock), MemoryModelBackend(clock)]
    meter = SteppedMeter(clock, backends=models, devices=["cpu-model:0", "memory-model:0"], carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        clock.advance(1)
    assert [device.id for device in meter.record.devices] == ["cpu-model:0"]


def test_a_modelled_processor_leaves_out_a_measured_memory(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(MILAN, cpuid=MILAN_CPUID)
    memory = ScriptedCounter(PowerCurve(clock, 10.0), clock, period_s=0.02)
    memory.device = replace(memory.device, kind="dram")
    backends = [model(proc, clock), MemoryModelBackend(clock), ScriptedBackend([memory])]
    meter = SteppedMeter(clock, backends=backends, carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        clock.advance(10)
    found = {device.id: device for device in meter.record.devices}
    assert set(found) == {"cpu-model:0", memory.device.id}
    alone = PROCESSOR_SHARE * estimate_power(row("Zen 3"), threads=4, tdp_watts=280, gigabytes=0).at(0)
    assert found["cpu-model:0"].joules == pytest.approx(alone * meter.record.stages["train"].seconds, rel=0.05)
    assert "Without the memory" in (found["cpu-model:0"].note or "")


def test_the_modelled_memory_is_beside_a_measured_processor(proc: SimulatedProc, clock: ManualClock) -> None:
    processor = ScriptedCounter(PowerCurve(clock, 100.0), clock, period_s=0.02)
    processor.device = replace(processor.device, kind="cpu")
    backends = [ScriptedBackend([processor]), model(proc, clock), MemoryModelBackend(clock)]
    meter = SteppedMeter(clock, backends=backends, carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        clock.advance(1)
    assert {device.id for device in meter.record.devices} == {processor.device.id, "memory-model:0"}


def test_a_jobs_share_of_a_container_is_by_its_cpu_time(proc: SimulatedProc, clock: ManualClock) -> None:
    """The container used twice the CPU time of this process: half of its energy is the job's, however busy the machine is."""
    proc.processor(MILAN, cpuid=MILAN_CPUID)
    usage, _ = limit(proc, 2, cpus="0-1")

    def use() -> None:
        usage.write_text(f"usage_usec {2e6 * (time.process_time() + 1):.0f}\n")

    use()
    clock.follow(use)
    meter = SteppedMeter(clock, backends=[model(proc, clock)], scope="process", carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        for _ in range(6):
            began = time.process_time()
            while time.process_time() < began + 0.1:
                pass
            clock.advance(1.1)
    record = meter.record
    assert record.process is not None
    share = (record.process.joules or 0) / (record.total.joules or 1)
    assert share == pytest.approx(0.5, abs=0.2)  # the kernel counts in ticks of 10 ms


@pytest.mark.parametrize("virtual", [True, False])
def test_a_tdp_that_the_user_gives_is_taken(
    proc: SimulatedProc, clock: ManualClock, load: PowerCurve, *, virtual: bool
) -> None:
    proc.processor(EPYC, virtual=virtual)
    load.set(1.0)
    (by_variable,) = model(proc, clock, **{TDP_VARIABLE: "120.5"}).open()
    (by_parameter,) = model(proc, clock, 200, **{TDP_VARIABLE: "120.5"}).open()
    clock.advance(10)
    assert by_variable.read() == pytest.approx(typical(4, 120.5).at(1.0) * 10, rel=0.01)
    assert by_parameter.read() == pytest.approx(typical(4, 200).at(1.0) * 10, rel=0.01)
    assert (by_variable.device.note or "").startswith("120.5 W TDP as given by ML_ENERGY_CPU_TDP_WATTS, by the load curve of")
    assert by_variable.device.relative_uncertainty == 0.5


def test_an_empty_variable_is_none(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(EPYC)
    (source,) = model(proc, clock, **{TDP_VARIABLE: ""}).open()
    assert "290 W" in (source.device.note or "")


@pytest.mark.parametrize("value", ["much", "0", "-5", "nan", "inf", "280 W"])
def test_a_tdp_that_is_none_is_refused(proc: SimulatedProc, clock: ManualClock, value: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{TDP_VARIABLE} is '{value}'; give .* in watts"):
        model(proc, clock, **{TDP_VARIABLE: value}).open()


def test_a_parameter_that_is_no_tdp_is_refused(proc: SimulatedProc, clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError, match="tdp_watts is -1"):
        model(proc, clock, -1).open()


def test_memory_is_a_constant_power_by_its_size(clock: ManualClock) -> None:
    (source,) = MemoryModelBackend(clock).open()
    start = source.read()
    clock.advance(10)
    one = source.read() - start
    clock.advance(10)
    assert source.read() - start == pytest.approx(2 * one)
    assert one > 0
    assert "0.2 W/GB" in (source.device.note or "")


def test_the_interval_of_the_memory_is_from_idle_to_busy(clock: ManualClock) -> None:
    (source,) = MemoryModelBackend(clock).open()
    gigabytes = psutil.virtual_memory().total / 1e9
    before = source.read()
    clock.advance(1)
    watts_per_gb, share = (source.read() - before) / gigabytes, source.device.relative_uncertainty
    assert watts_per_gb * (1 - share) <= 0.04
    assert watts_per_gb * (1 + share) == pytest.approx(0.4)


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    """The script that compares the models with published results."""
    path = Path(__file__).parents[2] / "benchmarks" / "processor_models.py"
    spec = importlib.util.spec_from_file_location("processor_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(comparison: ModuleType) -> dict[str, dict[str, dict[str, float]]]:
    """The comparison with published results, each predicted without itself."""
    return comparison.compare(comparison.read_results(RESULTS))  # type: ignore[no-any-return]


published = pytest.mark.skipif(
    not RESULTS.exists(), reason=f"The published results are not part of the project, and not at {RESULTS}."
)


@published
def test_the_table_is_that_of_the_results(comparison: ModuleType) -> None:
    assert comparison.make_table(comparison.read_results(RESULTS)) == list(microarchitectures())


@published
@pytest.mark.parametrize(
    ("way", "most"),
    [("without itself", 13), ("without itself, as a virtual machine", 20), ("without its generation", 20)],
)
def test_the_model_is_as_good_as_stated(found: dict[str, dict[str, dict[str, float]]], way: str, most: float) -> None:
    figures = found["ways"][way]
    assert figures["mape"] <= most
    assert abs(figures["bias"]) <= 5


@published
def test_intervals_hold_at_each_band_of_loads(found: dict[str, dict[str, dict[str, float]]]) -> None:
    many = {name: figures for name, figures in found["generations"].items() if figures["results"] >= 10}
    few = [figures for figures in found["generations"].values() if figures["results"] < 10]
    for band in ("holds_idle", "holds_partial", "holds_full"):
        for name, figures in {**found["ways"], **many}.items():
            assert figures[band] >= 90, (name, band)
        together = sum(figures[band] * figures["results"] for figures in few) / sum(figures["results"] for figures in few)
        assert together >= 90, band
