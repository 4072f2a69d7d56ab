"""Simulated energy counters of processors in Linux's powercap tree, driven by power curves."""

import shutil
from collections.abc import Callable
from pathlib import Path

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.testing.curves import Curve, refreshed
from ml_energy_callbacks.testing.files import SimulatedFiles

WRAP_JOULES = 262_143.328850
"""``max_energy_range_uj`` of processors that count in 61 µJ, by Linux's arithmetic: 2^32 - 1 times 61,035 nJ."""

_READABLE = 0o644
_CLOSED = 0o200
"""On a real machine the mode is 0400 and the owner root; here the simulation still has to write the file."""


class SimulatedZone:
    """One counter of the tree, and its faults.

    Attributes:
        name: Content of its file ``name``.
        folder: Its folder, below the root of the files.
        microjoules: Value of the counter as a function of the clock in ns.
    """

    def __init__(self, files: SimulatedFiles, folder: str, name: str, microjoules: Callable[[int], float]) -> None:
        """Create a counter in a folder; called by :class:`SimulatedPowercap`."""
        self.name = name
        self.folder = folder
        self._files = files
        self.microjoules = microjoules
        self._files.fix(f"{folder}/name", name)
        self._files.follow(f"{folder}/energy_uj", microjoules)

    @property
    def file(self) -> Path:
        """The counter's file, ``energy_uj``."""
        return self._files.root / self.folder / "energy_uj"

    def freeze(self) -> None:
        """Freeze the counter."""
        self._files.let_go(self.file)

    def spoil(self, text: str = "garbage") -> None:
        """Replace the number by another text, which is empty for a counter whose device is gone."""
        self._files.let_go(self.file)
        self.file.write_text(text, encoding="utf-8")

    def remove(self) -> None:
        """Remove the file, as when the kernel module is unloaded; open descriptors then read nothing."""
        self.spoil("")
        self.file.unlink()

    def restore(self) -> None:
        """End the faults of the counter: it shows its energy again, in a new file if the old one was removed."""
        self._files.follow(f"{self.folder}/energy_uj", self.microjoules)

    def limit(self, watts: float, constraint: int = 0) -> None:
        """Set a power limit of the zone: 0 for sustained power, 1 for short peaks."""
        self._files.fix(f"{self.folder}/constraint_{constraint}_power_limit_uw", round(1e6 * watts))

    def deny(self) -> None:
        """Make the counter readable only by root, as in Linux by default."""
        self.file.chmod(_CLOSED)

    def allow(self) -> None:
        """Make the counter readable by all users."""
        self.file.chmod(_READABLE)


class SimulatedPowercap:
    """A powercap tree: ``RaplBackend(root)`` reads it.

    Attributes:
        files: The tree's files; :meth:`SimulatedFiles.live` updates them in real time.
        wrap_joules: Modulus of the counters in J.
        refresh_s: Refresh period of the counters in s.
    """

    def __init__(self, root: Path, clock: Clock, *, wrap_joules: float = WRAP_JOULES, refresh_s: float = 0.001) -> None:
        """Create ``root`` with an empty tree."""
        self.files = SimulatedFiles(root, clock)
        self.wrap_joules = wrap_joules
        self.refresh_s = refresh_s
        self._counters = 0

    def package(self, curve: Curve, *, number: int = 0, die: int | None = None) -> SimulatedZone:
        """Add a processor, or one die of it.

        Args:
            curve: Its true power.
            number: Number of the package.
            die: Number of the die if the package has several.
        """
        return self._add_zone(
            None, f"package-{number}" if die is None else f"package-{number}-die-{die}", self._make_counter(curve)
        )

    def part(self, package: SimulatedZone, name: str, curve: Curve) -> SimulatedZone:
        """Add ``dram``, ``core`` or ``uncore`` below a package."""
        return self._add_zone(package.folder, name, self._make_counter(curve))

    def psys(self, curve: Curve) -> SimulatedZone:
        """Add the counter of the whole platform, which includes the packages."""
        return self._add_zone(None, "psys", self._make_counter(curve))

    def twin(self, zone: SimulatedZone, name: str) -> None:
        """Show the counter of a package or a die again under another name."""
        self._add_copy(zone, self._next_folder(None, "intel-rapl"), name)

    def mmio(self, zone: SimulatedZone) -> None:
        """Show a package again below ``intel-rapl-mmio``, as on laptops."""
        self._add_copy(zone, self._next_folder(None, "intel-rapl-mmio"), zone.name)

    def hide(self) -> None:
        """Hide the tree permanently, as Docker does: the links of the class remain, but lead nowhere."""
        for folder in list(self.files.root.iterdir()):
            shutil.rmtree(folder)
            folder.symlink_to(self.files.root / "devices/virtual/powercap" / folder.name)

    def _add_copy(self, zone: SimulatedZone, folder: str, name: str) -> None:
        self._write_limit(folder)
        # One file, so that both always show the same value, like one register.
        self.files.fix(f"{folder}/name", name).with_name("energy_uj").symlink_to(zone.file)

    def _add_zone(self, parent: str | None, name: str, microjoules: Callable[[int], float]) -> SimulatedZone:
        folder = self._next_folder(parent, "intel-rapl")
        self._write_limit(folder)
        return SimulatedZone(self.files, folder, name, microjoules)

    def _next_folder(self, parent: str | None, kind: str) -> str:
        """Return the next free folder."""
        stem = f"{kind}:" if parent is None else f"{parent}/{parent}:"
        return f"{stem}{len(list(self.files.root.glob(f'{stem}*')))}"

    def _write_limit(self, folder: str) -> None:
        self.files.fix(f"{folder}/max_energy_range_uj", round(self.wrap_joules * 1e6))

    def _make_counter(self, curve: Curve) -> Callable[[int], float]:
        """Return a counter with a start value of its own."""
        self._counters += 1
        start_joules = self.wrap_joules * (1 - 0.618**self._counters) - curve.joules(self.files.clock())
        wrap_microjoules = round(self.wrap_joules * 1e6)

        def microjoules(time_ns: int) -> float:
            joules = start_joules + curve.joules(refreshed(time_ns, self.refresh_s))
            return round(joules * 1e6) % wrap_microjoules

        return microjoules
