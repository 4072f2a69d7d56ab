"""Processors through a simulated powercap tree, and through the kernel's own perf events."""

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.discovery import discover
from ml_energy_callbacks.backends.drivers.perf_event import PerfEvent
from ml_energy_callbacks.backends.drivers.sysfs import NumberFile
from ml_energy_callbacks.backends.memory_model import MemoryModelBackend
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.testing import ManualClock, PowerCurve, SineCurve, SquareCurve, StepCurve, SteppedMeter
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.powercap import SimulatedPowercap
from ml_energy_callbacks.testing.proc import SimulatedProc

CURVE = SquareCurve(60, 240, period_s=0.7)
DRAM = SineCurve(20, 8, period_s=1.1)
SOFTWARE, CPU_CLOCK = 1, 0
"""``PERF_TYPE_SOFTWARE`` and ``PERF_COUNT_SW_CPU_CLOCK``: the kernel counts ns."""


def backend(folder: Path, clock: Clock = monotonic_clock) -> RaplBackend:
    """Look into the simulated trees of this folder alone, whatever the machine of the test has."""
    return RaplBackend(folder / "powercap", folder / "event_source", folder / "cpus", folder / "proc", clock)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tree(tmp_path: Path, clock: ManualClock) -> SimulatedPowercap:
    return SimulatedPowercap(tmp_path / "powercap", clock)


@contextlib.contextmanager
def an_ordinary_user(tmp_path: Path) -> Iterator[None]:
    """Root may read everything: go on as somebody who may not."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestPowercap(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path, clock: ManualClock) -> Bench:
        tree = SimulatedPowercap(tmp_path / "powercap", clock, wrap_joules=300)
        truth = {}
        zones = []
        for number in (0, 1):
            package = tree.package(CURVE, number=number)
            zones += [package, tree.part(package, "dram", DRAM)]
            truth |= {f"rapl:package-{number}": CURVE, f"rapl:package-{number}-dram": DRAM}
            tree.part(package, "core", CURVE)
        tree.psys(CURVE)
        processor(tmp_path, clock, "GenuineIntel")
        return Bench(
            backend(tmp_path, clock),
            clock,
            truth.get,
            absent=backend(tmp_path / "elsewhere", clock),
            fail=lambda: [zone.remove() for zone in zones] and None,
            mend=lambda: [zone.restore() for zone in zones] and None,
            refresh_s=tree.refresh_s,
            resolution=1e-6,
        )


def processor(folder: Path, clock: Clock, vendor: str) -> None:
    """Tell who made the processor."""
    SimulatedProc(folder / "proc", clock, StepCurve([(0, 0)])).processor("A processor", vendor=vendor)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class FastClock(ManualClock):
    """Real time, twenty times faster: what the kernel counts cannot be moved by hand."""

    speed = 20

    def __call__(self) -> int:
        return time.perf_counter_ns() * self.speed

    def advance(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)


def perf_tree(folder: Path, mask: str = "0", joules_per_count: float = 1e-9) -> None:
    """Show the kernel's clocks of CPUs, which count ns, as energy: 1 W for a package, half of that for its memory."""
    unit = folder / "event_source" / "power"
    (unit / "events").mkdir(parents=True)
    (unit / "type").write_text(f"{SOFTWARE}\n")
    (unit / "cpumask").write_text(f"{mask}\n")
    for event, factor in (("energy-pkg", 1), ("energy-ram", 0.5), ("energy-cores", 1), ("energy-psys", 1)):
        (unit / "events" / event).write_text(f"event={CPU_CLOCK:#04x}\n")
        (unit / "events" / f"{event}.scale").write_text(f"{joules_per_count * factor:.16e}\n")


def topology(folder: Path, places: dict[int, tuple[int, int]]) -> None:
    for cpu, (package, die) in places.items():
        path = folder / "cpus" / f"cpu{cpu}" / "topology"
        path.mkdir(parents=True)
        (path / "physical_package_id").write_text(f"{package}\n")
        (path / "die_id").write_text(f"{die}\n")


@pytest.fixture
def perf_events() -> None:
    """Need perf events of whole CPUs."""
    try:
        PerfEvent(SOFTWARE, CPU_CLOCK, 0).close()
    except OSError as error:
        pytest.skip(f"perf_event_open is not allowed here: {error}")


