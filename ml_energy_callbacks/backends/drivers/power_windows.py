"""The windows over which NVIDIA's GPUs average their readings of power; pure.

A wrong window makes the energies of phases wrong without widening their intervals. Only cards whose window was measured are in
the table, therefore; of all others, it is unknown. It is also unknown for ``nvmlDeviceGetPowerUsage``, which is read only where
the driver is too old for ``NVML_FI_DEV_POWER_INSTANT``: nvml.h says 1 s for Ampere and newer, but an RTX 4090 returned means of
100 ms, and the measured traces of other cards are of newer drivers.
"""

import re
from collections.abc import Mapping

INSTANT: Mapping[str, float] = {
    r"\bA100\b": 0.025,  # Yang, Adamek and Armour, arXiv:2312.02741: 25 ms of each 100 ms
    r"\bH100\b": 0.025,  # the same: 25 ms of each 100 ms
    r"\bRTX 3090$": 0.1,  # the same: 100 ms, as in its published trace
    r"\bRTX A5000$": 0.1,  # the same
}
"""Windows of ``NVML_FI_DEV_POWER_INSTANT`` in s, by patterns of the card's name."""


def window_of(name: str) -> float | None:
    """Return the window of a card's instant power in s, by the card's name; None where it is unknown."""
    return next((seconds for pattern, seconds in INSTANT.items() if re.search(pattern, name)), None)
