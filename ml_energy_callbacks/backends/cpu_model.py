"""A model of the processor's power, for machines that do not measure it."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.codecarbon_data import processor_tdps
from ml_energy_callbacks.readings import Device

# Power / TDP at 0, 10 ... 100 % load: median of the servers published with SPECpower_ssj2008.
_CURVE = (0.19, 0.34, 0.39, 0.45, 0.50, 0.56, 0.63, 0.71, 0.81, 0.91, 1.05)

_UNCERTAINTY = 0.5
_VIRTUAL_UNCERTAINTY = 1.0
"""A share of an unknown host: right to a factor of two."""

WATTS_PER_THREAD = 4.0
"""TDP of a hardware thread where the processor is not in the table; codecarbon's figure (``DEFAULT_POWER_PER_CORE``)."""

_NOISE = re.compile(r"\((r|tm|c)\)|\bcpu\b|\bprocessor\b|\b\d+-core\b|@.*$|\bwith radeon.*$", re.IGNORECASE)


class _Processor:
    """Integrates the modelled power from one read to the next."""

    def __init__(self, device: Device, tdp_watts: float, clock: Clock) -> None:
        self.device = device
        self._tdp = tdp_watts
        self._clock = clock
        self._joules = 0.0
        self._time = clock()
        self._busy, self._all = _cpu_seconds()
        self._load = 0.0

    def read(self) -> float:
        """Return the modelled joules since it was opened."""
        now = self._clock()
        busy, everything = _cpu_seconds()
        # The kernel counts in ticks of 10 ms: the load over fewer than some of them is noise.
        if everything - self._all >= _LEAST_CPU_SECONDS:
            self._load = min(1.0, max(0.0, (busy - self._busy) / (everything - self._all)))
            self._busy, self._all = busy, everything
        self._joules += self._tdp * load_share(self._load) * (now - self._time) / NS_PER_S
        self._time = now
        return self._joules

    def close(self) -> None:
        """Do nothing."""


_LEAST_CPU_SECONDS = 0.05


def _cpu_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()
    # Guests' time is inside that of their users already.
    everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return everything - times.idle - getattr(times, "iowait", 0.0), everything


def load_share(load: float) -> float:
    """Return power as a share of TDP at a load between 0 and 1."""
    place = min(int(load * 10), 9)
    return _CURVE[place] + (_CURVE[place + 1] - _CURVE[place]) * (load * 10 - place)


@dataclass(frozen=True, slots=True)
class CpuModelBackend:
    """TDP times a load curve.

    Attributes:
        proc: Linux's process file system.
        clock: Monotonic clock.
    """

    proc: Path = Path("/proc")
    clock: Clock = monotonic_clock
    name: str = "cpu-model"

    def open(self) -> Sequence[_Processor]:
        """Return the model of all processors together."""
        text = _read(self.proc / "cpuinfo")
        name = _field(text, "model name") or platform.processor() or "unknown processor"
        virtual = "hypervisor" in (_field(text, "flags") or "").split()
        sockets = len(set(re.findall(r"^physical id\s*:\s*(\d+)", text, re.MULTILINE))) or 1
        tdp = None if virtual else find_tdp(name)
        threads = os.cpu_count() or 1
        if tdp is not None:
            watts = tdp * sockets
            note = f"{sockets} x {tdp:g} W TDP from codecarbon's table, times a load curve."
        else:
            watts = WATTS_PER_THREAD * threads
            why = "a virtual machine" if virtual else "not in codecarbon's table"
            note = f"{threads} threads x {WATTS_PER_THREAD:g} W ({why}), times a load curve."
        device = Device(
            id="cpu-model:0",
            name=name,
            kind="cpu",
            backend=self.name,
            method="model",
            provenance="estimated",
            relative_uncertainty=_UNCERTAINTY if tdp is not None else _VIRTUAL_UNCERTAINTY,
            update_period_s=0.0,
            note=note,
        )
        return [_Processor(device, watts, self.clock)]


def find_tdp(name: str) -> float | None:
    """Return the TDP in W of the processor of this name, or None where the table does not hold it."""
    table = {_plain(known): watts for known, watts in processor_tdps().items()}
    return table.get(_plain(name))


def _plain(name: str) -> str:
    return " ".join(_NOISE.sub(" ", name).lower().split())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None
