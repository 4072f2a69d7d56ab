"""Arm servers through the power meters that their firmware provides as hwmon: NVIDIA Grace, Ampere Altra, ACPI meters."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_limit_watts, read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

_SOCKET = re.compile(r"(?:Grace|Total(?: Input)?) Power(?: in uW)? Socket (\d+)", re.IGNORECASE)
"""A processor's total. It includes the rails ``CPU Power Socket 0`` and ``SysIO Power Socket 0``; on Grace Hopper and Grace
Blackwell there is also ``Module Power Socket 0``, which includes the GPU. NVIDIA, "Grace Performance Tuning Guide", section
"Power Telemetry"; the names with ``Total`` are those of its successor."""

_UNKNOWN_MICROWATTS = 0xFFFFFFFF * 1000
"""The value of a meter that could not measure, as Linux reports it (ACPI specification, ``_PMM``, in mW)."""

_UNCERTAINTY = 0.10
"""Our assumption: NVIDIA and Ampere state no accuracy, and a firmware's claim of 100 % is not plausible."""

_SLOW_S = 0.5
"""A meter with an averaging interval of this or more is not read more often; its firmware may be slow: our assumption."""

_UNKNOWN_INTERVAL_S = 1.0
"""Least time between two readings of a meter that does not report its averaging interval, for the same reason."""

_RAREST_S = 5.0
"""A meter with a longer averaging interval is read this often: its mean moves all the time."""

_LONGEST_INTERVAL_S = 3600.0
"""Longer averaging intervals are rejected: firmware without one reports 0xFFFFFFFF ms."""

_RUN_S = 60.0
"""A mean lags by half its interval, so that this part of a run's energy is reported after its end. The uncertainty is at least
the ratio of this lag to a run of this length, which is our choice; means of 2 minutes and more are ±100 %."""

_LIMITS = ("power1_cap", "power1_cap_max", "power1_max", "power1_crit")
"""Limits of power that the firmware enforces, or reports (Linux, Documentation/hwmon/sysfs-interface.rst)."""

_MAILBOX_INTERVAL_S = 0.1
"""Each reading is two requests to the management processor; Linux waits up to 1 s for each answer (xgene-hwmon.c)."""

_METER_FIX = "If the machine has a power meter, load its driver with `sudo modprobe acpi_power_meter`."

_XGENE_CHANNELS = (("power1_input", "CPU power", "cpu"), ("power2_input", "IO power", "io"))
"""The cores and the rest of the chip: two separate supplies."""


