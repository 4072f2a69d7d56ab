"""Intel and AMD processors through RAPL's counters: Linux's powercap tree, or its perf events where that is closed."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.perf_event import PerfEvent
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.sysfs import NumberFile, read_text

_Part = Literal["cpu", "dram"]

_UNCERTAINTY: dict[_Part, float] = {"cpu": 0.05, "dram": 0.20}
"""Package: Khan et al., "RAPL in Action", ACM TOMPECS 3(2), 2018. DRAM: Desrochers, Paradis and Weaver, "A Validation of
DRAM RAPL Power Measurements", MEMSYS 2016."""

_PERIOD_S = 0.001
"""Refresh of the counters: Intel SDM volume 3B, section on RAPL, "updated every ~1 msec"."""

_REOPEN_NS = NS_PER_S
"""Between two attempts to open a counter that cannot be read."""

_MICROJOULE = 1e-6

_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
"""Names of packages in Linux, drivers/powercap/intel_rapl_common.c; AMD's processors have the same."""

_EVENTS: dict[_Part, str] = {"cpu": "energy-pkg", "dram": "energy-ram"}
"""Names of events in Linux, arch/x86/events/rapl.c; the others are inside the package or contain it."""

_ONE_COUNTER_VENDORS = ("AuthenticAMD", "HygonGenuine")
"""Their energy counter is the package's; Linux 6.9 to 6.11 shows it once for each die nevertheless."""

_VENDORS = ("GenuineIntel", *_ONE_COUNTER_VENDORS)

_POWERCAP_DENIED = (
    "The processor's energy counters (RAPL) can be read by root alone.",
    (
        "To let every user read them, now and after each boot: "
        """echo 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"' """
        "| sudo tee /etc/udev/rules.d/70-rapl.rules && sudo udevadm control --reload "
        "&& sudo udevadm trigger --subsystem-match=powercap --action=add"
    ),
)
_PERF_DENIED = (
    "The processor's energy counters (RAPL) are closed to this user.",
    (
        "To open them until the next boot: `sudo sysctl kernel.perf_event_paranoid=0`; "
        "a container has to be started with `--cap-add PERFMON`, too."
    ),
)
_VIRTUAL = ("This machine shows no energy counter of its processor (RAPL); virtual machines have none.", None)
_NOTHING = "This machine shows no energy counter of its processor (RAPL)."
_LOAD_MODULE = "Load the kernel's module for it, which is AMD's too: `sudo modprobe intel_rapl_msr`."


class _Counter(Protocol):
    def read(self) -> int: ...

    def close(self) -> None: ...


class _Zone:
    """One counter, held open: a read is one system call."""

    def __init__(self, device: Device, open_counter: Callable[[], _Counter], unit_joules: float, clock: Clock) -> None:
        self.device = device
        self._open_counter = open_counter
        self._counter = open_counter()
        self._unit_joules = unit_joules
        self._clock = clock
        self._closed = False
        self._opened_ns = clock()

    def read(self) -> float:
        """Return the counter in joules."""
        if self._closed:
            msg = "The counter is closed."
            raise ReadError(msg)
        try:
            return self._counter.read() * self._unit_joules
        except ReadError:
            self._reopen()
            raise

    def _reopen(self) -> None:
        """After a reload of the kernel's module, the old file is dead for good."""
        now = self._clock()
        if now - self._opened_ns < _REOPEN_NS:
            return
        self._opened_ns = now
        with contextlib.suppress(OSError):
            counter = self._open_counter()
            self._counter.close()
            self._counter = counter

    def close(self) -> None:
        """Close the counter; calling it twice is harmless."""
        self._closed = True
        self._counter.close()


