"""Laptops on battery power: the battery's output is the power of the whole machine."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

_UNCERTAINTY = 0.10
"""Our assumption: fuel-gauge chips are accurate to some percent, and laptops smooth their readings."""

_INTERVAL_S = 1.0
"""Linux queries the firmware at most once a second (``cache_time`` of drivers/acpi/battery.c), and a laptop's embedded
controller may be slow to answer."""

_MAX_WATTS = 400.0
"""Our assumption: laptops with larger power supplies draw less than this from their batteries."""

_NOT_ONLY_SUPPLY = "The battery does not supply the machine on its own, so its power is not that of the machine."

_NO_POWER = "The battery does not report its power."

_WAYS = (("power_now",), ("current_now", "voltage_now"))
"""Files whose product is the power. Some drivers provide the first and leave it at 0."""


class _Battery:
    """One battery; its power is reported or computed from current and voltage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ways = (_open_all([folder / name for name in names]) for names in _WAYS)
        self._ways = [files for files in ways if files]

    @property
    def has_power_files(self) -> bool:
        """Whether the battery has files of its power."""
        return bool(self._ways)

    def read_status(self) -> str | None:
        """Return the kernel's status of the battery, or None if it was removed."""
        return read_text(self._folder / "status")

    def read_watts(self) -> float:
        """Return the power that flows in or out, in W: some drivers report discharge as negative."""
        watts: float | None = None
        for files in self._ways:
            with suppress(ReadError):
                watts = abs(prod(file.read() for file in files)) * 1e-6 ** len(files)
                if watts:
                    return watts
        if watts is None:
            raise ReadError(_NO_POWER)
        return watts

    def close(self) -> None:
        """Close the files; calling it twice is harmless."""
        for files in self._ways:
            for file in files:
                file.close()


class _Batteries:
    """All batteries together: a laptop with two discharges one after the other."""

    def __init__(self, device: Device, batteries: Sequence[_Battery], root: Path) -> None:
        self.device = device
        self._batteries = batteries
        self._root = root

    def read(self) -> float:
        """Return the power in W that flows out of the batteries."""
        statuses = [battery.read_status() for battery in self._batteries]
        if not _is_only_supply(statuses, self._root):
            raise ReadError(_NOT_ONLY_SUPPLY)
        watts = sum(
            battery.read_watts() for battery, status in zip(self._batteries, statuses, strict=True) if status == "Discharging"
        )
        if not watts:
            raise ReadError(_NO_POWER)
        return watts

    def close(self) -> None:
        """Close the files; calling it twice is harmless."""
        for battery in self._batteries:
            battery.close()


@dataclass(frozen=True, slots=True)
class BatteryBackend:
    """The machine's own batteries, not those of a mouse or a headset, while they are its only supply.

    Attributes:
        root: Linux's power supplies.
    """

    root: Path = Path("/sys/class/power_supply")
    name: str = "battery"

    def open(self) -> Sequence[_Batteries]:
        """Open the batteries as one device.

        Raises:
            BackendUnavailableError: There is no battery, it does not discharge, or it does not report its power.
        """
        folders = [
            folder
            for folder in sorted(self.root.glob("*"))
            if read_text(folder / "type") == "Battery" and read_text(folder / "scope") != "Device"
        ]
        if not folders:
            msg = "This machine has no battery."
            raise BackendUnavailableError(msg)
        if not _is_only_supply([read_text(folder / "status") for folder in folders], self.root):
            raise BackendUnavailableError(_NOT_ONLY_SUPPLY, "Unplug the power supply to measure the machine as a whole.")
        batteries = [_Battery(folder) for folder in folders]
        source = _Batteries(self._device(len(folders)), batteries, self.root)
        try:
            source.read()
            complete = all(battery.has_power_files for battery in batteries)
        except ReadError:
            complete = False
        if not complete:  # one of two batteries would be mistaken for the machine
            source.close()
            raise BackendUnavailableError(_NO_POWER)
        return [source]

    def _device(self, batteries: int) -> Device:
        return Device(
            id=f"{self.name}:0",
            name="Battery of the machine" if batteries == 1 else f"{batteries} batteries of the machine",
            kind="board",
            backend=self.name,
            method="power_integration",
            provenance="measured",
            relative_uncertainty=_UNCERTAINTY,
            note="The battery's output, including the screen; it is reported only while no power supply is plugged in.",
            whole_machine=True,
            min_interval_s=_INTERVAL_S,
            max_watts=_MAX_WATTS,
        )


def _open_all(paths: Sequence[Path]) -> Sequence[NumberFile]:
    """Open the files; return an empty list if one is missing."""
    files: list[NumberFile] = []
    try:
        files.extend(NumberFile(path) for path in paths)
    except OSError:
        for file in files:
            file.close()
        return []
    return files


def _is_only_supply(statuses: Sequence[str | None], root: Path) -> bool:
    """Return whether the batteries are the machine's only supply.

    With a power supply that is too weak, the battery discharges as well, and its power is not that of the machine.

    Args:
        statuses: The kernel's status of each battery; None for one that cannot be read.
        root: Linux's power supplies.
    """
    if "Discharging" not in statuses or "Charging" in statuses or None in statuses:
        return False
    return not any(_is_supplying(folder) for folder in root.glob("*"))


def _is_supplying(folder: Path) -> bool:
    """Return whether this is a connected power supply (mains or USB) of the machine, not of a mouse."""
    # Linux, Documentation/ABI/testing/sysfs-class-power: 2 is a supply whose voltage is negotiated.
    online = read_text(folder / "online") in {"1", "2"}
    kind = read_text(folder / "type") or ""
    return online and (kind == "Mains" or kind.startswith("USB")) and read_text(folder / "scope") != "Device"
