"""Intel and AMD processors through RAPL's counters: Linux's powercap tree or, if it is not readable, perf events."""

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
from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_limit_watts, read_text
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

_Part = Literal["cpu", "dram"]

_UNCERTAINTY: dict[_Part, float] = {"cpu": 0.20, "dram": 0.20}
"""DRAM: Desrochers, Paradis and Weaver, "A Validation of DRAM RAPL Power Measurements", MEMSYS 2016. Package: our assumption
for AMD's and Hygon's counters; we know of no source for their accuracy."""

_INTEL_PACKAGE_UNCERTAINTY = 0.05
"""Khan et al., "RAPL in Action", ACM TOMPECS 3(2), 2018."""

_LATENCY_S = 0.0005
"""A counter is refreshed every 1 ms, and a value is half of that old on average."""

_PERIOD_S = 0.001
"""Refresh of the counters: Intel SDM volume 3B, section on RAPL, "updated every ~1 msec"."""

_REOPEN_NS = NS_PER_S
"""Time between two attempts to reopen a counter that cannot be read."""

_MICROJOULE = 1e-6

_LIMITS = tuple(f"constraint_{i}_{limit}_uw" for i in range(3) for limit in ("power_limit", "max_power"))
"""A zone's limits of sustained, short and peak power, and the most that each can be set to (Linux, powercap.rst)."""

_NO_LIMIT_WATTS = 4000.0
"""Firmware that wants no limit sets the largest of its register, 2^15 - 1 eighths of a watt (Intel SDM volume 3B)."""

TURBO = 2.5
"""Our assumption: a processor draws so many times its TDP for some seconds. Intel's mobile ones of 28 W are limited to 64 W."""

_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
"""Names of packages in Linux, drivers/powercap/intel_rapl_common.c; the same for AMD's processors."""

_EVENTS: dict[_Part, str] = {"cpu": "energy-pkg", "dram": "energy-ram"}
"""Names of events in Linux, arch/x86/events/rapl.c; the others are part of the package or include it."""

_ONE_COUNTER_VENDORS = ("AuthenticAMD", "HygonGenuine")
"""Vendors with one energy counter per package, although Linux 6.9 to 6.11 shows it once for each die."""

_INTEL = "GenuineIntel"
_VENDORS = (_INTEL, *_ONE_COUNTER_VENDORS)

_LET_ALL_READ = (
    """echo 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"' """
    "| sudo tee /etc/udev/rules.d/70-rapl.rules && sudo udevadm control --reload "
    "&& sudo udevadm trigger --subsystem-match=powercap --action=add"
)
_ALL = "the processor's energy counters (RAPL)"
_DENIED_BY_POWERCAP = (
    "{} are readable only by root",
    f"To let every user read them, now and after each boot: {_LET_ALL_READ}",
)
_DENIED_BY_PERF = (
    "this user has no permission to read {}",
    (
        "To allow it until the next boot: `sudo sysctl kernel.perf_event_paranoid=0`; "
        "start a container with `--cap-add PERFMON` as well."
    ),
)
_HIDDEN = (
    "The processor's energy counters (RAPL) are hidden from this container.",
    (
        "Start it with `docker run --security-opt systempaths=unconfined`, and `--security-opt apparmor=unconfined` if the "
        f"host uses AppArmor. To let users other than root read them, run this on the host: {_LET_ALL_READ}"
    ),
)
"""Docker mounts an empty folder over /sys/devices/virtual/powercap, and its AppArmor profile denies access below it."""

_SILENT = "The processor's energy counters (RAPL) exist but report nothing."
_VIRTUAL = "This machine has no energy counter of its processor (RAPL); virtual machines have none."
_NOTHING = "This machine has no energy counter of its processor (RAPL)."
_LOAD_MODULE = "Load the kernel module for it, also for AMD: `sudo modprobe intel_rapl_msr`; for a container, on its host."


class _Counter(Protocol):
    def read(self) -> int: ...

    def close(self) -> None: ...


class _Zone:
    """One counter, kept open: a read is one system call."""

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
        """Reopen the counter: after a reload of the kernel module, the old descriptor never works again."""
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
    """A counter to open."""

    package: str
    part: _Part
    open_counter: Callable[[], _Counter]
    unit_joules: float
    wrap_joules: float | None = None
    note: str | None = None
    max_watts: float | None = None

    @property
    def name(self) -> str:
        return self.package if self.part == "cpu" else f"{self.package}-dram"


class _DeniedError(Exception):
    """This user has no permission to read a package's counter; the error has the names of those packages."""