class _Meter:
    """One power reading in microwatts."""

    def __init__(self, device: Device, file: NumberFile) -> None:
        self.device = device
        self._file = file

    def read(self) -> float:
        """Return the mean power of the meter's last interval in W."""
        microwatts = self._file.read()
        # Linux reports 0 if the firmware never answered; a running machine always draws some power.
        if not 0 < microwatts < _UNKNOWN_MICROWATTS:
            msg = f"{self.device.name} could not measure: it reports {microwatts} µW."
            raise ReadError(msg)
        return microwatts / 1e6

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class ArmPowerBackend:
    """The meters of the processors, and the meter of the machine if exactly one has no other label.

    Attributes:
        root: The hwmon class.
    """

    root: Path = Path("/sys/class/hwmon")
    name: str = "arm-power"

    def open(self) -> Sequence[_Meter]:
        """Open each meter that answers.

        Raises:
            BackendUnavailableError: There is no meter, none answers, or it is not known what they measure.
        """
        found = list(self._find_devices())
        machines = sum(device.whole_machine for device, _ in found)
        devices = [(device, path) for device, path in found if not device.whole_machine or machines == 1]
        meters = [meter for device, path in devices if (meter := _open_meter(device, path)) is not None]
        if meters:
            silent = {device.name for device, _ in devices if not device.whole_machine} - {
                meter.device.name for meter in meters
            }
            if silent:
                missing = f"The power meter of {', '.join(sorted(silent))} does not answer: its energy is not included."
                for meter in meters:
                    meter.device = replace(meter.device, missing=missing)
            return sorted(meters, key=lambda meter: meter.device.id)
        if found and not devices:
            msg = f"This machine has {machines} ACPI power meters, and none reports what it measures."
            raise BackendUnavailableError(
                msg, "Report them, with the name of the machine, in an issue of ml-energy-callbacks.", present=True
            )
        if devices:
            msg = "The machine's power meter does not answer."
            fix = "Some firmware measures through the management controller: `sudo modprobe acpi_ipmi`."
            raise BackendUnavailableError(msg, fix, present=any(not device.whole_machine for device, _ in devices))
        msg = "This machine has no power meter of an Arm server and no ACPI power meter."
        raise BackendUnavailableError(msg, _METER_FIX)

    def _find_devices(self) -> Iterator[tuple[Device, Path]]:
        """Yield each meter's device and the file of its power."""
        for chip in self.root.glob("hwmon*"):
            name = read_text(chip / "name") or read_text(chip / "device" / "name")
            if name == "apm_xgene":
                yield from self._xgene_devices(chip)
            elif name == "power_meter":
                # Up to Linux 6.15 the files are in the folder of the ACPI device, since then in that of the chip.
                folder = chip if (chip / "power1_average").exists() else chip / "device"
                label = read_text(folder / "power1_oem_info") or ""
                if socket := _SOCKET.fullmatch(label):
                    yield self._socket_device(folder, socket[1]), folder / "power1_average"
                elif "socket" not in label.lower() and read_text(folder / "power1_is_battery") != "1":
                    yield self._machine_device(folder), folder / "power1_average"

    def _socket_device(self, folder: Path, socket: str) -> Device:
        interval_s = _read_interval_s(folder)
        # The firmware's socket number is used as Linux's NUMA node: our assumption, which holds on Grace.
        return Device(
            id=f"{self.name}:socket-{socket}",
            name=f"Processor socket {socket}",
            kind="cpu",
            backend=self.name,
            method="power_integration",
            provenance="measured",
            relative_uncertainty=_include_lag(_UNCERTAINTY, interval_s),
            update_period_s=interval_s,
            note=f"Processor and its memory, {_interval_text(interval_s)}.",
            covers=("dram",),
            node=int(socket),
            min_interval_s=_min_interval_s(interval_s),
            max_watts=read_limit_watts(folder, *_LIMITS),
        )

    def _machine_device(self, folder: Path) -> Device:
        interval_s = _read_interval_s(folder)
        return Device(
            id=f"{self.name}:machine",
            name="Power meter of the machine",
            kind="board",
            backend=self.name,
            method="power_integration",
            provenance="measured",
            relative_uncertainty=_include_lag(_read_uncertainty(folder), interval_s),
            update_period_s=interval_s,
            note=f"ACPI power meter, {_interval_text(interval_s)}.",
            whole_machine=True,
            min_interval_s=_min_interval_s(interval_s),
            max_watts=read_limit_watts(folder, *_LIMITS),
        )

    def _xgene_devices(self, chip: Path) -> Iterator[tuple[Device, Path]]:
        address = (chip / "device").resolve().name
        for file, label, part in _XGENE_CHANNELS:
            device = Device(
                id=f"{self.name}:{address}-{part}",
                name=f"Processor {address}, {label}",
                kind="cpu",
                backend=self.name,
                method="power_integration",
                provenance="measured",
                relative_uncertainty=_UNCERTAINTY,
                note="Mean power by the management processor; its averaging interval is unknown.",
                min_interval_s=_MAILBOX_INTERVAL_S,
            )
            yield device, chip / file


def _open_meter(device: Device, path: Path) -> _Meter | None:
    """Return the meter, or None if a test read fails."""
    try:
        meter = _Meter(device, NumberFile(path))
    except OSError:
        return None
    try:
        meter.read()
    except ReadError:
        meter.close()
        return None
    return meter


def _read_interval_s(folder: Path) -> float | None:
    """Return the meter's averaging interval in s, or None if it reports none or an impossible one."""
    text = read_text(folder / "power1_average_interval") or ""
    seconds = int(text) / 1000 if text.isdecimal() else 0.0
    return seconds if 0 < seconds <= _LONGEST_INTERVAL_S else None


def _interval_text(interval_s: float | None) -> str:
    return "mean power over an unknown interval" if interval_s is None else f"mean power of the last {interval_s:g} s"


def _min_interval_s(interval_s: float | None) -> float:
    if interval_s is None:
        return _UNKNOWN_INTERVAL_S
    return min(interval_s, _RAREST_S) if interval_s >= _SLOW_S else 0.0


def _include_lag(uncertainty: float, interval_s: float | None) -> float:
    """Return the uncertainty of a run's energy: the meter's own or that due to its lag, whichever is larger."""
    return min(1.0, max(uncertainty, (interval_s or 0.0) / 2 / _RUN_S))


def _read_uncertainty(folder: Path) -> float:
    """Return the uncertainty by the meter's stated accuracy (ACPI specification, ``_PMC``), but no less than our assumption."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)%", read_text(folder / "power1_accuracy") or "")
    accuracy = float(number[1]) / 100 if number else 0.0
    return max(_UNCERTAINTY, 1 - accuracy) if 0 < accuracy <= 1 else _UNCERTAINTY
