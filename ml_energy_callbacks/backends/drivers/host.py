"""Which machine this is: processes that see the same devices have the same identity."""

import socket
import uuid
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import read_text

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Linux's random number of this boot: containers on a machine share it, as they share its devices; machines do not.

https://www.kernel.org/doc/html/latest/admin-guide/sysctl/kernel.html#random
"""

_RANDOM_NODE = 1 << 40
"""Set in what :func:`uuid.getnode` makes up where it finds no network card."""


_PID_NAMESPACE = Path("/proc/self/ns/pid")
"""https://man7.org/linux/man-pages/man7/pid_namespaces.7.html"""


def pid_namespace() -> str:
    """Return what tells whose numbers of processes are ours: each container may count its own."""
    try:
        return str(_PID_NAMESPACE.readlink())
    except OSError:
        return ""


def host_identity() -> str:
    """Return what tells this machine from others: no name, as those of containers and of cloned machines may be anything."""
    boot = read_text(_BOOT_ID)
    if boot:
        return boot
    card = uuid.getnode()
    return socket.gethostname() if card & _RANDOM_NODE else f"{card:012x}"
