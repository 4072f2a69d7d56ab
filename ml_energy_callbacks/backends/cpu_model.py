"""Power model of the processor, for machines that cannot measure its power."""

import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import psutil

from ml_energy_callbacks.backends.drivers.cgroup import CGROUPS, CpuGroup, find_cpu_group
from ml_energy_callbacks.backends.drivers.cpuinfo import Processors, parse_cpuinfo
from ml_energy_callbacks.backends.drivers.environment import Environment
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.backends.processor_power import LoadPower, estimate_power, find_microarchitecture, typical_server
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.codecarbon_data import microarchitectures, processor_tdps
from ml_energy_callbacks.codecarbon_data import processors as table_of_processors
from ml_energy_callbacks.exceptions import ConfigurationError, ReadError
from ml_energy_callbacks.readings import Device, Kind
from ml_energy_callbacks.safe_text import describe

TDP_VARIABLE = "ML_ENERGY_CPU_TDP_WATTS"
"""Environment variable with the TDP of all processors of the machine together, in W."""

_LAPTOP = re.compile(r"\b(?:core|ryzen)\b.*\d[up]$", re.IGNORECASE)
"""Processors whose figure in the table may be the limit in turbo mode (an i5-1335U: 55 W, and 15 W for long) or the base power,
and whose maker of the computer chooses what lies between."""

_THREADS_PER_CORE = 2
"""Of the processors whose names contain the number of cores, AMD's EPYC."""

_NOISE = re.compile(
    r"""
      \((?:r|tm|c)\)                                  # marks
    | \b(?:cpu|processor)\b
    | \b(?:\d+|dual|quad|six|eight)-cores?\b
    | @.*$                                            # the clock
    | \b(?:with|w/)\ .*$ | \bradeon\ .*\bcores\b.*$   # the graphics
    | ^\d+th\ gen\ (?=intel)
    """,
    re.IGNORECASE | re.VERBOSE,
)

_LEAST_CPU_SECONDS = 0.05
"""The kernel counts in ticks of 10 ms: over a few ticks, the load is mostly noise."""


@dataclass(frozen=True, slots=True)
class _Tdp:
    """The thermal design power of a machine's or a virtual machine's threads, and its origin.

    Attributes:
        watts: In W; None if it is unknown.
        origin: Where it is from, in words.
        doubtful: Whether it is known to a factor of two only.
    """

    watts: float | None
    origin: str
    doubtful: bool = False


