"""Intel's discrete GPUs through the energy counters that their Linux drivers show as hwmon."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError
from ml_energy_callbacks.readings import Device

_DRIVERS = ("xe", "i915")
"""Names of the chips that stand for a whole device. ``i915_gt0``, ``i915_gt1`` and so on are tiles inside it (Linux,
Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon)."""

_CARD_UNCERTAINTY = 0.10
"""Nobody known to us has held these counters against a meter: our assumption, the figure of NVIDIA's on-board sensors."""

_PACKAGE_UNCERTAINTY = 0.20
"""The same, and what the counter leaves out: our assumption."""

_PACKAGE_NOTE = "The counter is the chip package's: what the rest of the card draws, such as fans and converters, is not in it."

_KERNEL_FIX = "Update Linux: i915 shows one from 6.2 on, xe from 6.8 on, for Battlemage (Arc B) from about 6.17 on."
"""The first two as in Linux's description of the files; Battlemage's came with "drm/xe/hwmon: Read energy status from PMT" of
29 May 2025."""


class _Gpu:
    """One card's counter, held open."""

    def __init__(self, device: Device, file: NumberFile) -> None:
        self.device = device
        self._file = file

    def read(self) -> float:
        """Return the counter in joules."""
        return self._file.read() / 1e6

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class IntelGpuBackend:
    """Cards of the drivers xe and i915.

    A card may have a counter of the whole card and one of the chip package inside it: the card's is read where there is one,
    never both. Integrated GPUs have none; RAPL's package counter holds them.

    Attributes:
        root: The hwmon class.
    """

    root: Path = Path("/sys/class/hwmon")
    name: str = "intel-gpu"

    def open(self) -> Sequence[_Gpu]:
        """Open each card's counter.

        Raises:
            BackendUnavailableError: There is no card, or none whose counter can be read.
        """
        chips = [chip for chip in self.root.glob("hwmon*") if read_text(chip / "name") in _DRIVERS]
        found = [gpu for chip in chips if (gpu := self._open_chip(chip)) is not None]
        if found:
            if len(found) < len(chips):
                count = len(chips) - len(found)
                missing = f"{count} of {len(chips)} Intel GPUs show no counter that can be read: their energy is missing."
                for gpu in found:
                    gpu.device = replace(gpu.device, missing=missing)
            return sorted(found, key=lambda gpu: gpu.device.id)
        if chips:
            closed = sorted(str(path) for chip in chips for path in chip.glob("energy[12]_input"))
            if closed:
                msg = "The driver of the Intel GPU shows no energy counter that this user can read."
                fix = f"Until the next start of the machine, `sudo chmod a+r {' '.join(closed)}` lets every user."
            else:
                msg = "The driver of the Intel GPU shows no energy counter."
                fix = _KERNEL_FIX
            raise BackendUnavailableError(msg, fix, present=True)
        msg = "There is no discrete Intel GPU here."
        raise BackendUnavailableError(msg)

    def _open_chip(self, chip: Path) -> _Gpu | None:
        # Drivers that do not label their only channel show the package's register there, but on cards for data centres.
        files = {
            read_text(chip / f"energy{number}_label") or "pkg": path
            for number in (2, 1)
            if (path := chip / f"energy{number}_input").exists()
        }
        for label in ("card", "pkg"):
            try:
                file = NumberFile(files[label])
            except (KeyError, OSError):
                continue
            address = (chip / "device").resolve().name
            device = Device(
                id=f"{self.name}:{address}",
                name=f"Intel GPU {address}",
                kind="gpu",
                backend=self.name,
                method="energy_counter",
                provenance="measured",
                relative_uncertainty=_CARD_UNCERTAINTY if label == "card" else _PACKAGE_UNCERTAINTY,
                note=None if label == "card" else _PACKAGE_NOTE,
            )
            return _Gpu(device, file)
        return None
