"""What hardware can draw, and how far its counters count; pure."""

import re
from collections.abc import Mapping, Sequence

from ml_energy_callbacks.backends.cpu_model import find_tdp
from ml_energy_callbacks.backends.rapl import TURBO
from ml_energy_callbacks.record.schema import DeviceRecord

COUNTER_RANGES: Sequence[float] = (262_143.328850, 65_712.999613, 65_532.610987)
"""Ranges of RAPL's counters in J (``max_energy_range_uj``): 2^32 units of 61 uJ, and of 15.3 uJ of memory and of AMD."""

LONG_S = 5.0
"""Any device has refreshed its counter, and used some energy, after so long."""

DIGITS = 1e-9
"""Share by which figures differ that are the same to the last digit."""

_IDLE_WATTS: Mapping[str, float] = {
    r"\b[AH]800\b": 40.0,
    r"\bA100-SXM": 40.0,
    r"\bA100-PCIE": 28.0,
    r"\bA100\b": 28.0,
    r"\bH[12]00\b.*(HBM3|SXM)": 55.0,
    r"\bH[12]00\b": 35.0,
    r"\bV100\b": 20.0,
    r"\bP100\b": 20.0,
    r"\bL40S?\b": 15.0,
    r"\bA10G?\b": 6.0,
    r"\bL4\b": 8.0,
    r"\bT4\b": 6.0,
}
"""The least that cards draw without any work, in W, by patterns of their names: our assumption, some tenths below what
``nvidia-smi`` prints of idle ones (A100 SXM 46 to 68 W, H100 SXM 68 to 73 W). Those with deeper sleep are not in it."""

_AT_WORK = 1.5
"""A card at work keeps its clocks up, and draws at least so many times its idle power: our assumption."""

_SERVER = re.compile(r"\b(xeon|epyc)\b", re.IGNORECASE)
_IDLE_SHARES = {True: 0.05, False: 0.01}
"""The least share of its TDP that a processor draws, of servers and others: our assumption, half of idle ones'."""

_MOST_TDP = 500.0
"""Of processors without an entry in the table, in W."""

_MOST_GPU = 2000.0
"""In W; the largest cards are made for 1,400 W."""

_MOST_MEMORY = 400.0
"""Power of the memory of a machine in W: 32 modules of 12 W."""


def least_gpu_watts(name: str, *, busy: bool) -> float | None:
    """Return the least power of a card in W by its name, idle or at work; None where it is unknown."""
    watts = next((watts for pattern, watts in _IDLE_WATTS.items() if re.search(pattern, name)), None)
    return None if watts is None else watts * (_AT_WORK if busy else 1.0)


def least_processor_watts(device: DeviceRecord) -> float | None:
    """Return the least power of a processor in W by its name; None where it is unknown.

    codecarbon's model of a Threadripper goes down to 0 W.
    """
    known = find_tdp(device.name) if device.kind == "cpu" and "Threadripper" not in device.name else None
    return None if known is None else _IDLE_SHARES[_SERVER.search(device.name) is not None] * known[1]


def most_watts(device: DeviceRecord) -> float | None:
    """Return the most that a device can draw in W; None for kinds of which that is unknown.

    A log does not say how many sockets a machine has: servers, and processors that are not in the table, may have two, if the
    figure may be of the whole machine.
    """
    if device.kind == "gpu":
        return _MOST_GPU * device.count
    if device.kind == "dram":
        return _MOST_MEMORY
    if device.kind != "cpu":
        return None
    known = find_tdp(device.name)
    sockets = 2 if (known is None or _SERVER.search(device.name)) and not device.id.startswith("rapl:") else 1
    return TURBO * (_MOST_TDP if known is None else known[1]) * sockets * device.count
