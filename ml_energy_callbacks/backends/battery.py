"""Laptops on battery: what flows out of it is what the machine draws."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

_UNCERTAINTY = 0.10
"""The chips that gauge batteries are good to some percent, and laptops smooth what they say: our assumption."""

_INTERVAL_S = 1.0
"""Linux asks the firmware at most once a second (``cache_time`` of drivers/acpi/battery.c), and a laptop's embedded
controller may take long to answer."""

_NOT_ALONE = "The battery is not all that feeds the machine, so it does not show what the machine draws."

_UNTOLD = "The battery does not tell its power."

_WAYS = (("power_now",), ("current_now", "voltage_now"))
"""The files whose product is the power. Some drivers have the first and leave it at 0."""


class _Battery:
    """One battery; its power is told, or is current times voltage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ways = (_open_all([folder / name for name in names]) for names in _WAYS)
        self._ways = [files for files in ways if files]

    @property
    def tells(self) -> bool:
        """Whether there are files of its power."""
        return bool(self._ways)

    def status(self) -> str | None:
        """Return the kernel's word for what the battery does, or None where it is gone."""
        return read_text(self._folder / "status")

    def watts(self) -> float:
        """Return the power that flows in or out, in W: some drivers give what flows out a minus sign."""
        watts: float | None = None
        for files in self._ways:
            with suppress(ReadError):
                watts = abs(prod(file.read() for file in files)) * 1e-6 ** len(files)
                if watts:
                    return watts
        if watts is None:
            raise ReadError(_UNTOLD)
        return watts

    def close(self) -> None:
        """Close the files; calling it twice is harmless."""
        for files in self._ways:
            for file in files:
                file.close()


class _Batteries:
    """All batteries together: a laptop with two empties one after the other."""

    def __init__(self, device: Device, batteries: Sequence[_Battery], root: Path) -> None:
        self.device = device
        self._batteries = batteries
        self._root = root

    def read(self) -> float:
        """Return the power in W that flows out of the batteries."""
        statuses = [battery.status() for battery in self._batteries]
        if not _feeds_alone(statuses, self._root):
            raise ReadError(_NOT_ALONE)
        watts = sum(
            battery.watts() for battery, status in zip(self._batteries, statuses, strict=True) if status == "Discharging"
        )
        if not watts:
            raise ReadError(_UNTOLD)
        return watts

    def close(self) -> None:
        """Close the files; calling it twice is harmless."""
        for battery in self._batteries:
            battery.close()


@dataclass(frozen=True, slots=True)
class BatteryBackend:
    """The machine's own batteries, not those of a mouse or a headset, while they feed it alone.

    Attributes:
        root: Linux's power supplies.
    """

    root: Path = Path("/sys/class/power_supply")
    name: str = "battery"

    def open(self) -> Sequence[_Batteries]:
        """Open the batteries as one device.

        Raises:
            BackendUnavailableError: There is none, it does not discharge, or it does not tell its power.
        """
        folders = [
            folder
            for folder in sorted(self.root.glob("*"))
            if read_text(folder / "type") == "Battery" and read_text(folder / "scope") != "Device"
        ]
        if not folders:
            msg = "This machine has no battery."
            raise BackendUnavailableError(msg)
        if not _feeds_alone([read_text(folder / "status") for folder in folders], self.root):
            raise BackendUnavailableError(_NOT_ALONE, "Unplug the power supply to measure the machine as a whole.")
        batteries = [_Battery(folder) for folder in folders]
        source = _Batteries(self._device(len(folders)), batteries, self.root)
        try:
            source.read()
            complete = all(battery.tells for battery in batteries)
        except ReadError:
            complete = False
        if not complete:  # one battery of two would pass for the machine
            source.close()
            raise BackendUnavailableError(_UNTOLD)
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
            note="What the battery gives, screen and all; it is told only while no power supply is plugged in.",
            whole_machine=True,
            min_interval_s=_INTERVAL_S,
        )


def _open_all(paths: Sequence[Path]) -> Sequence[NumberFile]:
    """Open the files; return none where one is missing."""
    files: list[NumberFile] = []
    try:
        files.extend(NumberFile(path) for path in paths)
    except OSError:
        for file in files:
            file.close()
        return []
    return files


def _feeds_alone(statuses: Sequence[str | None], root: Path) -> bool:
    """Return whether the batteries alone feed the machine.

    A power supply that is too weak leaves the battery discharging beside it: then neither shows what the machine draws.

    Args:
        statuses: What each battery does; None for one that cannot be read.
        root: The power supplies.
    """
    if "Discharging" not in statuses or "Charging" in statuses or None in statuses:
        return False
    return not any(_feeds(folder) for folder in root.glob("*"))


def _feeds(folder: Path) -> bool:
    """Return whether this is a power supply, by USB-C too, that feeds the machine, not a mouse, now."""
    # Linux, Documentation/ABI/testing/sysfs-class-power: 2 is a supply whose voltage is negotiated.
    online = read_text(folder / "online") in {"1", "2"}
    kind = read_text(folder / "type") or ""
    return online and (kind == "Mains" or kind.startswith("USB")) and read_text(folder / "scope") != "Device"