@dataclass(frozen=True, slots=True)
class RaplBackend:
    """Packages and their memory, identified by name.

    ``core`` and ``uncore`` are part of the package, ``psys`` includes it, and ``intel-rapl-mmio`` shows the same counters
    again: none of these is read.

    Attributes:
        root: The powercap tree.
        event_source: The units that count perf events, used if the powercap tree is not readable or missing.
        cpus: The CPUs and the package of each.
        proc: Linux's process file system.
        clock: Monotonic clock.
        find_tdp: Returns the name and the TDP in W of a processor in a table, or None; for packages that state no limit.
    """

    root: Path = Path("/sys/class/powercap")
    event_source: Path = Path("/sys/bus/event_source/devices")
    cpus: Path = Path("/sys/devices/system/cpu")
    proc: Path = Path("/proc")
    clock: Clock = monotonic_clock
    find_tdp: Callable[[str], tuple[str, float] | None] = lambda _: None
    name: str = "rapl"

    def open(self) -> Sequence[_Zone]:
        """Open each package and each memory counter.

        Raises:
            BackendUnavailableError: There is no counter, or this user has no permission to read it.
        """
        cpuinfo = read_text(self.proc / "cpuinfo") or ""
        refusals = [_HIDDEN] if None in self._zone_names() else []
        for plans, (denied, fix) in (
            (list(self._powercap_plans(cpuinfo)), _DENIED_BY_POWERCAP),
            (list(self._perf_plans(cpuinfo)), _DENIED_BY_PERF),
        ):
            try:
                zones = self._open_all(plans, cpuinfo, (denied, fix))
            except _DeniedError as error:
                every = set(error.args) == {plan.package for plan in plans}
                refusals.append((f"{_say(denied, _ALL if every else _counters(error.args))}.", fix))
            else:
                if zones:
                    return zones
        if refusals:
            raise BackendUnavailableError(*refusals[0], present=True)
        raise self._explain_absence(cpuinfo)

    def _open_all(self, plans: Iterable[_Plan], cpuinfo: str, denial: tuple[str, str]) -> Sequence[_Zone]:
        """Open the counters that can be read; after an error none is left open.

        Args:
            plans: The counters.
            cpuinfo: Description of the processors.
            denial: What to say of counters that this user may not read, and of the fix.

        Raises:
            _DeniedError: This user has no permission to read a package's counter.
        """
        zones: list[_Zone] = []
        denied: list[_Plan] = []
        silent: list[_Plan] = []
        with contextlib.ExitStack() as opened:
            for plan in plans:
                try:
                    zone = self._make_zone(plan, cpuinfo)
                except PermissionError:
                    denied.append(plan)
                    continue
                except OSError:
                    silent.append(plan)
                    continue
                opened.callback(zone.close)
                try:
                    zone.read()
                except ReadError:
                    zone.close()
                    silent.append(plan)
                else:
                    zones.append(zone)
            packages = [plan.package for plan in denied if plan.part == "cpu"]
            if packages:
                raise _DeniedError(*packages)
            opened.pop_all()
        _describe_unread(zones, (("{} cannot be read", "", silent), (*denial, denied)))
        return zones

    def _make_zone(self, plan: _Plan, cpuinfo: str) -> _Zone:
        package = plan.part == "cpu"
        max_watts = plan.max_watts
        if max_watts is None and package and (model := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)):
            tdp = self.find_tdp(model[1].strip())
            max_watts = None if tdp is None else TURBO * tdp[1]
        device = Device(
            id=f"{self.name}:{plan.name}",
            name=f"Processor {plan.name}",
            kind=plan.part,
            backend=self.name,
            method="energy_counter",
            provenance="measured",
            relative_uncertainty=_INTEL_PACKAGE_UNCERTAINTY if package and _INTEL in cpuinfo else _UNCERTAINTY[plan.part],
            latency_s=_LATENCY_S,
            wrap_joules=plan.wrap_joules,
            update_period_s=_PERIOD_S,
            note=plan.note,
            # Other sources of a processor's energy, such as the driver of its graphics, cover the same package.
            covers=("cpu",) if package else (),
            max_watts=max_watts,
        )
        return _Zone(device, plan.open_counter, plan.unit_joules, self.clock)

    def _zone_names(self) -> Sequence[str | None]:
        """Return the names of the zones, None for a zone whose link leads nowhere."""
        return [read_text(folder / "name") for folder in self.root.glob("intel-rapl:*")]

    def _powercap_plans(self, cpuinfo: str) -> Iterator[_Plan]:
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

    def _perf_plans(self, cpuinfo: str) -> Iterator[_Plan]:
        unit = self.event_source / "power"
        kind = re.fullmatch(r"\d{1,10}", read_text(unit / "type") or "")
        if kind is None:
            return
        for cpu, package in self._counting_cpus(read_text(unit / "cpumask") or "", cpuinfo):
            for part, event in _EVENTS.items():
                config = re.fullmatch(r"event=(0x[0-9a-f]{1,16})", read_text(unit / "events" / event) or "")
                scale = _positive_number(read_text(unit / "events" / f"{event}.scale") or "")
                if config is not None and scale is not None:
                    open_counter = partial(PerfEvent, int(kind[0]), int(config[1], 16), cpu)
                    yield _Plan(package, part, open_counter, scale, note="Read through Linux's perf events.")

    def _counting_cpus(self, mask: str, cpuinfo: str) -> Iterator[tuple[int, str]]:
        """Yield the CPUs on which the events are counted, with the names of their packages."""
        topologies = {
            cpu: [self._read_topology(cpu, what) for what in ("physical_package_id", "die_id")] for cpu in _parse_cpu_list(mask)
        }
        packages = [package for package, _ in topologies.values()]
        one_counter = _one_counter(cpuinfo)
        seen = set()
        for cpu, (package, die) in topologies.items():
            if one_counter or packages.count(package) == 1:
                if package not in seen:
                    yield cpu, f"package-{package}"
                seen.add(package)
            else:
                yield cpu, f"package-{package}-die-{die}"

    def _read_topology(self, cpu: int, what: str) -> str:
        return read_text(self.cpus / f"cpu{cpu}" / "topology" / what) or str(cpu)

    def _explain_absence(self, cpuinfo: str) -> BackendUnavailableError:
        """Return the reason if no counter exists and none is denied."""
        if self._zone_names():
            return BackendUnavailableError(_SILENT, present=True)
        if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE):
            return BackendUnavailableError(_VIRTUAL)
        if any(vendor in cpuinfo for vendor in _VENDORS):
            return BackendUnavailableError(_NOTHING, _LOAD_MODULE, present=True)
        return BackendUnavailableError(_NOTHING)


