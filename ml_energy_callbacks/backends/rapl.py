"""Intel and AMD processors through RAPL's counters in Linux's powercap tree."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

_UNCERTAINTY: dict[Literal["cpu", "dram"], float] = {"cpu": 0.05, "dram": 0.20}
"""Package: Khan et al., "RAPL in Action", ACM TOMPECS 3(2), 2018. DRAM: Desrochers, Paradis and Weaver, "A Validation of
DRAM RAPL Power Measurements", MEMSYS 2016."""

_PERMISSION_FIX = (
    "To let every user read them, now and after each boot: "
    """echo 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"' """
    "| sudo tee /etc/udev/rules.d/70-rapl.rules && sudo udevadm control --reload "
    "&& sudo udevadm trigger --subsystem-match=powercap --action=add"
)


class _Zone:
    """One counter, held open: a read is one system call."""

    def __init__(self, device: Device, file: Path) -> None:
        self.device = device
        self._file: int | None = os.open(file, os.O_RDONLY)

    def read(self) -> float:
        """Return the counter in joules."""
        if self._file is None:
            msg = "The counter is closed."
            raise ReadError(msg)
        try:
            return int(os.pread(self._file, 32, 0)) / 1e6
        except (OSError, ValueError) as error:
            raise ReadError(str(error)) from error

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True, slots=True)
class RaplBackend:
    """Packages and their memory, by name.

    ``core`` and ``uncore`` are inside the package and ``psys`` contains it; ``intel-rapl-mmio`` shows the same counters once
    more. None of these is read.

    Attributes:
        root: The powercap tree.
    """

    root: Path = Path("/sys/class/powercap")
    name: str = "rapl"

    def open(self) -> Sequence[_Zone]:
        """Open each package and each memory counter.

        Raises:
            BackendUnavailableError: There is no counter, or this user may not read them.
        """
        zones: list[_Zone] = []
        denied = False
        for package in sorted(self.root.glob("intel-rapl:[0-9]*")):
            package_name = _text(package / "name")
            if package_name is None or package.name.count(":") != 1 or not package_name.startswith("package"):
                continue
            memories = [zone for zone in sorted(package.glob(f"{package.name}:*")) if _text(zone / "name") == "dram"]
            for zone in (package, *memories):
                kind: Literal["cpu", "dram"] = "cpu" if zone is package else "dram"
                try:
                    zones.append(self._zone(zone, kind, package_name if kind == "cpu" else f"{package_name}-dram"))
                except PermissionError:
                    denied = True
                except OSError:
                    continue
        if zones:
            return zones
        if denied:
            msg = "The processor's energy counters (RAPL) can be read by root alone."
            raise BackendUnavailableError(msg, _PERMISSION_FIX)
        msg = "This machine shows no energy counter of its processor (RAPL); virtual machines have none."
        raise BackendUnavailableError(msg)

    def _zone(self, folder: Path, kind: Literal["cpu", "dram"], name: str) -> _Zone:
        limit = _text(folder / "max_energy_range_uj")
        device = Device(
            id=f"rapl:{name}",
            name=f"Processor {name}",
            kind=kind,
            backend=self.name,
            method="energy_counter",
            provenance="measured",
            relative_uncertainty=_UNCERTAINTY[kind],
            wrap_joules=int(limit) / 1e6 if limit else None,
            update_period_s=0.001,
        )
        return _Zone(device, folder / "energy_uj")


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return None
