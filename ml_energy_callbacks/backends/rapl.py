"""Intel and AMD processors through RAPL's counters: Linux's powercap tree, or its perf events where that is closed."""

import contextlib
import errno
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from ml_energy_callbacks.backends.drivers.perf_event import PerfEvent
from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_text
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

_Part = Literal["cpu", "dram"]

_UNCERTAINTY: dict[_Part, float] = {"cpu": 0.20, "dram": 0.20}
"""DRAM: Desrochers, Paradis and Weaver, "A Validation of DRAM RAPL Power Measurements", MEMSYS 2016. Package: our assumption,
for AMD's and Hygon's counters, whose accuracy we know of no source for."""

_INTEL_PACKAGE_UNCERTAINTY = 0.05
"""Khan et al., "RAPL in Action", ACM TOMPECS 3(2), 2018."""

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

_INTEL = "GenuineIntel"
_VENDORS = (_INTEL, *_ONE_COUNTER_VENDORS)

_LET_ALL_READ = (
    """echo 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"' """
    "| sudo tee /etc/udev/rules.d/70-rapl.rules && sudo udevadm control --reload "
    "&& sudo udevadm trigger --subsystem-match=powercap --action=add"
)
_DENIED_BY_POWERCAP = (
    "The processor's energy counters (RAPL) can be read by root alone.",
    f"To let every user read them, now and after each boot: {_LET_ALL_READ}",
)
_DENIED_BY_PERF = (
    "The processor's energy counters (RAPL) are closed to this user.",
    (
        "To open them until the next boot: `sudo sysctl kernel.perf_event_paranoid=0`; "
        "a container has to be started with `--cap-add PERFMON`, too."
    ),
)
_HIDDEN = (
    "The processor's energy counters (RAPL) are hidden from this container.",
    (
        "Start it with `docker run --security-opt systempaths=unconfined`, and `--security-opt apparmor=unconfined` where the "
        f"host uses AppArmor. To let users other than root read them, do this on the host: {_LET_ALL_READ}"
    ),
)
"""Docker mounts an empty folder over /sys/devices/virtual/powercap, and its AppArmor profile denies what is below."""

_SILENT = "The processor's energy counters (RAPL) are there and tell nothing."
_VIRTUAL = "This machine shows no energy counter of its processor (RAPL); virtual machines have none."
_NOTHING = "This machine shows no energy counter of its processor (RAPL)."
_LOAD_MODULE = (
    "Load the kernel's module for it, which is AMD's too: `sudo modprobe intel_rapl_msr`; "
    "where this is a container, on its host."
)


class _Counter(Protocol):
    def read(self) -> int: ...

    def close(self) -> None: ...


