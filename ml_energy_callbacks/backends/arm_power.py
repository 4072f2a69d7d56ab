"""Arm servers through the power meters that their firmware shows as hwmon: NVIDIA Grace, Ampere Altra, ACPI power meters."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ml_energy_callbacks.backends.drivers.sysfs import NumberFile, read_text
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import Device

_SOCKET = re.compile(r"(?:Grace|Total(?: Input)?) Power(?: in uW)? Socket (\d+)", re.IGNORECASE)
"""A processor's total. Beside it there are rails inside it (``CPU Power Socket 0``, ``SysIO Power Socket 0``) and, on Grace
Hopper and Grace Blackwell, ``Module Power Socket 0``, which holds the GPU too. NVIDIA, "Grace Performance Tuning Guide",
section "Power Telemetry"; the names with ``Total`` are those of its successor."""

_UNKNOWN_MICROWATTS = 0xFFFFFFFF * 1000
"""What a meter says that could not measure, as Linux shows it (ACPI specification, ``_PMM``, in mW)."""

_UNCERTAINTY = 0.10
"""Neither NVIDIA nor Ampere gives a figure, and firmware that claims 100 % is not believed: our assumption."""

_SLOW_S = 0.5
"""A meter that averages over this or more has nothing new in between, and its firmware may take long: our assumption."""

_UNKNOWN_INTERVAL_S = 1.0
"""Least time between two readings of a meter that does not say over how long it averages, for the same reason."""

_RAREST_S = 5.0
"""However long the mean, it is read as often as this: it moves all the time, and a gap ends a chain of readings."""

_LONGEST_INTERVAL_S = 3600.0
"""A mean over more is not believed: firmware that knows none says 0xFFFFFFFF ms."""

_RUN_S = 60.0
"""A mean lags by half its interval: so much of what a run draws is told after it. The uncertainty is no less than this lag is
of a run of this length, which is our choice; means of 2 minutes and more are ±100 %, that is, worth nothing for it."""

_MAILBOX_INTERVAL_S = 0.1
"""Each reading is two questions to the management processor, whose answers Linux waits up to 1 s for (xgene-hwmon.c)."""

_METER_FIX = "Where the machine has a power meter, `sudo modprobe acpi_power_meter` shows it."

_XGENE_CHANNELS = (("power1_input", "CPU power", "cpu"), ("power2_input", "IO power", "io"))
"""The cores, and the rest of the chip: two supplies beside each other."""


class _Meter:
    """One power in microwatts."""

    def __init__(self, device: Device, file: NumberFile) -> None:
        self.device = device
        self._file = file

    def read(self) -> float:
        """Return the power in W, the mean of the meter's last interval."""
        microwatts = self._file.read()
        # Linux says 0 where the firmware never answered; nothing that runs this program draws none.
        if not 0 < microwatts < _UNKNOWN_MICROWATTS:
            msg = f"{self.device.name} could not measure: it says {microwatts} µW."
            raise ReadError(msg)
        return microwatts / 1e6

    def close(self) -> None:
        """Close the file; calling it twice is harmless."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class ArmPowerBackend:
    """The processors' meters, and the machine's where there is one that says nothing else of itself.

    Attributes:
        root: The hwmon class.
    """

    root: Path = Path("/sys/class/hwmon")
    name: str = "arm-power"

    def open(self) -> Sequence[_Meter]:
        """Open each meter that answers.

        Raises:
            BackendUnavailableError: There is none, none that answers, or none of which it is known what it measures.
        """
        found = list(self._devices())
        machines = sum(device.whole_machine for device, _ in found)
        devices = [(device, path) for device, path in found if not device.whole_machine or machines == 1]
        meters = [meter for device, path in devices if (meter := _open_meter(device, path)) is not None]
        if meters:
            silent = {device.name for device, _ in devices if not device.whole_machine} - {
                meter.device.name for meter in meters
            }
            if silent:
                missing = f"The power meter of {', '.join(sorted(silent))} does not answer: that energy is missing."
                for meter in meters:
                    meter.device = replace(meter.device, missing=missing)
            return sorted(meters, key=lambda meter: meter.device.id)
        if found and not devices:
            msg = f"This machine has {machines} ACPI power meters, and none says what it measures."
            raise BackendUnavailableError(msg, "Please report them together with the name of the machine.", present=True)
        if devices:
            msg = "The machine's power meter does not answer."
            fix = "Some firmware measures through the management controller: `sudo modprobe acpi_ipmi`."
            raise BackendUnavailableError(msg, fix, present=any(not device.whole_machine for device, _ in devices))
        msg = "This machine shows no power meter of an Arm server, and no ACPI power meter."
        raise BackendUnavailableError(msg, _METER_FIX)

    def _devices(self) -> Iterator[tuple[Device, Path]]:
        """Yield what there is, with the file of its power."""
        for chip in self.root.glob("hwmon*"):
            name = read_text(chip / "name") or read_text(chip / "device" / "name")
            if name == "apm_xgene":
                yield from self._xgene(chip)
            elif name == "power_meter":
                # Up to Linux 6.15 the files lie with the ACPI device, since then with the chip.
                folder = chip if (chip / "power1_average").exists() else chip / "device"
                label = read_text(folder / "power1_oem_info") or ""
                if socket := _SOCKET.fullmatch(label):
                    yield self._socket(folder, socket[1]), folder / "power1_average"
                elif "socket" not in label.lower() and read_text(folder / "power1_is_battery") != "1":
                    yield self._machine(folder), folder / "power1_average"

    def _socket(self, folder: Path, socket: str) -> Device:
        interval_s = _interval_s(folder)
        # The firmware's number of the socket is taken for Linux's of the NUMA node: our assumption, on Grace one is the other.
        return Device(
            id=f"{self.name}:socket-{socket}",
            name=f"Processor socket {socket}",
            kind="cpu",
            backend=self.name,
            method="power_integration",
            provenance="measured",
            relative_uncertainty=_with_lag(_UNCERTAINTY, interval_s),
            update_period_s=interval_s,
            note=f"Processor and its memory, {_mean(interval_s)}.",
            covers=("dram",),
            node=int(socket),
            min_interval_s=_least_s(interval_s),
        )

    def _machine(self, folder: Path) -> Device:
        interval_s = _interval_s(folder)
        return Device(
            id=f"{self.name}:machine",
            name="Power meter of the machine",
            kind="board",
            backend=self.name,
            method="power_integration",
            provenance="measured",
            relative_uncertainty=_with_lag(_stated_uncertainty(folder), interval_s),
            update_period_s=interval_s,
            note=f"ACPI power meter, {_mean(interval_s)}.",
            whole_machine=True,
            min_interval_s=_least_s(interval_s),
        )

    def _xgene(self, chip: Path) -> Iterator[tuple[Device, Path]]:
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
                note="A mean that the management processor takes; over how long is not told.",
                min_interval_s=_MAILBOX_INTERVAL_S,
            )
            yield device, chip / file


def _open_meter(device: Device, path: Path) -> _Meter | None:
    """Return the meter, or None where it cannot be read: whether a meter works is seen by asking it."""
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


def _interval_s(folder: Path) -> float | None:
    """Return over how long the meter averages in s, or None where it does not say, or nothing that can be true."""
    text = read_text(folder / "power1_average_interval") or ""
    seconds = int(text) / 1000 if text.isdecimal() else 0.0
    return seconds if 0 < seconds <= _LONGEST_INTERVAL_S else None


def _mean(interval_s: float | None) -> str:
    return "the mean of an interval of unknown length" if interval_s is None else f"the mean of the last {interval_s:g} s"


def _least_s(interval_s: float | None) -> float:
    if interval_s is None:
        return _UNKNOWN_INTERVAL_S
    return min(interval_s, _RAREST_S) if interval_s >= _SLOW_S else 0.0


def _with_lag(uncertainty: float, interval_s: float | None) -> float:
    """Return the uncertainty of a run's energy, which is the meter's own or, where that is more, comes of its lag."""
    return min(1.0, max(uncertainty, (interval_s or 0.0) / 2 / _RUN_S))


def _stated_uncertainty(folder: Path) -> float:
    """Return what the meter says of its own accuracy in percent (ACPI specification, ``_PMC``), but no less than ours."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)%", read_text(folder / "power1_accuracy") or "")
    accuracy = float(number[1]) / 100 if number else 0.0
    return max(_UNCERTAINTY, 1 - accuracy) if 0 < accuracy <= 1 else _UNCERTAINTY
