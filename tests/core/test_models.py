"""Estimates where nothing measures."""

from pathlib import Path

import pytest

from ml_energy_callbacks.backends.cpu_model import TDP_VARIABLE, WATTS_PER_THREAD, CpuModelBackend, find_tdp, load_share
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.codecarbon_data import processor_tdps, processors
from ml_energy_callbacks.exceptions import ConfigurationError, ReadError
from ml_energy_callbacks.testing import ManualClock, PowerCurve, SquareCurve
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.proc import SimulatedProc

EPYC = "AMD EPYC 9454 48-Core Processor"


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
    return CpuModelBackend(tdp_watts, proc=proc.root, clock=clock, environ=environ)


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
    assert load_share(0) == pytest.approx(0.19)
    assert load_share(0.05) == pytest.approx((0.19 + 0.34) / 2)
    assert load_share(1) == pytest.approx(1.05)


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
        ("Intel(R) Xeon(R) Platinum 8358P CPU @ 2.60GHz", 0.5),
        ("AMD EPYC 7502P 32-Core Processor", 0.5),
        ("12th Gen Intel(R) Core(TM) i7-12700H", 0.5),
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


def test_a_processor_of_the_table_is_estimated_by_its_tdp(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(EPYC, sockets=2)
    (source,) = model(proc, clock).open()
    assert source.device.provenance == "estimated"
    assert source.device.relative_uncertainty == 0.5
    assert f"2 x 290 W TDP (AMD EPYC 9454 in the table of codecarbon {processors().codecarbon})" in (source.device.note or "")


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_the_joules_are_tdp_times_the_curve_at_the_load(
    proc: SimulatedProc, clock: ManualClock, load: PowerCurve, share: float
) -> None:
    proc.processor(EPYC)
    load.set(share)
    (source,) = model(proc, clock).open()
    for _ in range(40):
        clock.advance(0.25)
        joules = source.read()
    assert joules == pytest.approx(290 * load_share(share) * 10, rel=0.01)


def test_time_that_other_guests_took_is_not_work_of_this_machine(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(EPYC)
    (source,) = model(proc, clock).open()
    clock.advance(1)
    (proc.root / "stat").write_text("cpu  100 0 50 150 50 25 25 200 60 40\n")
    assert source.read() == pytest.approx(290 * load_share(200 / 600))


@pytest.mark.parametrize("line", ["", "cpu  1 2 3\n", "cpu  a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8 9\n"])
def test_a_load_that_cannot_be_read_is_an_error(proc: SimulatedProc, clock: ManualClock, line: str) -> None:
    proc.processor(EPYC)
    (source,) = model(proc, clock).open()
    (proc.root / "stat").write_text(line)
    with pytest.raises(ReadError, match="load"):
        source.read()


def test_a_machine_that_has_no_proc_is_read_by_other_means(tmp_path: Path, clock: ManualClock) -> None:
    (source,) = CpuModelBackend(290, proc=tmp_path, clock=clock).open()
    source.read()
    clock.advance(1)
    sum(range(3_000_000))
    assert 290 * 0.19 - 1e-6 <= source.read() <= 290 * 1.05


def test_a_virtual_machine_of_a_known_host_draws_its_share_of_it(
    proc: SimulatedProc, clock: ManualClock, load: PowerCurve
) -> None:
    proc.processor(EPYC, virtual=True)
    load.set(1.0)
    (source,) = model(proc, clock).open()
    clock.advance(10)
    assert source.read() == pytest.approx(290 * 4 / 96 * 1.05 * 10, rel=0.01)
    assert source.device.relative_uncertainty == 1.0
    assert "4 threads of 96 with 290 W TDP (AMD EPYC 9454" in (source.device.note or "")


@pytest.mark.parametrize(
    ("name", "why"),
    [("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "a virtual machine"), ("AMD EPYC", "a virtual machine")],
)
def test_a_virtual_machine_of_an_unknown_host_is_estimated_by_its_threads(
    proc: SimulatedProc, clock: ManualClock, load: PowerCurve, name: str, why: str
) -> None:
    proc.processor(name, virtual=True)
    load.set(1.0)
    (source,) = model(proc, clock).open()
    clock.advance(10)
    assert source.read() == pytest.approx(WATTS_PER_THREAD * 4 * 1.05 * 10, rel=0.01)
    assert source.device.relative_uncertainty == 1.0
    assert why in (source.device.note or "")


def test_a_processor_without_a_name_is_estimated_by_its_threads(proc: SimulatedProc, clock: ManualClock) -> None:
    proc.processor(None)
    (source,) = model(proc, clock).open()
    assert source.device.relative_uncertainty == 1.0
    assert f"4 threads x 4 W (not in the table of codecarbon {processors().codecarbon})" in (source.device.note or "")


@pytest.mark.parametrize("virtual", [True, False])
def test_a_tdp_that_the_user_gives_is_taken(
    proc: SimulatedProc, clock: ManualClock, load: PowerCurve, *, virtual: bool
) -> None:
    proc.processor(EPYC, virtual=virtual)
    load.set(1.0)
    (by_variable,) = model(proc, clock, **{TDP_VARIABLE: "120.5"}).open()
    (by_parameter,) = model(proc, clock, 200, **{TDP_VARIABLE: "120.5"}).open()
    clock.advance(10)
    assert by_variable.read() == pytest.approx(120.5 * 1.05 * 10, rel=0.01)
    assert by_parameter.read() == pytest.approx(200 * 1.05 * 10, rel=0.01)
    assert by_variable.device.note == "120.5 W TDP as given by ML_ENERGY_CPU_TDP_WATTS, times a load curve."
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
    assert "0.392 W/GB" in (source.device.note or "")