class _Processor:
    """Integrates the modelled power from each read to the next."""

    def __init__(self, device: Device, power: LoadPower, cpu_seconds: Callable[[], tuple[float, float]], clock: Clock) -> None:
        self._device = device
        self._power = power
        self._cpu_seconds = cpu_seconds
        self._clock = clock
        self._joules = self._uncertain = 0.0
        self._time = clock()
        self._busy, self._all = cpu_seconds()
        self._load = 0.0
        self._closed = False

    @property
    def device(self) -> Device:
        """The processors; their uncertainty is that at the loads seen so far, weighted by the energy."""
        share = self._uncertain / self._joules if self._joules else self._power.uncertainty(0)
        share = round(share, 2)
        if share != self._device.relative_uncertainty:
            self._device = replace(self._device, relative_uncertainty=share)
        return self._device

    def exclude(self, kinds: Collection[Kind]) -> None:
        """Leave out the energy of these kinds, which others report."""
        if set(kinds) & set(self._device.covers):
            self._power = self._power.processors_alone()
            note = f"{self._device.note} Without the memory, fans and losses."
            self._device = replace(self._device, covers=(), note=note)

    def read(self) -> float:
        """Return the modelled joules since the model was opened."""
        if self._closed:
            msg = "The model is closed."
            raise ReadError(msg)
        busy, everything = self._cpu_seconds()
        now = self._clock()
        if everything - self._all >= _LEAST_CPU_SECONDS:
            self._load = min(1.0, max(0.0, (busy - self._busy) / (everything - self._all)))
            self._busy, self._all = busy, everything
        joules = self._power.at(self._load) * (now - self._time) / NS_PER_S
        self._joules += joules
        self._uncertain += joules * self._power.uncertainty(self._load)
        self._time = now
        return self._joules

    def busy_seconds(self) -> float:
        """Return the CPU time in s of all processes whose energy this is."""
        return self._cpu_seconds()[0]

    def close(self) -> None:
        """Close the model; calling it twice is harmless."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class CpuModelBackend:
    """Power of the processors and their memory by load, as published for servers of their microarchitecture.

    Attributes:
        tdp_watts: TDP of all processors of the machine together in W; None to use the environment variable
            ``ML_ENERGY_CPU_TDP_WATTS`` or, if it is not set, the table of processors.
        proc: Linux's process file system.
        cgroups: Where Linux's control groups are mounted.
        clock: Monotonic clock.
        environ: The environment.
    """

    tdp_watts: float | None = None
    proc: Path = Path("/proc")
    cgroups: Path = CGROUPS
    clock: Clock = monotonic_clock
    environ: Mapping[str, str] = field(default_factory=Environment)
    name: str = "cpu-model"

    def open(self) -> Sequence[_Processor]:
        """Return the model of all processors together.

        Raises:
            ConfigurationError: The given TDP is not a positive number.
        """
        processors = parse_cpuinfo(read_text(self.proc / "cpuinfo") or "")
        tdp = self._given_tdp() or _find_machines_tdp(processors)
        rows = microarchitectures()
        row = find_microarchitecture(rows, processors) or typical_server(rows)
        gigabytes = self._read_gigabytes()
        power = estimate_power(row, threads=processors.threads, tdp_watts=tdp.watts, gigabytes=gigabytes)
        if tdp.doubtful:
            power = power.widened(1.0)
        curve = f"{row.name} ({row.origin})"
        memory = "its memory" if gigabytes is None else f"its {gigabytes:.0f} GB of memory"
        note = f"{tdp.origin}, by the load curve of {curve}; {memory} included."
        group = find_cpu_group(self.proc, self.cgroups, processors.threads)
        cpu_seconds = self._cpu_seconds()
        if group is not None:
            power = power.scaled(group.threads / processors.threads)
            cpu_seconds = partial(_read_group_seconds, group, self.clock)
            note += f" Of this, the share of a control group with {group.threads:g} of {processors.threads} threads."
        device = Device(
            id="cpu-model:0",
            name=processors.name,
            kind="cpu",
            backend=self.name,
            method="model",
            provenance="estimated",
            relative_uncertainty=power.idle_uncertainty,
            update_period_s=0.0,
            note=note,
            covers=("dram",),
            latency_s=0.0,
            latency_source="known",
        )
        return [_Processor(device, power, cpu_seconds, self.clock)]

    def _cpu_seconds(self) -> Callable[[], tuple[float, float]]:
        stat = self.proc / "stat"
        return partial(_read_stat_seconds, stat) if read_text(stat) else _read_psutil_seconds

    def _read_gigabytes(self) -> float | None:
        """Return the size of the memory in GB; None if this system does not state it."""
        if not self.proc.is_dir():
            return psutil.virtual_memory().total / 1e9
        found = re.search(r"^MemTotal:\s*(\d+) kB", read_text(self.proc / "meminfo") or "", re.MULTILINE)
        return int(found[1]) * 1024 / 1e9 if found else None

    def _given_tdp(self) -> _Tdp | None:
        given: tuple[str, object] = ("tdp_watts", self.tdp_watts)
        if self.tdp_watts is None:
            given = (TDP_VARIABLE, self.environ.get(TDP_VARIABLE) or None)
        what, value = given
        if value is None:
            return None
        try:
            watts = float(str(value))
        except ValueError:
            watts = math.nan
        if not 0 < watts < math.inf:
            msg = f"{what} is {describe(value)}; give the TDP of all processors of the machine together in watts, such as 280."
            raise ConfigurationError(msg)
        return _Tdp(watts, f"{watts:g} W TDP as given by {what}")


def _find_machines_tdp(processors: Processors) -> _Tdp:
    """Return the TDP of a machine's threads by the processors' name; of a guest's, only if the name states the host's cores."""
    match = find_tdp(processors.name)
    cores = re.search(r"\b(\d+)-core", processors.name, re.IGNORECASE)
    threads, of_machine = processors.threads, "A virtual machine's " if processors.virtual else ""
    if match is None or (processors.virtual and cores is None):
        return _Tdp(None, f"{of_machine}{threads} threads of an unknown part")
    known, tdp = match
    origin = f"{known} in the {table_of_processors().origin}"
    if cores is not None and processors.virtual:
        of_host = int(cores[1]) * _THREADS_PER_CORE
        return _Tdp(tdp * threads / of_host, f"{of_machine}{threads} threads of {of_host} with {tdp:g} W TDP ({origin})")
    laptop = _LAPTOP.search(known) is not None
    if laptop:
        origin += ", which may be the limit in turbo mode"
    sockets = processors.sockets
    return _Tdp(tdp * sockets, f"{sockets} x {tdp:g} W TDP ({origin})", doubtful=laptop)


@cache
def find_tdp(name: str) -> tuple[str, float] | None:
    """Return a processor's name in the table and its TDP in W, or None if the table does not contain it.

    The whole name has to match, without marks and descriptions: a similar model may draw twice as much.
    """
    plain = _normalize_name(name)
    if plain.startswith("armv"):
        return None  # the table contains an architecture, which is not a processor
    words = re.findall(r"[a-z0-9]+", plain)
    if not words:
        return None
    # The last word is compared first: normalising every name of the table takes 13 ms.
    matches = [
        (known, watts)
        for known, watts in processor_tdps().items()
        if words[-1] in known.lower() and _normalize_name(known) == plain
    ]
    return matches[0] if len({watts for _, watts in matches}) == 1 else None


def _normalize_name(name: str) -> str:
    return " ".join(_NOISE.sub(" ", name).lower().split()).replace(" -", "-")


def _read_stat_seconds(stat: Path) -> tuple[float, float]:
    """Return the CPUs' busy time and total time in s since boot.

    The first line of Linux's ``/proc/stat``, see proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal. The
    guest times that follow are already included in user and nice; time stolen by other guests of the host is not busy time.
    """
    try:
        with stat.open(encoding="ascii") as file:
            label, *times = file.readline().split()
        user, nice, system, idle, iowait, irq, softirq, steal = (int(time) / os.sysconf("SC_CLK_TCK") for time in times[:8])
    except (OSError, ValueError) as error:
        msg = f"The processors' load cannot be read from {stat}: {error}"
        raise ReadError(msg) from error
    if label != "cpu":
        msg = f"The first line of {stat} is not the processors' load."
        raise ReadError(msg)
    busy = user + nice + system + irq + softirq
    return busy, busy + idle + iowait + steal


def _read_psutil_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()
    everything = float(sum(times))
    return everything - times.idle, everything


def _read_group_seconds(group: CpuGroup, clock: Clock) -> tuple[float, float]:
    """Return the CPU time of a control group in s, and the most that it could have had by now."""
    return group.busy_seconds(), group.threads * clock() / NS_PER_S
