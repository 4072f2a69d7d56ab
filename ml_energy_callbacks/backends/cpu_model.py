"""Power model of the processor, for machines that cannot measure its power."""

import math
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import psutil

from ml_energy_callbacks.backends.drivers.environment import Environment
from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.codecarbon_data import processor_tdps, processors
from ml_energy_callbacks.exceptions import ConfigurationError, ReadError
from ml_energy_callbacks.readings import Device
from ml_energy_callbacks.safe_text import describe

TDP_VARIABLE = "ML_ENERGY_CPU_TDP_WATTS"
"""Environment variable with the TDP of all processors of the machine together, in W."""

# Power / TDP at 0, 10 ... 100 % load: median of the servers published with SPECpower_ssj2008.
_CURVE = (0.19, 0.34, 0.39, 0.45, 0.50, 0.56, 0.63, 0.71, 0.81, 0.91, 1.05)

_UNCERTAINTY = 0.5
"""Our assumption: the curve deviates by 19 % on average over those servers, and a TDP is not a measurement."""

_SHARE_UNCERTAINTY = 1.0
"""For a share of an unknown host, an unknown processor, or one of a laptop: accurate to a factor of two."""

_LAPTOP = re.compile(r"\b(?:core|ryzen)\b.*\d[up]$", re.IGNORECASE)
"""Processors whose figure in the table may be the limit in turbo mode (an i5-1335U: 55 W, and 15 W for long) or the base power,
and whose maker of the computer chooses what lies between."""

WATTS_PER_THREAD = 4.0
"""TDP of a hardware thread of a processor that is not in the table; codecarbon's ``DEFAULT_POWER_PER_CORE``."""

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
class _Estimate:
    """The TDP that is used, and its origin."""

    watts: float
    origin: str
    uncertainty: float


class _Processor:
    """Integrates the modelled power from each read to the next."""

    def __init__(self, device: Device, tdp_watts: float, cpu_seconds: Callable[[], tuple[float, float]], clock: Clock) -> None:
        self.device = device
        self._tdp = tdp_watts
        self._cpu_seconds = cpu_seconds
        self._clock = clock
        self._joules = 0.0
        self._time = clock()
        self._busy, self._all = cpu_seconds()
        self._load = 0.0
        self._closed = False

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
        self._joules += self._tdp * load_share(self._load) * (now - self._time) / NS_PER_S
        self._time = now
        return self._joules

    def close(self) -> None:
        """Close the model; calling it twice is harmless."""
        self._closed = True


def load_share(load: float) -> float:
    """Return the power as a share of the TDP, at a load between 0 and 1."""
    index = min(int(load * 10), 9)
    return _CURVE[index] + (_CURVE[index + 1] - _CURVE[index]) * (load * 10 - index)


@dataclass(frozen=True, slots=True)
class CpuModelBackend:
    """TDP times a load curve.

    Attributes:
        tdp_watts: TDP of all processors of the machine together in W; None to use the environment variable
            ``ML_ENERGY_CPU_TDP_WATTS`` or, if it is not set, the table of processors.
        proc: Linux's process file system.
        clock: Monotonic clock.
        environ: The environment.
    """

    tdp_watts: float | None = None
    proc: Path = Path("/proc")
    clock: Clock = monotonic_clock
    environ: Mapping[str, str] = field(default_factory=Environment)
    name: str = "cpu-model"

    def open(self) -> Sequence[_Processor]:
        """Return the model of all processors together.

        Raises:
            ConfigurationError: The given TDP is not a positive number.
        """
        text = read_text(self.proc / "cpuinfo") or ""
        name = _read_field(text, "model name") or platform.machine() or "unknown processor"
        estimate = self._given_tdp() or _estimate_tdp(text, name)
        device = Device(
            id="cpu-model:0",
            name=name,
            kind="cpu",
            backend=self.name,
            method="model",
            provenance="estimated",
            relative_uncertainty=estimate.uncertainty,
            update_period_s=0.0,
            note=f"{estimate.origin}, times a load curve.",
        )
        stat = self.proc / "stat"
        cpu_seconds = partial(_read_stat_seconds, stat) if read_text(stat) else _read_psutil_seconds
        return [_Processor(device, estimate.watts, cpu_seconds, self.clock)]

    def _given_tdp(self) -> _Estimate | None:
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
        return _Estimate(watts, f"{watts:g} W TDP as given by {what}", _UNCERTAINTY)


def _estimate_tdp(cpuinfo: str, name: str) -> _Estimate:
    virtual = "hypervisor" in (_read_field(cpuinfo, "flags") or "").split()
    threads = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count() or 1
    sockets = len(set(re.findall(r"^physical id\s*:\s*(\d+)", cpuinfo, re.MULTILINE))) or 1
    match = find_tdp(name)
    cores = re.search(r"\b(\d+)-core", name, re.IGNORECASE)
    if match is not None and not virtual:
        known, tdp = match
        origin, laptop = f"{known} in the {processors().origin}", _LAPTOP.search(known) is not None
        if laptop:
            origin += ", which may be the limit in turbo mode"
        return _Estimate(tdp * sockets, f"{sockets} x {tdp:g} W TDP ({origin})", _SHARE_UNCERTAINTY if laptop else _UNCERTAINTY)
    if match is not None and cores is not None:
        known, tdp = match
        of_host = int(cores[1]) * _THREADS_PER_CORE
        origin = f"A virtual machine's {threads} threads of {of_host} with {tdp:g} W TDP ({known} in the {processors().origin})"
        return _Estimate(tdp * threads / of_host, origin, _SHARE_UNCERTAINTY)
    why = "a virtual machine" if virtual else f"not in the {processors().origin}"
    return _Estimate(WATTS_PER_THREAD * threads, f"{threads} threads x {WATTS_PER_THREAD:g} W ({why})", _SHARE_UNCERTAINTY)


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


def _read_field(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None