def _counters(names: Iterable[str]) -> str:
    return f"RAPL's counters of {', '.join(names)}"


def _say(reason: str, counters: str) -> str:
    text = reason.format(counters)
    return f"{text[0].upper()}{text[1:]}"


def _describe_unread(zones: Sequence[_Zone], reasons: Sequence[tuple[str, str, Sequence[_Plan]]]) -> None:
    """Let the devices say which counters cannot be read.

    Args:
        zones: The counters that can be.
        reasons: Each with the fix, and with the counters that it applies to.
    """
    opened = {zone.device.kind for zone in zones}
    for part in _EVENTS:
        told = [(reason, fix, [plan.name for plan in plans if plan.part == part]) for reason, fix, plans in reasons]
        effect = "their energy is not included" if part in opened else "the energy of the memory is not measured"
        text = " ".join(f"{_say(reason, _counters(names))}: {effect}. {fix}".strip() for reason, fix, names in told if names)
        for zone in zones if text else ():
            if zone.device.kind == part:
                zone.device = replace(zone.device, missing=text)
            elif part not in opened:
                zone.device = replace(zone.device, unread=text)


def _one_counter(cpuinfo: str) -> bool:
    return any(vendor in cpuinfo for vendor in _ONE_COUNTER_VENDORS)


def _powercap_plan(folder: Path, package: str, part: _Part) -> _Plan:
    limit = _positive_number(read_text(folder / "max_energy_range_uj") or "")
    wrap_joules = None if limit is None else limit * _MICROJOULE
    max_watts = read_limit_watts(folder, *_LIMITS)
    return _Plan(
        package,
        part,
        partial(_open_file, folder, package if part == "cpu" else part),
        _MICROJOULE,
        wrap_joules,
        max_watts=None if max_watts is None or max_watts > _NO_LIMIT_WATTS else max_watts,
    )


def _open_file(folder: Path, name: str) -> NumberFile:
    """Open a zone's counter if the folder is still the zone's: loading the module renumbers the folders."""
    if read_text(folder / "name") != name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    return NumberFile(folder / "energy_uj")


def _parse_cpu_list(mask: str) -> Iterator[int]:
    """Yield the CPUs of a list such as ``0,28`` or ``0-1``; none if the text is not such a list."""
    if re.fullmatch(r"(\d{1,4}(-\d{1,4})?(,|$))+", mask):  # four digits: Linux supports up to 8192 CPUs
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", mask):
            yield from range(int(first), int(last or first) + 1)


def _positive_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
