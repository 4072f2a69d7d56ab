"""Identity of the machine, equal for all processes that see the same devices."""

import socket
import uuid
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import read_text

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Linux's random number of the present boot: containers of one machine share it, as they share its devices.

https://www.kernel.org/doc/html/latest/admin-guide/sysctl/kernel.html#random
"""

_RANDOM_NODE = 1 << 40
"""Bit that :func:`uuid.getnode` sets in the random number it returns if it finds no network card."""


_PID_NAMESPACE = Path("/proc/self/ns/pid")
"""https://man7.org/linux/man-pages/man7/pid_namespaces.7.html"""


def pid_namespace() -> str:
    """Return an id of the process-id namespace: each container may have its own process ids."""
    try:
        return str(_PID_NAMESPACE.readlink())
    except OSError:
        return ""


def host_identity() -> str:
    """Return an id of this machine; not its name, since containers have their own and cloned machines share one."""
    boot = read_text(_BOOT_ID)
    if boot:
        return boot
    card = uuid.getnode()
    return socket.gethostname() if card & _RANDOM_NODE else f"{card:012x}"
