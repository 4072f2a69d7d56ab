"""A processor's energy counters as Linux's powercap tree shows them, driven by curves of power."""

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
"""On a real machine 0400 and root's; here the simulation goes on to write what the reader may not read."""


class SimulatedZone:
    """One counter of the tree, with all that can go wrong with it.

    Attributes:
        name: What its file ``name`` says.
        folder: Its folder, below the root of the files.
        microjoules: What the counter shows, as a function of the clock in ns.
    """

    def __init__(self, files: SimulatedFiles, folder: str, name: str, microjoules: Callable[[int], float]) -> None:
        """Show a counter in a folder; :class:`SimulatedPowercap` does that."""
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
        """Let the counter stand still."""
        self._files.let_go(self.file)

    def spoil(self, text: str = "garbage") -> None:
        """Let the file hold something else than a number; empty for a counter whose device is gone."""
        self._files.let_go(self.file)
        self.file.write_text(text, encoding="utf-8")

    def remove(self) -> None:
        """Let the file go, as when the kernel's module is unloaded; descriptors that are open read nothing any more."""
        self.spoil("")
        self.file.unlink()

    def restore(self) -> None:
        """End what was done to the counter: it shows its energy again, in a new file where the old one was removed."""
        self._files.follow(f"{self.folder}/energy_uj", self.microjoules)

    def deny(self) -> None:
        """Let only root read the counter, as Linux does by default."""
        self.file.chmod(_CLOSED)

    def allow(self) -> None:
        """Let everybody read the counter."""
        self.file.chmod(_READABLE)


class SimulatedPowercap:
    """A powercap tree: ``RaplBackend(root)`` reads it.

    Attributes:
        files: The tree's files; :meth:`SimulatedFiles.live` keeps them up to date in real time.
        wrap_joules: Modulus of the counters in J.
        refresh_s: Refresh period of the counters in s.
    """

    def __init__(self, root: Path, clock: Clock, *, wrap_joules: float = WRAP_JOULES, refresh_s: float = 0.001) -> None:
        """Begin with an empty tree in ``root``, which is made."""
        self.files = SimulatedFiles(root, clock)
        self.wrap_joules = wrap_joules
        self.refresh_s = refresh_s
        self._counters = 0

    def package(self, curve: Curve, *, number: int = 0, die: int | None = None) -> SimulatedZone:
        """Add a processor, or one die of it.

        Args:
            curve: Its true power.
            number: Number of the package.
            die: Number of the die, where the package has several.
        """
        return self._add(None, f"package-{number}" if die is None else f"package-{number}-die-{die}", self._count(curve))

    def part(self, package: SimulatedZone, name: str, curve: Curve) -> SimulatedZone:
        """Add ``dram``, ``core`` or ``uncore`` below a package."""
        return self._add(package.folder, name, self._count(curve))

    def psys(self, curve: Curve) -> SimulatedZone:
        """Add the counter of the whole platform, which contains the packages."""
        return self._add(None, "psys", self._count(curve))

    def twin(self, zone: SimulatedZone, name: str) -> None:
        """Show the counter of a package or a die once more under another name."""
        self._again(zone, self._place(None, "intel-rapl"), name)

    def mmio(self, zone: SimulatedZone) -> None:
        """Show a package once more below ``intel-rapl-mmio``, as laptops do."""
        self._again(zone, self._place(None, "intel-rapl-mmio"), zone.name)

    def hide(self) -> None:
        """Hide the tree for good, as Docker does: the links of the class stay, and lead nowhere."""
        for folder in list(self.files.root.iterdir()):
            shutil.rmtree(folder)
            folder.symlink_to(self.files.root / "devices/virtual/powercap" / folder.name)

    def _again(self, zone: SimulatedZone, folder: str, name: str) -> None:
        self._limit(folder)
        # One file, so that both show the same at each instant, as one register does.
        self.files.fix(f"{folder}/name", name).with_name("energy_uj").symlink_to(zone.file)

    def _add(self, parent: str | None, name: str, microjoules: Callable[[int], float]) -> SimulatedZone:
        folder = self._place(parent, "intel-rapl")
        self._limit(folder)
        return SimulatedZone(self.files, folder, name, microjoules)

    def _place(self, parent: str | None, kind: str) -> str:
        """Return the next free folder."""
        stem = f"{kind}:" if parent is None else f"{parent}/{parent}:"
        return f"{stem}{len(list(self.files.root.glob(f'{stem}*')))}"

    def _limit(self, folder: str) -> None:
        self.files.fix(f"{folder}/max_energy_range_uj", round(self.wrap_joules * 1e6))

    def _count(self, curve: Curve) -> Callable[[int], float]:
        """Return a counter of its own: each has counted something else before."""
        self._counters += 1
        start_joules = self.wrap_joules * (1 - 0.618**self._counters) - curve.joules(self.files.clock())
        wrap_microjoules = round(self.wrap_joules * 1e6)

        def microjoules(time_ns: int) -> float:
            joules = start_joules + curve.joules(refreshed(time_ns, self.refresh_s))
            return round(joules * 1e6) % wrap_microjoules

        return microjoules
