"""Simulated hardware that Linux provides as files: Intel's GPUs, Jetson modules, Arm servers, ACPI power meters, batteries.

Each is a tree below a folder, with the names of the real drivers. It draws the power of its curve and follows its clock, as
:class:`ml_energy_callbacks.testing.SimulatedFiles` does, whose ``live`` is available as ``files.live``::

    gpu = SimulatedIntelGpu(tmp_path, clock, SquareCurve(50, 200, period_s=0.5))
    sources = IntelGpuBackend(root=gpu.root).open()
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ml_energy_callbacks.clock import NS_PER_S, Clock
from ml_energy_callbacks.testing.curves import Curve, refreshed
from ml_energy_callbacks.testing.files import SimulatedFiles

_VOLTS = 5.0
_CHANNELS = 3
"""Channels of an INA3221."""


class _Hardware:
    """A tree whose numbers can be replaced by garbage.

    Attributes:
        files: The tree's files.
        root: The folder that the backend reads.
    """

    def __init__(self, folder: Path, clock: Clock, root: str) -> None:
        self.files = SimulatedFiles(folder, clock)
        self.root = folder / root
        self.root.mkdir(parents=True, exist_ok=True)
        self._numbers: dict[str, Callable[[int], float]] = {}

    def fail(self) -> None:
        """Replace all numbers by garbage."""
        for path in self._numbers:
            file = self.files.root / path
            self.files.let_go(file)
            file.write_text("none\n", encoding="ascii")

    def mend(self) -> None:
        """Restore the numbers."""
        for path, number in self._numbers.items():
            self.files.follow(path, number)

    def _follow(self, path: str, number: Callable[[int], float]) -> None:
        self._numbers[path] = number
        self.files.follow(path, number)

    def _chip(self, device: str, name: str) -> str:
        """Create the next hwmon chip of a device, with the links to it and back; return its folder."""
        number = sum(1 for _ in self.root.iterdir())
        chip = f"devices/{device}/hwmon/hwmon{number}"
        self.files.fix(f"{chip}/name", name)
        (self.files.root / chip / "device").symlink_to("../..")
        (self.root / f"hwmon{number}").symlink_to((self.files.root / chip).resolve())
        return chip


class SimulatedIntelGpu(_Hardware):
    """An Intel card, or several: each :meth:`card` adds one."""

    def __init__(self, folder: Path, clock: Clock, curve: Curve | None = None) -> None:
        """Create the hwmon class in ``folder``, with a card that draws ``curve`` if one is given."""
        super().__init__(folder, clock, "class/hwmon")
        if curve is not None:
            self.card(curve)

    def card(
        self,
        curve: Curve,
        *,
        address: str = "0000:03:00.0",
        driver: str = "xe",
        channels: Mapping[str, float] | None = None,
        period_s: float = 0.01,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        """Add a card.

        Args:
            curve: Its power.
            address: Its PCI address.
            driver: ``xe``, which labels its channels, or ``i915``, which has one without a label.
            channels: Its counters, ``card`` and ``pkg``, with their share of the curve; None for both, with 80 % of the
                card's power for the package.
            period_s: Refresh period of its counters in s.
            limits: Its power limits in W, by the names of their files, such as ``power1_crit``.
        """
        chip = self._chip(f"pci0000:00/{address}", driver)
        for name, watts in (limits or {}).items():
            self.files.fix(f"{chip}/{name}", round(1e6 * watts))
        shares = {"card": 1.0, "pkg": 0.8} if channels is None else channels
        for label, share in shares.items():
            # The driver's channel 0 is the card, 1 the package; hwmon counts from 1.
            number = 2 if label == "pkg" and driver == "xe" else 1
            if driver == "xe":
                self.files.fix(f"{chip}/energy{number}_label", label)
            self._follow(f"{chip}/energy{number}_input", _counter(curve, 1e6 * share, period_s))


class SimulatedJetson(_Hardware):
    """The supply rails of a Jetson module."""

    def __init__(self, folder: Path, clock: Clock, rails: Mapping[str, Curve], *, driver: str = "ina3221") -> None:
        """Create the I2C devices in ``folder``.

        Args:
            folder: The folder.
            clock: Clock of the module.
            rails: Power of each rail, by the rail's name.
            driver: ``ina3221``, Linux's own, which reports mV and mA; or ``ina3221x`` of JetPack 4 and older, with mW.
        """
        super().__init__(folder, clock, "bus/i2c/devices")
        for place, (name, curve) in enumerate(rails.items()):
            chip, channel = divmod(place, _CHANNELS)
            self._rail(f"bus/i2c/devices/1-004{chip}", driver, channel, name, curve, chip)

    def _rail(self, device: str, driver: str, channel: int, name: str, curve: Curve, chip: int) -> None:
        self.files.fix(f"{device}/name", driver)
        if driver == "ina3221x":
            self.files.fix(f"{device}/iio:device{chip}/rail_name_{channel}", name)
            self._follow(f"{device}/iio:device{chip}/in_power{channel}_input", _power(curve, 1e3))
            return
        folder = f"{device}/hwmon/hwmon{chip}"
        self.files.fix(f"{folder}/in{channel + 1}_label", name)
        self._follow(f"{folder}/in{channel + 1}_input", lambda _: 1e3 * _VOLTS)
        self._follow(f"{folder}/curr{channel + 1}_input", _power(curve, 1e3 / _VOLTS))


class SimulatedPowerMeters(_Hardware):
    """ACPI power meters, and the sensors of Ampere's processors."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Create the hwmon class in ``folder``, without a meter."""
        super().__init__(folder, clock, "class/hwmon")

    def meter(
        self,
        curve: Curve,
        *,
        label: str = "",
        interval_s: float = 1.0,
        accuracy: str = "100.0%",
        with_device: bool = True,
        share: float = 1.0,
    ) -> None:
        """Add an ACPI power meter, which reports the mean of its last whole interval.

        Args:
            curve: The power that it measures.
            label: Its label (``power1_oem_info``).
            interval_s: Its averaging interval in s.
            accuracy: Its stated accuracy.
            with_device: Whether its files are in the folder of the ACPI device, as up to Linux 6.15, or of the chip.
            share: Share of the curve that it measures.
        """
        number = sum(1 for _ in self.root.iterdir())
        device = f"LNXSYSTM:00/ACPI000D:{number:02d}"
        chip = self._chip(device, "power_meter")
        place = f"devices/{device}" if with_device else chip
        self.files.fix(f"{place}/power1_oem_info", label)
        self.files.fix(f"{place}/power1_is_battery", 0)
        self.files.fix(f"{place}/power1_accuracy", accuracy)
        self.files.fix(f"{place}/power1_average_interval", round(1000 * interval_s))

        def mean_microwatts(now: int) -> float:
            end = refreshed(now, interval_s)
            return 1e6 * share * (curve.joules(end) - curve.joules(end - round(interval_s * NS_PER_S))) / interval_s

        self._follow(f"{place}/power1_average", mean_microwatts)

    def grace(self, curve: Curve, *, socket: int = 0, with_gpu: bool = False) -> None:
        """Add the meters of an NVIDIA Grace socket.

        Args:
            curve: Power of the processor and its memory.
            socket: The socket's number.
            with_gpu: Whether it shares a module with a GPU, whose meter then reports three times the power.
        """
        for name, share in (("Grace", 1.0), ("CPU", 0.6), ("SysIO", 0.1)):
            self.meter(curve, label=f"{name} Power Socket {socket}", interval_s=0.05, share=share)
        if with_gpu:
            self.meter(curve, label=f"Module Power Socket {socket}", interval_s=0.05, share=3.0)

    def altra(self, curve: Curve, *, address: str = "APMC0D8A:00", cores: float = 0.7) -> None:
        """Add the sensors of an Ampere Altra socket.

        Args:
            curve: Power of the processor.
            address: Name of its ACPI device.
            cores: The cores' share of the curve; the rest is input and output.
        """
        chip = self._chip(address, "apm_xgene")
        for number, label, share in ((1, "CPU power", cores), (2, "IO power", 1 - cores)):
            self.files.fix(f"{chip}/power{number}_label", label)
            self._follow(f"{chip}/power{number}_input", _power(curve, 1e6 * share))


