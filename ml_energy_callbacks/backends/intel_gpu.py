"""Intel's discrete GPUs through the energy counters that their Linux drivers provide as hwmon."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_limit_watts, read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError
from ml_energy_callbacks.readings import Device

_DRIVERS = ("xe", "i915")
"""Names of the chips that represent a whole device. ``i915_gt0``, ``i915_gt1`` and so on are its tiles (Linux,
Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon)."""

_CARD_UNCERTAINTY = 0.10
"""Our assumption, the figure of NVIDIA's on-board sensors: we know of no comparison of these counters with a meter."""

_PACKAGE_UNCERTAINTY = 0.20
"""Our assumption: larger, because the counter excludes part of the card."""

_LIMITS = ("crit", "cap", "max", "rated_max")
"""Critical power, at which the card throttles at once; limits of sustained power; rated power (Linux,
Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon). A card has some of them."""

_PACKAGE_NOTE = "The counter covers the chip package; the rest of the card, such as fans and converters, is not included."

_KERNEL_FIX = "Update Linux: i915 has one since 6.2, xe since 6.8, and for Battlemage (Arc B) since about 6.17."
"""The first two are from Linux's description of the files; Battlemage's was added by "drm/xe/hwmon: Read energy status from
PMT" of 29 May 2025."""


class _Gpu:
    """One card's counter, kept open."""

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

    A card may have a counter of the whole card and one of its chip package: the card's is read if it exists, never both.
    Integrated GPUs have none; RAPL's package counter includes them.

    Attributes:
        root: The hwmon class.
    """

    root: Path = Path("/sys/class/hwmon")
    name: str = "intel-gpu"

    def open(self) -> Sequence[_Gpu]:
        """Open each card's counter.

        Raises:
            BackendUnavailableError: There is no card, or no card whose counter can be read.
        """
        chips = [chip for chip in self.root.glob("hwmon*") if read_text(chip / "name") in _DRIVERS]
        found = [gpu for chip in chips if (gpu := self._open_chip(chip)) is not None]
        if found:
            if len(found) < len(chips):
                count = len(chips) - len(found)
                missing = f"{count} of {len(chips)} Intel GPUs have no readable counter: their energy is not included."
                for gpu in found:
                    gpu.device = replace(gpu.device, missing=missing)
            return sorted(found, key=lambda gpu: gpu.device.id)
        if chips:
            closed = sorted(str(path) for chip in chips for path in chip.glob("energy[12]_input"))
            if closed:
                msg = "This user has no permission to read the energy counter of the Intel GPU."
                fix = f"To let every user read it until the next reboot: `sudo chmod a+r {' '.join(closed)}`."
            else:
                msg = "The driver of the Intel GPU has no energy counter."
                fix = _KERNEL_FIX
            raise BackendUnavailableError(msg, fix, present=True)
        msg = "This machine has no discrete Intel GPU."
        raise BackendUnavailableError(msg)

    def _open_chip(self, chip: Path) -> _Gpu | None:
        # A driver that does not label its only channel reads the package's register, except on cards for data centres.
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
            limits = [read_limit_watts(chip, *(f"power{number}_{limit}" for limit in _LIMITS)) for number in (1, 2)]
            device = Device(
                id=f"{self.name}:{address}",
                name=f"Intel GPU {address}",
                kind="gpu",
                backend=self.name,
                method="energy_counter",
                provenance="measured",
                relative_uncertainty=_CARD_UNCERTAINTY if label == "card" else _PACKAGE_UNCERTAINTY,
                note=None if label == "card" else _PACKAGE_NOTE,
                max_watts=limits[0] if label == "card" else limits[1] or limits[0],
            )
            return _Gpu(device, file)
        return None