@dataclass(frozen=True, slots=True)
class _Plan:
    """A counter to be opened."""

    package: str
    part: _Part
    open_counter: Callable[[], _Counter]
    unit_joules: float
    wrap_joules: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class RaplBackend:
    """Packages and their memory, by name.

    ``core`` and ``uncore`` are inside the package and ``psys`` contains it; ``intel-rapl-mmio`` shows the same counters once
    more. None of these is read.

    Attributes:
        root: The powercap tree.
        event_source: The units that count perf events, for where the powercap tree is closed or missing.
        cpus: The CPUs, and which package each is in.
        proc: Linux's process file system.
        clock: Monotonic clock.
    """

    root: Path = Path("/sys/class/powercap")
    event_source: Path = Path("/sys/bus/event_source/devices")
    cpus: Path = Path("/sys/devices/system/cpu")
    proc: Path = Path("/proc")
    clock: Clock = monotonic_clock
    name: str = "rapl"

    def open(self) -> Sequence[_Zone]:
        """Open each package and each memory counter.

        Raises:
            BackendUnavailableError: There is no counter, or this user may not read them.
        """
        zones: Sequence[_Zone] = ()
        denied = None
        try:
            zones = self._open_all(self._powercap())
        except PermissionError:
            denied = _POWERCAP_DENIED
        if zones:
            return zones
        try:
            zones = self._open_all(self._perf())
        except PermissionError:
            denied = denied or _PERF_DENIED
        if zones:
            return zones
        raise BackendUnavailableError(*(denied or self._why_none()))

    def _open_all(self, plans: Iterable[_Plan]) -> Sequence[_Zone]:
        """Open what can be read.

        Raises:
            PermissionError: A package may not be read; nothing is left open.
        """
        zones: list[_Zone] = []
        for plan in plans:
            try:
                zone = self._zone(plan)
            except PermissionError:
                if plan.part == "dram":
                    continue
                for opened in zones:
                    opened.close()
                raise
            except OSError:
                continue
            try:
                zone.read()
            except ReadError:
                zone.close()
            else:
                zones.append(zone)
        return zones

    def _zone(self, plan: _Plan) -> _Zone:
        name = plan.package if plan.part == "cpu" else f"{plan.package}-dram"
        device = Device(
            id=f"{self.name}:{name}",
            name=f"Processor {name}",
            kind=plan.part,
            backend=self.name,
            method="energy_counter",
            provenance="measured",
            relative_uncertainty=_UNCERTAINTY[plan.part],
            wrap_joules=plan.wrap_joules,
            update_period_s=_PERIOD_S,
            note=plan.note,
        )
        return _Zone(device, plan.open_counter, plan.unit_joules, self.clock)

    def _powercap(self) -> Iterator[_Plan]:
        seen = set()
        for folder in sorted(self.root.glob("intel-rapl:*"), key=lambda folder: (len(folder.name), folder.name)):
            package = read_text(folder / "name") or ""
            if _PACKAGE.fullmatch(package) is None or package in seen:
                continue
            seen.add(package)
            yield _powercap_plan(folder, package, "cpu")
            memories = (zone for zone in folder.glob(f"{folder.name}:*") if read_text(zone / "name") == "dram")
            for memory in sorted(memories)[:1]:
                yield _powercap_plan(memory, package, "dram")

    def _perf(self) -> Iterator[_Plan]:
        unit = self.event_source / "power"
        kind = read_text(unit / "type")
        if kind is None:
            return
        for cpu, package in self._counting_cpus(read_text(unit / "cpumask") or ""):
            for part, event in _EVENTS.items():
                config = re.fullmatch(r"event=(0x[0-9a-f]+)", read_text(unit / "events" / event) or "")
                scale = read_text(unit / "events" / f"{event}.scale")
                if config is not None and scale is not None:
                    open_counter = partial(PerfEvent, int(kind), int(config[1], 16), cpu)
                    yield _Plan(package, part, open_counter, float(scale), note="Read through Linux's perf events.")

    def _counting_cpus(self, mask: str) -> Iterator[tuple[int, str]]:
        """Yield the CPUs that count, each with the name of its package."""
        places = {cpu: [self._place(cpu, what) for what in ("physical_package_id", "die_id")] for cpu in _numbers(mask)}
        packages = [package for package, _ in places.values()]
        cpuinfo = read_text(self.proc / "cpuinfo") or ""
        one_counter = any(vendor in cpuinfo for vendor in _ONE_COUNTER_VENDORS)
        seen = set()
        for cpu, (package, die) in places.items():
            if one_counter or packages.count(package) == 1:
                if package not in seen:
                    yield cpu, f"package-{package}"
                seen.add(package)
            else:
                yield cpu, f"package-{package}-die-{die}"

    def _place(self, cpu: int, what: str) -> str:
        return read_text(self.cpus / f"cpu{cpu}" / "topology" / what) or str(cpu)

    def _why_none(self) -> tuple[str, str | None]:
        cpuinfo = read_text(self.proc / "cpuinfo") or ""
        if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE):
            return _VIRTUAL
        return _NOTHING, _LOAD_MODULE if any(vendor in cpuinfo for vendor in _VENDORS) else None


def _powercap_plan(folder: Path, package: str, part: _Part) -> _Plan:
    limit = read_text(folder / "max_energy_range_uj") or ""
    wrap_joules = int(limit) * _MICROJOULE if limit.isdecimal() else None
    return _Plan(package, part, partial(_open_file, folder, package if part == "cpu" else part), _MICROJOULE, wrap_joules)


def _open_file(folder: Path, name: str) -> NumberFile:
    """Open a zone's counter, as long as the folder is the zone's: they are numbered anew when the module is loaded."""
    if read_text(folder / "name") != name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    return NumberFile(folder / "energy_uj")


def _numbers(mask: str) -> Iterator[int]:
    """Yield the CPUs of a list such as ``0,28`` or ``0-1``."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", mask):
        yield from range(int(first), int(last or first) + 1)