class SimulatedBatteries(_Hardware):
    """A laptop's batteries and its power supply, which is not plugged in at first."""

    def __init__(
        self, folder: Path, clock: Clock, curves: Sequence[Curve], *, tells_current: bool = False, supply: str = "Mains"
    ) -> None:
        """Create the power supplies in ``folder``.

        Args:
            folder: The folder.
            clock: Clock of the batteries.
            curves: Power of each battery while it discharges; all discharge at first.
            tells_current: Whether they report current and voltage instead of power.
            supply: Linux's name for the kind of power supply, such as ``Mains``, or ``USB`` for one by USB-C.
        """
        super().__init__(folder, clock, "class/power_supply")
        self.files.fix("class/power_supply/AC/type", supply)
        self.count = len(curves)
        self.unplug()
        for number, curve in enumerate(curves):
            battery = f"class/power_supply/BAT{number}"
            self.files.fix(f"{battery}/type", "Battery")
            if tells_current:
                self._follow(f"{battery}/voltage_now", lambda _: 1e6 * _VOLTS)
                self._follow(f"{battery}/current_now", _power(curve, 1e6 / _VOLTS))
            else:
                self._follow(f"{battery}/power_now", _power(curve, 1e6))

    def status(self, number: int, word: str) -> None:
        """Set the status of a battery: ``Discharging``, ``Charging``, ``Full`` or ``Not charging``."""
        self.files.fix(f"class/power_supply/BAT{number}/status", word)

    def plug_in(self, status: str = "Charging") -> None:
        """Plug in the power supply; the batteries then have this status."""
        self._supply(1, status)

    def unplug(self) -> None:
        """Unplug the power supply."""
        self._supply(0, "Discharging")

    def _supply(self, online: int, status: str) -> None:
        self.files.fix("class/power_supply/AC/online", online)
        for number in range(self.count):
            self.status(number, status)


def _power(curve: Curve, per_watt: float) -> Callable[[int], float]:
    return lambda now: per_watt * curve.watts(now)


def _counter(curve: Curve, per_joule: float, period_s: float) -> Callable[[int], float]:
    return lambda now: per_joule * curve.joules(refreshed(now, period_s))
