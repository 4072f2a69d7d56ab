"""NVIDIA's Jetson modules through the power monitors (TI INA3221) on their supply rails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device, Kind

_UNCERTAINTY = 0.05
"""Our assumption: TI's data sheet of the INA3221 states less than 1 % for the chip, NVIDIA nothing about its shunts."""

_TOTALS = ("VDD_IN", "POM_5V_IN")
"""The module's own supply, which includes all other rails: TX1, TX2, Xavier NX, Orin NX and Orin Nano; Nano. NVIDIA, "Jetson
Linux Developer Guide", sections on software-based power consumption."""

_MODULE_NOTE = "The whole module; the carrier board and its peripherals are not included."

_MAX_WATTS = 130.0
"""The most that any module may be set to draw: AGX Thor, "Jetson Thor Series Modules Data Sheet"."""

_RAIL_NOTE = "One supply rail of the module, which has no rail of its total power."


@dataclass(frozen=True, slots=True)
class _Use:
    """The device that a rail supplies."""

    kind: Kind
    covers: tuple[Kind, ...] = ()


_LAYOUTS: Sequence[Mapping[str, _Use]] = (
    # AGX Xavier: six separate rails. SYS5V comes from the module's 5 V input, the others from the main one ("Jetson
    # AGX Xavier Series Product Design Guide", table of the power rails).
    {
        "GPU": _Use("gpu"),
        "CPU": _Use("cpu"),
        "SOC": _Use("soc"),
        "CV": _Use("soc"),
        "VDDRQ": _Use("dram"),
        "SYS5V": _Use("board"),
    },
    # AGX Orin. VDDQ_VDD2_1V8AO, the memory's, is supplied by the 5 V rail, which includes it.
    {
        "VDD_GPU_SOC": _Use("gpu"),
        "VDD_CPU_CV": _Use("cpu"),
        "VIN_SYS_5V0": _Use("board", covers=("dram",)),
    },
    # AGX Thor, whose GPU is also visible to NVML.
    {
        "VDD_GPU": _Use("gpu", covers=("gpu",)),
        "VDD_CPU_SOC_MSS": _Use("cpu"),
        "VIN_SYS_5V0": _Use("board", covers=("dram",)),
    },
)
"""Rails that make up a module without overlapping, for the modules without a total."""


class _Rail:
    """A rail, whose power is the product of its files."""

    def __init__(self, device: Device, paths: Sequence[Path], watts_per_unit: float) -> None:
        self.device = device
        self._watts_per_unit = watts_per_unit
        self._files: list[NumberFile] = []
        try:
            for path in paths:
                self._files.append(NumberFile(path))
        except OSError:
            self.close()
            raise

    def read(self) -> float:
        """Return the present power in W."""
        # The reading of a rail that is switched off may be some milliamperes below 0.
        return max(0.0, prod(file.read() for file in self._files) * self._watts_per_unit)

    def close(self) -> None:
        """Close the files; calling it twice is harmless."""
        for file in self._files:
            file.close()


@dataclass(frozen=True, slots=True)
class JetsonBackend:
    """The module's total if a rail measures it, else the rails that make it up.

    Attributes:
        root: Linux's I2C devices.
    """

    root: Path = Path("/sys/bus/i2c/devices")
    name: str = "jetson"

    def open(self) -> Sequence[_Rail]:
        """Open the rails.

        Raises:
            BackendUnavailableError: There is no power monitor, its rails are unknown, or it cannot be read.
        """
        labels = self._find_rails()
        if not labels:
            msg = "This machine has no power monitor of a Jetson module (INA3221)."
            raise BackendUnavailableError(msg)
        total = next((name for name in _TOTALS if name in labels), None)
        if total is not None:
            return self._open_all(labels, {total: _Use("soc", covers=("cpu", "gpu", "dram"))}, _MODULE_NOTE)
        for layout in _LAYOUTS:
            if layout.keys() <= labels.keys():
                return self._open_all(labels, layout, _RAIL_NOTE)
        msg = f"It is not known which of the supply rails {', '.join(sorted(labels))} include others."
        raise BackendUnavailableError(
            msg, "Report the rails, with the name of the module, in an issue of ml-energy-callbacks.", present=True
        )

    def _find_rails(self) -> dict[str, Path]:
        """Return the file that names each rail, by the rail's name."""
        labels: dict[str, Path] = {}
        for chip in self.root.glob("*"):
            if "ina3221" in (read_text(chip / "name") or ""):
                # hwmon since JetPack 5 and in Linux itself, iio before.
                for label in (*chip.glob("hwmon/hwmon*/in[123]_label"), *chip.glob("iio:device*/rail_name_*")):
                    labels[read_text(label) or ""] = label
        return {name: label for name, label in labels.items() if name not in {"", "NC"}}

    def _open_all(self, labels: Mapping[str, Path], uses: Mapping[str, _Use], note: str) -> Sequence[_Rail]:
        rails: list[_Rail] = []
        try:
            for name, use in uses.items():
                rails.append(self._open_rail(name, use, note, labels[name]))
                rails[-1].read()
        except (OSError, ReadError) as error:
            for rail in rails:
                rail.close()
            # Some of the rails would be mistaken for the module.
            msg = f"The power monitor of the Jetson module cannot be read: {error}."
            folders = sorted({f"{labels[name].parent}/*_input" for name in uses})
            closed = isinstance(error, PermissionError)
            fix = f"To let every user read it until the next reboot: `sudo chmod a+r {' '.join(folders)}`." if closed else None
            raise BackendUnavailableError(msg, fix, present=True) from error
        return rails

    def _open_rail(self, name: str, use: _Use, note: str, label: Path) -> _Rail:
        device = Device(
            id=f"{self.name}:{name}",
            name=f"Jetson {name}",
            kind=use.kind,
            backend=self.name,
            method="power_integration",
            provenance="measured",
            relative_uncertainty=_UNCERTAINTY,
            note=note,
            covers=use.covers,
            max_watts=_MAX_WATTS,
        )
        if label.name.startswith("rail_name_"):
            number = label.name.removeprefix("rail_name_")
            return _Rail(device, [label.with_name(f"in_power{number}_input")], 1e-3)
        number = label.name.removeprefix("in").removesuffix("_label")
        paths = [label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")]
        return _Rail(device, paths, 1e-6)  # mV x mA