@pytest.fixture
def two_cpus() -> None:
    """Need CPUs 0 and 1."""
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("There is one CPU here.")


@pytest.mark.usefixtures("perf_events")
class TestPerf(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        perf_tree(tmp_path, joules_per_count=FastClock.speed / NS_PER_S)
        truth = {"rapl:package-0": StepCurve([(0, 1)]), "rapl:package-0-dram": StepCurve([(0, 0.5)])}
        clock = FastClock()
        return Bench(backend(tmp_path, clock), clock, truth.get, absent=backend(tmp_path / "elsewhere", clock))


def test_packages_and_memory_are_read_and_nothing_twice(tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap) -> None:
    for number in (0, 1):
        package = tree.package(CURVE, number=number)
        for name in ("core", "uncore", "dram"):
            tree.part(package, name, CURVE)
        tree.mmio(package)
    tree.psys(CURVE)
    sources = backend(tmp_path, clock).open()
    assert [(source.device.id, source.device.kind) for source in sources] == [
        ("rapl:package-0", "cpu"),
        ("rapl:package-0-dram", "dram"),
        ("rapl:package-1", "cpu"),
        ("rapl:package-1-dram", "dram"),
    ]
    for source in sources:
        source.close()
        with pytest.raises(ReadError):
            source.read()


def test_more_than_ten_packages_are_all_read_in_order(tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap) -> None:
    for number in range(12):
        tree.package(CURVE, number=number)
    assert [source.device.id for source in backend(tmp_path, clock).open()] == [f"rapl:package-{i}" for i in range(12)]


def test_each_die_with_a_counter_of_its_own_is_read(tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap) -> None:
    for die in (0, 1):
        tree.part(tree.package(CURVE, die=die), "dram", DRAM)
    assert [source.device.id for source in backend(tmp_path, clock).open()] == [
        "rapl:package-0-die-0",
        "rapl:package-0-die-0-dram",
        "rapl:package-0-die-1",
        "rapl:package-0-die-1-dram",
    ]


def test_a_counter_that_several_dies_show_is_counted_once(tmp_path: Path) -> None:
    tree = SimulatedPowercap(tmp_path / "powercap", monotonic_clock)
    for number in (0, 1):
        die = tree.package(CURVE, number=number, die=0)
        for other in (1, 2):
            tree.twin(die, f"package-{number}-die-{other}")
    with tree.files.live():
        found = discover(backends=[backend(tmp_path)])
    assert [source.device.id for source in found.sources] == ["rapl:package-0-die-0", "rapl:package-1-die-0"]
    assert len(found.refused) == 4


def test_where_it_is_known_that_dies_show_one_counter_only_one_is_read(tmp_path: Path) -> None:
    tree = SimulatedPowercap(tmp_path / "powercap", monotonic_clock)
    die = tree.package(CURVE, number=0, die=0)
    tree.twin(die, "package-0-die-1")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("vendor_id : AuthenticAMD\n")
    with tree.files.live():
        found = discover(backends=[backend(tmp_path)])
    assert [source.device.id for source in found.sources] == ["rapl:package-0-die-0"]
    assert not found.refused


def test_a_package_that_tells_nothing_is_told(tmp_path: Path) -> None:
    tree = SimulatedPowercap(tmp_path / "powercap", monotonic_clock)
    tree.package(CURVE, number=0)
    tree.package(CURVE, number=1).spoil()
    with tree.files.live(), EnergyMeter(backends=[backend(tmp_path)], carbon_intensity=1, verbose=False) as meter:
        pass
    assert [device.id for device in meter.record.devices] == ["rapl:package-0"]
    assert meter.record.warnings == ["RAPL's counters of package-1 cannot be read: their energy is not included."]


def test_a_counter_that_wraps_several_times_in_a_run_gives_the_exact_total(clock: ManualClock, tmp_path: Path) -> None:
    tree = SimulatedPowercap(tmp_path / "powercap", clock, wrap_joules=50)
    curve = PowerCurve(clock, 10)
    tree.package(curve)
    backends = [backend(tmp_path, clock)]
    meter = SteppedMeter(clock, backends=backends, sample_interval=0.01, carbon_intensity=1, verbose=False)
    with meter, meter.stage("train"):
        before = curve.joules()
        curve.set(200)
        clock.advance(1.3)
        curve.set(10)
        clock.advance(0.05)
        drawn = curve.joules() - before
    assert drawn > 4 * tree.wrap_joules
    assert [device.joules for device in meter.record.devices] == [pytest.approx(drawn, abs=1)]


@pytest.mark.parametrize(
    ("name", "vendor", "virtual", "reason", "fix"),
    [
        ("AMD EPYC", "AuthenticAMD", True, "virtual machines have none", None),
        (
            "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz",
            "GenuineIntel",
            False,
            "has no energy counter",
            "modprobe intel_rapl_msr",
        ),
        ("AMD EPYC 7763 64-Core Processor", "AuthenticAMD", False, "has no energy counter", "modprobe intel_rapl_msr"),
        (None, "", False, "has no energy counter", None),
    ],
)
def test_a_machine_without_counters_says_what_helps(
    tmp_path: Path,
    clock: ManualClock,
    *,
    name: str | None,
    vendor: str,
    virtual: bool,
    reason: str,
    fix: str | None,
) -> None:
    SimulatedProc(tmp_path / "proc", clock, StepCurve([(0, 0)])).processor(name, vendor=vendor, virtual=virtual)
    with pytest.raises(BackendUnavailableError, match=reason) as caught:
        backend(tmp_path).open()
    assert ("virtual" in caught.value.reason) == virtual
    assert caught.value.present == (fix is not None)
    assert (fix in caught.value.fix) if fix else (caught.value.fix is None)


def test_a_counter_for_root_alone_is_refused_with_a_recipe(tmp_path: Path, tree: SimulatedPowercap) -> None:
    tree.package(CURVE).deny()
    with an_ordinary_user(tmp_path), pytest.raises(BackendUnavailableError, match=r"only by root.*udev") as caught:
        backend(tmp_path).open()
    assert caught.value.present


def test_counters_that_docker_masks_are_hidden_and_not_absent(tmp_path: Path, tree: SimulatedPowercap) -> None:
    tree.part(tree.package(CURVE), "dram", DRAM)
    tree.hide()
    with pytest.raises(BackendUnavailableError, match="hidden from this container") as caught:
        backend(tmp_path).open()
    assert caught.value.present
    for part in ("--security-opt systempaths=unconfined", "apparmor=unconfined", "udev", "chmod a+r"):
        assert part in (caught.value.fix or "")


def test_counters_that_a_profile_denies_are_hidden_too(tmp_path: Path, tree: SimulatedPowercap) -> None:
    """AppArmor's, for Docker, denies all that is below the folders."""
    zone = tree.package(CURVE)
    (tree.files.root / zone.folder / "name").chmod(0o200)
    with an_ordinary_user(tmp_path), pytest.raises(BackendUnavailableError, match="hidden from this container") as caught:
        backend(tmp_path).open()
    assert caught.value.present


@pytest.mark.usefixtures("perf_events")
def test_perf_events_serve_where_docker_masks_the_powercap_tree(tmp_path: Path, tree: SimulatedPowercap) -> None:
    tree.package(CURVE)
    tree.hide()
    perf_tree(tmp_path)
    sources = backend(tmp_path).open()
    assert [source.device.id for source in sources] == ["rapl:package-0", "rapl:package-0-dram"]
    for source in sources:
        source.close()


@pytest.mark.parametrize(("vendor", "package"), [("GenuineIntel", 0.05), ("AuthenticAMD", 0.2), ("HygonGenuine", 0.2)])
def test_only_intels_counter_is_known_to_be_exact(
    tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap, vendor: str, package: float
) -> None:
    processor(tmp_path, clock, vendor)
    tree.part(tree.package(CURVE), "dram", DRAM)
    sources = backend(tmp_path, clock).open()
    assert [source.device.relative_uncertainty for source in sources] == [package, 0.2]
    for source in sources:
        source.close()


def test_after_an_error_no_counter_is_left_open(tmp_path: Path, tree: SimulatedPowercap) -> None:
    for number in range(3):
        tree.package(CURVE, number=number)

    class BrokenClock(ManualClock):
        calls = 0

        def __call__(self) -> int:
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().__call__()

    before = open_files()
    with pytest.raises(KeyboardInterrupt):
        backend(tmp_path, BrokenClock()).open()
    assert open_files() == before


def test_one_package_for_root_alone_is_refused_too(tmp_path: Path, tree: SimulatedPowercap) -> None:
    """Half of the processors is no measurement of the machine."""
    tree.package(CURVE, number=0)
    tree.package(CURVE, number=1).deny()
    with an_ordinary_user(tmp_path), pytest.raises(BackendUnavailableError) as caught:
        backend(tmp_path).open()
    assert caught.value.reason == "RAPL's counters of package-1 are readable only by root."
    assert "udev" in (caught.value.fix or "")


def _measure_with_closed_memory(folder: Path, closed: Collection[int]) -> RunRecord:
    """Measure two packages, the memory of some of which root alone may read, beside the model of memory."""
    tree = SimulatedPowercap(folder / "powercap", monotonic_clock)
    for number in (0, 1):
        memory = tree.part(tree.package(CURVE, number=number), "dram", DRAM)
        if number in closed:
            memory.deny()
    if os.geteuid() == 0:
        for path in tree.files.root.rglob("*"):
            os.chown(path, 65534, -1)  # the simulation goes on to write
    backends = [backend(folder), MemoryModelBackend()]
    meter = EnergyMeter(backends=backends, carbon_intensity=1, verbose=False)
    with an_ordinary_user(folder), tree.files.live(), meter:
        pass
    return meter.record


def test_one_memory_for_root_alone_is_named_and_missing(tmp_path: Path) -> None:
    record = _measure_with_closed_memory(tmp_path, {1})
    assert [device.id for device in record.devices] == ["rapl:package-0", "rapl:package-0-dram", "rapl:package-1"]
    (warning,) = record.warnings
    assert warning.startswith("RAPL's counters of package-1-dram are readable only by root: their energy is not included.")
    assert "udev" in warning


def test_all_memory_for_root_alone_is_named_and_modelled(tmp_path: Path) -> None:
    record = _measure_with_closed_memory(tmp_path, {0, 1})
    assert [device.id for device in record.devices] == ["rapl:package-0", "rapl:package-1", "memory-model:0"]
    (warning,) = record.warnings
    assert warning.startswith(
        "RAPL's counters of package-0-dram, package-1-dram are readable only by root: the energy of the memory is not measured."
    )


def test_a_memory_that_tells_nothing_is_named(tmp_path: Path, tree: SimulatedPowercap) -> None:
    package = tree.package(CURVE)
    tree.part(package, "dram", DRAM).spoil()
    (source,) = backend(tmp_path).open()
    assert source.device.missing is None
    assert source.device.unread == "RAPL's counters of package-0-dram cannot be read: the energy of the memory is not measured."
    source.close()


def test_what_cannot_be_read_at_the_start_is_left_out(tmp_path: Path, tree: SimulatedPowercap) -> None:
    package = tree.package(CURVE)
    tree.part(package, "dram", DRAM).spoil()
    assert [source.device.id for source in backend(tmp_path).open()] == ["rapl:package-0"]
    package.spoil()
    before = open_files()
    with pytest.raises(BackendUnavailableError, match="exist but report nothing") as caught:
        backend(tmp_path).open()
    assert caught.value.present
    assert open_files() == before


def test_permission_taken_away_in_a_run_ends_it_only_when_the_file_has_to_be_opened_again(
    tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap
) -> None:
    zone = tree.package(CURVE)
    with an_ordinary_user(tmp_path):
        (source,) = backend(tmp_path, clock).open()
    before = source.read()
    zone.deny()
    clock.advance(0.2)
    with an_ordinary_user(tmp_path):
        assert source.read() - before == pytest.approx(CURVE.joules(clock()) - CURVE.joules(NS_PER_S), rel=0.02)
        with pytest.raises(BackendUnavailableError):
            backend(tmp_path, clock).open()
    zone.remove()
    zone.restore()
    zone.deny()
    for _ in range(30):
        clock.advance(0.1)
        with an_ordinary_user(tmp_path), pytest.raises(ReadError):
            source.read()
    zone.allow()
    clock.advance(1.1)
    with an_ordinary_user(tmp_path):
        with contextlib.suppress(ReadError):  # this one opens it again
            source.read()
        assert source.read() > before
    source.close()


def test_a_counter_that_went_away_is_read_again_within_a_second_of_its_return(
    tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap
) -> None:
    zone = tree.package(CURVE)
    (source,) = backend(tmp_path, clock).open()
    before = source.read()
    clock.advance(3)
    zone.remove()
    for _ in range(100):
        clock.advance(0.05)
        with pytest.raises(ReadError):
            source.read()
    zone.restore()
    clock.advance(1)
    with contextlib.suppress(ReadError):
        source.read()
    assert source.read() - before == pytest.approx(CURVE.joules(clock()) - CURVE.joules(NS_PER_S), rel=0.01)


def test_another_counter_in_its_place_is_not_taken_for_it(tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap) -> None:
    """The folders are numbered anew when the kernel's module is loaded again."""
    zone = tree.package(CURVE)
    (source,) = backend(tmp_path, clock).open()
    zone.remove()
    tree.files.fix(f"{zone.folder}/name", "psys")
    zone.restore()
    for _ in range(5):
        clock.advance(0.5)
        with pytest.raises(ReadError):
            source.read()


def test_garbage_is_an_error_and_ends_with_it(tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap) -> None:
    zone = tree.package(CURVE)
    (source,) = backend(tmp_path, clock).open()
    before = source.read()
    zone.spoil("-- no data --")
    with pytest.raises(ReadError):
        source.read()
    zone.restore()
    clock.advance(0.1)
    assert source.read() > before


def test_a_model_is_taken_only_for_what_nothing_measures(tmp_path: Path) -> None:
    tree = SimulatedPowercap(tmp_path / "powercap", monotonic_clock)
    package = tree.package(CURVE)
    backends = [backend(tmp_path), MemoryModelBackend()]
    with tree.files.live():
        found = discover(backends=backends)
        assert [source.device.id for source in found.sources] == ["rapl:package-0", "memory-model:0"]
        tree.part(package, "dram", DRAM)
        found = discover(backends=backends)
        assert [source.device.id for source in found.sources] == ["rapl:package-0", "rapl:package-0-dram"]
        chosen = discover(["memory-*"], backends=backends)
        assert [source.device.id for source in chosen.sources] == ["memory-model:0"]


@pytest.mark.usefixtures("perf_events")
def test_the_powercap_tree_comes_first_and_nothing_is_counted_twice(tmp_path: Path, tree: SimulatedPowercap) -> None:
    perf_tree(tmp_path)
    tree.package(CURVE)
    (source,) = backend(tmp_path).open()
    assert source.device.note is None
    assert source.device.wrap_joules == pytest.approx(tree.wrap_joules)


@pytest.mark.usefixtures("perf_events")
def test_perf_events_serve_where_there_is_no_powercap_tree(tmp_path: Path) -> None:
    perf_tree(tmp_path)
    topology(tmp_path, {0: (3, 0)})
    package, memory = backend(tmp_path).open()
    assert (package.device.id, memory.device.id) == ("rapl:package-3", "rapl:package-3-dram")
    assert "perf" in (package.device.note or "")
    assert package.device.wrap_joules is None
    earliest, before, begun = time.perf_counter(), package.read(), time.perf_counter()
    time.sleep(0.2)
    ended, after, latest = time.perf_counter(), package.read(), time.perf_counter()
    assert 0.95 * (ended - begun) <= after - before <= 1.05 * (latest - earliest)
    for source in (package, memory):
        source.close()
        source.close()
        with pytest.raises(ReadError):
            source.read()


@pytest.mark.usefixtures("perf_events", "two_cpus")
@pytest.mark.parametrize("mask", ["0-1", "0,1"])
def test_perf_events_are_one_for_each_package(tmp_path: Path, mask: str) -> None:
    perf_tree(tmp_path, mask)
    topology(tmp_path, {0: (0, 0), 1: (1, 0)})
    ids = [source.device.id for source in backend(tmp_path).open()]
    assert ids == ["rapl:package-0", "rapl:package-0-dram", "rapl:package-1", "rapl:package-1-dram"]


@pytest.mark.usefixtures("perf_events", "two_cpus")
@pytest.mark.parametrize(
    ("vendor", "packages"),
    [("GenuineIntel", ["rapl:package-0-die-0", "rapl:package-0-die-1"]), ("AuthenticAMD", ["rapl:package-0"])],
)
def test_dies_count_for_themselves_at_intel_and_together_at_amd(
    tmp_path: Path, clock: ManualClock, vendor: str, packages: list[str]
) -> None:
    processor(tmp_path, clock, vendor)
    perf_tree(tmp_path, "0,1")
    topology(tmp_path, {0: (0, 0), 1: (0, 1)})
    assert [source.device.id for source in backend(tmp_path).open() if source.device.kind == "cpu"] == packages


def test_perf_events_that_are_closed_are_refused_with_a_recipe(tmp_path: Path) -> None:
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text(encoding="ascii")) <= 0:
        pytest.skip("Perf events are open to everybody here.")
    perf_tree(tmp_path)
    with (
        an_ordinary_user(tmp_path),
        pytest.raises(BackendUnavailableError, match=r"no permission.*sysctl kernel.perf_event_paranoid=0") as caught,
    ):
        backend(tmp_path).open()
    assert caught.value.present


