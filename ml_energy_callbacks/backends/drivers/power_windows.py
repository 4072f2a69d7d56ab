"""The windows over which NVIDIA's GPUs average their readings of power; pure.

A wrong window makes the energies of phases wrong without widening their intervals. Only cards whose window was measured are in
the tables, therefore; of all others, it is unknown.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple


class Window(NamedTuple):
    """The time of which a reading is the mean.

    Attributes:
        seconds: Its length in s.
        latency_s: How far its end may be before the renewal of the reading, in s; that of an instant power is our assumption.
    """

    seconds: float
    latency_s: float = 0.002


_SECOND = Window(1.0, 0.06)
"""It ended 30 to 60 ms before the renewals in the measured traces of RTX 3090 and RTX A5000; windows of 100 ms ended less than
10 ms before them there."""

INSTANT: Mapping[str, Window] = {
    r"\bA100\b": Window(0.025),  # Yang, Adamek and Armour, arXiv:2312.02741: 25 ms of each 100 ms
    r"\bH100\b": Window(0.025),  # the same
    r"\bRTX 3090$": Window(0.1),  # the same, and its measured trace
    r"\bRTX A5000$": Window(0.1),  # the same, and its measured trace
}
"""Windows of ``NVML_FI_DEV_POWER_INSTANT`` by patterns of the card's name."""

AVERAGE: Mapping[str, Window] = {
    r"\bA100\b": Window(0.025),  # nvml.h: GA100 returns its instantaneous power
    r"\bH100\b": _SECOND,  # nvml.h: the mean of 1 s on Ampere, except GA100, and newer
    r"\bRTX 3090$": _SECOND,  # the same, and its measured trace
    r"\bRTX A5000$": _SECOND,  # the same, and its measured trace
}
"""Windows of ``nvmlDeviceGetPowerUsage``. Not on every card that nvml.h names: an RTX 4090 returned means of 100 ms."""


def window_of(name: str, windows: Mapping[str, Window]) -> Window | None:
    """Return the window of a card by its name; None where it is unknown."""
    return next((window for pattern, window in windows.items() if re.search(pattern, name)), None)
