"""Share of the machine's processors that Linux's control groups allow this process: containers and jobs of a scheduler.

https://docs.kernel.org/admin-guide/cgroup-v2.html (``cpu.max``, ``cpuset.cpus.effective``, ``cpu.stat``) and
https://docs.kernel.org/admin-guide/cgroup-v1/cpusets.html
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import read_text
from ml_energy_callbacks.exceptions import ReadError

CGROUPS = Path("/sys/fs/cgroup")
"""Where the control groups are mounted."""

_US, _NS = 1e-6, 1e-9


@dataclass(frozen=True, slots=True)
class CpuGroup:
    """A control group that may use only some of the machine's hardware threads.

    Attributes:
        threads: How many it may use at a time; a quota may allow a part of one.
        usage: The file with the CPU time that it has used.
    """

    threads: float
    usage: Path

    def busy_seconds(self) -> float:
        """Return the CPU time of all its processes in s.

        Raises:
            ReadError: It cannot be read.
        """
        text = read_text(self.usage) or ""
        found = re.search(r"^usage_usec (\d+)", text, re.MULTILINE) or re.search(r"^(\d+)$", text.strip())
        if found is None:
            msg = f"The CPU time of the control group cannot be read from {self.usage}."
            raise ReadError(msg)
        return int(found[1]) * (_US if self.usage.name == "cpu.stat" else _NS)


def find_cpu_group(proc: Path, root: Path, threads: int) -> CpuGroup | None:
    """Return the outermost control group with the tightest limit, or None if this process may use all of the threads.

    Args:
        proc: Linux's process file system.
        root: Where the control groups are mounted.
        threads: Hardware threads of the machine.
    """
    tightest: CpuGroup | None = None
    for folders in _hierarchies(proc, root):
        for limit, usage in folders:
            if limit < threads and (tightest is None or limit <= tightest.threads) and read_text(usage):
                tightest = CpuGroup(limit, usage)
    return tightest


def _hierarchies(proc: Path, root: Path) -> Iterator[Iterator[tuple[float, Path]]]:
    """Yield the limits and usage files of this process's groups and all around them, innermost first, by hierarchy."""
    for line in (read_text(proc / "self" / "cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        names = controllers.split(",")
        if not controllers:
            yield ((_read_limit(folder), folder / "cpu.stat") for folder in _outwards(root, path))
        elif "cpu" in names or "cpuset" in names:
            accounts = root / "cpuacct"
            yield (
                (_read_limit(folder), accounts / folder.relative_to(root / controllers) / "cpuacct.usage")
                for folder in _outwards(root / controllers, path)
            )


def _outwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and those around it; a container may see only its own, as the mounted one."""
    folder = mount / path.strip("/")
    while folder != mount:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    yield mount


def _read_limit(folder: Path) -> float:
    """Return how many threads a group may use at a time; infinite where it has no limit of its own."""
    quota = (read_text(folder / "cpu.max") or "").split()
    if not quota:
        quota = [read_text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    try:
        limit = float(quota[0]) / float(quota[1])
    except (ValueError, ZeroDivisionError, IndexError):  # "max", or no such file
        limit = math.inf
    allowed = next(
        (text for name in ("cpuset.cpus.effective", "cpuset.effective_cpus") if (text := read_text(folder / name))), ""
    )
    return min(limit if limit > 0 else math.inf, _count(allowed) or math.inf)


def _count(cpus: str) -> int:
    """Return the number of CPUs in a list such as ``0-3,8``."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", cpus)
    return sum(int(last or first) - int(first) + 1 for first, last in ranges)