def test_an_event_that_does_not_exist_is_no_counter(tmp_path: Path) -> None:
    perf_tree(tmp_path)
    (tmp_path / "event_source" / "power" / "type").write_text("4000000\n")
    with an_ordinary_user(tmp_path), pytest.raises(BackendUnavailableError):
        backend(tmp_path).open()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("type", "software"),
        ("type", "9999999999"),
        ("type", "-1"),
        ("type", ""),
        ("type", "1" * 5000),
        ("cpumask", "all"),
        ("cpumask", "0-99999999999"),
        ("cpumask", "1" * 5000),
        ("cpumask", ""),
        ("events/energy-pkg", f"event=0x{'f' * 17}"),
        ("events/energy-pkg", "event=much"),
        ("events/energy-pkg.scale", "small"),
        ("events/energy-pkg.scale", "nan"),
        ("events/energy-pkg.scale", "inf"),
        ("events/energy-pkg.scale", "0"),
        ("events/energy-pkg.scale", "-1e-9"),
    ],
)
def test_a_unit_whose_files_hold_garbage_is_no_counter(tmp_path: Path, file: str, text: str) -> None:
    perf_tree(tmp_path)
    unit = tmp_path / "event_source" / "power"
    (unit / "events" / "energy-ram").unlink()
    (unit / file).write_text(f"{text}\n")
    with pytest.raises(BackendUnavailableError, match="no energy counter"):
        backend(tmp_path).open()