class _Zone:
    """One counter, held open: a read is one system call."""

    def __init__(self, device: Device, open_counter: Callable[[], _Counter], unit_joules: float, clock: Clock) -> None:
        self.device = device
        self._open_counter = open_counter
        self._unit_joules = unit_joules
        self._clock = clock
        self._closed = False
        self._opened_ns = clock()
        self._counter = open_counter()

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
        cpuinfo = read_text(self.proc / "cpuinfo") or ""
        refusals = [_HIDDEN] if None in self._names() else []
        for plans, refusal in ((self._powercap(cpuinfo), _DENIED_BY_POWERCAP), (self._perf(cpuinfo), _DENIED_BY_PERF)):
            try:
                zones = self._open_all(plans, cpuinfo)
            except PermissionError:
                refusals.append(refusal)
            else:
                if zones:
                    return zones
        if refusals:
            raise BackendUnavailableError(*refusals[0], present=True)
        raise self._none(cpuinfo)

    def _open_all(self, plans: Iterable[_Plan], cpuinfo: str) -> Sequence[_Zone]:
        """Open what can be read; after an error nothing is left open.

        Raises:
            PermissionError: A package may not be read.
        """
        zones: list[_Zone] = []
        silent: list[str] = []
        with contextlib.ExitStack() as opened:
            for plan in plans:
                try:
                    zone = self._zone(plan, cpuinfo)
                except PermissionError:
                    if plan.part == "dram":
                        continue
                    raise
                except OSError:
                    silent.append(plan.package)
                    continue
                opened.callback(zone.close)
                try:
                    zone.read()
                except ReadError:
                    zone.close()
                    silent.append(plan.package)
                else:
                    zones.append(zone)
            opened.pop_all()
        if silent:
            # Of a package that tells nothing, or of its memory.
            missing = f"RAPL's counters of {', '.join(dict.fromkeys(silent))} tell nothing: that energy is missing."
            for zone in zones:
                zone.device = replace(zone.device, missing=missing)
        return zones

    def _zone(self, plan: _Plan, cpuinfo: str) -> _Zone:
        package = plan.part == "cpu"
        name = plan.package if package else f"{plan.package}-dram"
        device = Device(
            id=f"{self.name}:{name}",
            name=f"Processor {name}",
            kind=plan.part,
            backend=self.name,
            method="energy_counter",
            provenance="measured",
            relative_uncertainty=_INTEL_PACKAGE_UNCERTAINTY if package and _INTEL in cpuinfo else _UNCERTAINTY[plan.part],
            wrap_joules=plan.wrap_joules,
            update_period_s=_PERIOD_S,
            note=plan.note,
            # What else tells a processor's energy, such as the driver of its graphics, tells that of the same package.
            covers=("cpu",) if package else (),
        )
        return _Zone(device, plan.open_counter, plan.unit_joules, self.clock)

    def _names(self) -> Sequence[str | None]:
        """Return the names of the zones, None for one that is there by its link alone."""
        return [read_text(folder / "name") for folder in self.root.glob("intel-rapl:*")]

    def _powercap(self, cpuinfo: str) -> Iterator[_Plan]:
        one_counter = _one_counter(cpuinfo)
        seen = set()
        for folder in sorted(self.root.glob("intel-rapl:*"), key=lambda folder: (len(folder.name), folder.name)):
            package = read_text(folder / "name") or ""
            counted = package.partition("-die-")[0] if one_counter else package
            if _PACKAGE.fullmatch(package) is None or counted in seen:
                continue
            seen.add(counted)
            yield _powercap_plan(folder, package, "cpu")
            memories = (zone for zone in folder.glob(f"{folder.name}:*") if read_text(zone / "name") == "dram")
            for memory in sorted(memories)[:1]:
                yield _powercap_plan(memory, package, "dram")

    def _perf(self, cpuinfo: str) -> Iterator[_Plan]:
        unit = self.event_source / "power"
        kind = re.fullmatch(r"\d{1,10}", read_text(unit / "type") or "")
        if kind is None:
            return
        for cpu, package in self._counting_cpus(read_text(unit / "cpumask") or "", cpuinfo):
            for part, event in _EVENTS.items():
                config = re.fullmatch(r"event=(0x[0-9a-f]{1,16})", read_text(unit / "events" / event) or "")
                scale = _positive(read_text(unit / "events" / f"{event}.scale") or "")
                if config is not None and scale is not None:
                    open_counter = partial(PerfEvent, int(kind[0]), int(config[1], 16), cpu)
                    yield _Plan(package, part, open_counter, scale, note="Read through Linux's perf events.")

    def _counting_cpus(self, mask: str, cpuinfo: str) -> Iterator[tuple[int, str]]:
        """Yield the CPUs that count, each with the name of its package."""
        places = {cpu: [self._place(cpu, what) for what in ("physical_package_id", "die_id")] for cpu in _numbers(mask)}
        packages = [package for package, _ in places.values()]
        one_counter = _one_counter(cpuinfo)
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

    def _none(self, cpuinfo: str) -> BackendUnavailableError:
        """Return why there is no counter, though none is refused."""
        if self._names():
            return BackendUnavailableError(_SILENT, present=True)
        if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE):
            return BackendUnavailableError(_VIRTUAL)
        if any(vendor in cpuinfo for vendor in _VENDORS):
            return BackendUnavailableError(_NOTHING, _LOAD_MODULE, present=True)
        return BackendUnavailableError(_NOTHING)


def _one_counter(cpuinfo: str) -> bool:
    return any(vendor in cpuinfo for vendor in _ONE_COUNTER_VENDORS)


def _powercap_plan(folder: Path, package: str, part: _Part) -> _Plan:
    limit = _positive(read_text(folder / "max_energy_range_uj") or "")
    wrap_joules = None if limit is None else limit * _MICROJOULE
    return _Plan(package, part, partial(_open_file, folder, package if part == "cpu" else part), _MICROJOULE, wrap_joules)


def _open_file(folder: Path, name: str) -> NumberFile:
    """Open a zone's counter, as long as the folder is the zone's: they are numbered anew when the module is loaded."""
    if read_text(folder / "name") != name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    return NumberFile(folder / "energy_uj")


def _numbers(mask: str) -> Iterator[int]:
    """Yield the CPUs of a list such as ``0,28`` or ``0-1``; none of what is no such list."""
    if re.fullmatch(r"(\d{1,4}(-\d{1,4})?(,|$))+", mask):  # four digits: Linux knows 8192 CPUs
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", mask):
            yield from range(int(first), int(last or first) + 1)


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
