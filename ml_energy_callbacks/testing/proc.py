"""Simulated process file system of Linux: the processors and their load."""

import os
from pathlib import Path

from ml_energy_callbacks.clock import NS_PER_S, Clock
from ml_energy_callbacks.testing.clocks import ManualClock
from ml_energy_callbacks.testing.curves import Curve


class SimulatedProc:
    """A process file system: ``CpuModelBackend(proc=root)`` and ``RaplBackend(proc=root)`` read it.

    Attributes:
        root: Its folder.
    """

    def __init__(self, root: Path, clock: Clock, load: Curve, *, threads: int = 4) -> None:
        """Show the load of hardware threads from the clock's present instant on.

        Args:
            root: The folder, which is created.
            clock: Clock of the load.
            load: The share of all threads that is busy, between 0 and 1, over time.
            threads: Number of hardware threads.
        """
        self.root = root
        self._clock = clock
        self._load = load
        self._threads = threads
        self._start_ns = clock()
        root.mkdir(parents=True, exist_ok=True)
        self.update()
        if isinstance(clock, ManualClock):
            clock.follow(self.update)

    def processor(
        self,
        name: str | None,
        *,
        vendor: str = "AuthenticAMD",
        virtual: bool = False,
        sockets: int = 1,
        cpuid: tuple[int, int, int] | None = None,
    ) -> None:
        """Set the processors' name, and CPUID's family, model and stepping.

        Args:
            name: The name; None for processors without one, such as Arm's.
            vendor: CPUID's vendor.
            virtual: Whether the machine is a guest.
            sockets: Number of processors.
            cpuid: Family, model and stepping; None for processors that state none.
        """
        lines = [f"processor\t: {thread}\n" for thread in range(self._threads)]
        if name is not None:
            flags = "fpu hypervisor" if virtual else "fpu"
            part = f"vendor_id\t: {vendor}\nmodel name\t: {name}\nflags\t\t: {flags}\n"
            if cpuid is not None:
                family, model, stepping = cpuid
                part += f"cpu family\t: {family}\nmodel\t\t: {model}\nstepping\t: {stepping}\n"
            lines = [f"{line}{part}physical id\t: {thread % sockets}\n" for thread, line in enumerate(lines)]
        (self.root / "cpuinfo").write_text("\n".join(lines), encoding="ascii")

    def memory(self, gigabytes: float) -> None:
        """Set the size of the memory in GB."""
        (self.root / "meminfo").write_text(f"MemTotal:       {round(gigabytes * 1e9 / 1024)} kB\n", encoding="ascii")

    def update(self) -> None:
        """Write the present load; in real time, the test calls this."""
        now = self._clock()
        ticks = os.sysconf("SC_CLK_TCK") * self._threads
        busy = round((self._load.joules(now) - self._load.joules(self._start_ns)) * ticks)
        idle = round((now - self._start_ns) / NS_PER_S * ticks) - busy
        (self.root / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n", encoding="ascii")