@pytest.mark.parametrize("text", ["", "0", "none", "-5"])
def test_a_limit_that_is_none_is_left_out(tmp_path: Path, clock: ManualClock, tree: SimulatedPowercap, text: str) -> None:
    zone = tree.package(CURVE)
    tree.files.fix(f"{zone.folder}/max_energy_range_uj", text)
    (source,) = backend(tmp_path, clock).open()
    assert source.device.wrap_joules is None
    source.close()


# --- One number in a file


@pytest.mark.parametrize(("text", "number"), [(" +12 \n", 12), ("-7", -7), (f"{'12':<24}\n", 12), (str(2**64 - 1), 2**64 - 1)])
def test_a_whole_number_is_read_whatever_is_around_it(tmp_path: Path, text: str, number: int) -> None:
    file = tmp_path / "number"
    file.write_text(text)
    opened = NumberFile(file)
    assert opened.read() == number
    opened.close()


@pytest.mark.parametrize("text", ["1_0\n", "1 2", "--1", "0x10", "1" * 32, "1" * 40, f"{'12':<40}\n"])
def test_what_python_alone_takes_for_a_number_or_what_is_cut_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "number"
    file.write_text(text)
    opened = NumberFile(file)
    with pytest.raises(ReadError, match="contains no number"):
        opened.read()
    opened.close()
