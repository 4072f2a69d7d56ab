"""Simulated hardware whose true energy is known, and whose power is set by a training loop.

The true energy is the integral of the power that the loop set, at the instants at which it set it: a sleep that lasts longer
than requested is not an error of a tool.
"""

import ctypes
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.testing import PowerCurve
from ml_energy_callbacks.testing.nvml import SimulatedDriver
from ml_energy_callbacks.testing.powercap import SimulatedPowercap

from .tools import Place

Fault = Literal["", "wrap", "outage", "reload"]

ASLEEP_WATTS, WAIT_WATTS, COMPUTE_WATTS = 1.0, 90.0, 420.0
"""Before and after the run, while the loop waits for data, and while it computes."""
NOISE = 0.03
"""Each phase's power varies by up to this fraction."""
SPREAD = 0.2
"""Each phase's length varies by up to this fraction."""
WRAP_JOULES = 1000.0
"""A processor's counter wraps after 65 kJ or more; here early enough to wrap in a short run."""
OUTAGE_S = 2.0
GPU_IS_LOST = 15


@dataclass(frozen=True, slots=True)
class Spec:
    """A simulation and the loop in it.

    Attributes:
        gpus: Number of GPUs.
        refresh_s: Refresh period of their counters in s.
        batch_s: Mean length of a batch's computing in s; the wait for its data takes half of it.
        seconds: Length of the run in s.
        epochs: Number of equally long epochs.
        seed: Seed of all random variation.
        fault: The fault, after a third of the run. The wrap is that of a processor's counter, which replaces the GPUs.
    """

    gpus: int = 1
    refresh_s: float = 0.1
    batch_s: float = 0.06
    seconds: float = 10.0
    epochs: int = 4
    seed: int = 0
    fault: Fault = ""

    @property
    def wait_s(self) -> float:
        """Mean wait for data in s."""
        return self.batch_s / 2


class World:
    """GPUs, or a processor, that draw the power that is set."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        """Start the simulation in this process."""
        self.random = random.Random(spec.seed)  # noqa: S311 - no secret
        self._spec = spec
        self._tree: SimulatedPowercap | None = None
        if spec.fault == "wrap":
            self._curve = PowerCurve(monotonic_clock, ASLEEP_WATTS)
            self._tree = SimulatedPowercap(folder / "powercap", monotonic_clock, wrap_joules=WRAP_JOULES)
            self._tree.package(self._curve)
            self.place = Place(gpus=0, powercap=self._tree.files.root)
        else:
            self.driver = SimulatedDriver(folder)
            self.driver.start(spec.gpus, watts=ASLEEP_WATTS)
            for gpu in range(spec.gpus):
                offset_s = monotonic_clock() / NS_PER_S - self.random.random() * spec.refresh_s
                self.driver.set_refresh(spec.refresh_s, offset_s, gpu=gpu)
            # PyDLL keeps the interpreter's lock: no other thread runs between setting a power and reading the true energy.
            self._library = ctypes.PyDLL(str(self.driver.library))
            self._library.sim_set_power.argtypes = [ctypes.c_int, ctypes.c_double]
            self._library.sim_true_joules.restype = ctypes.c_double
            self.place = Place(gpus=spec.gpus)
        self.draw(ASLEEP_WATTS)

    def draw(self, watts: float) -> float:
        """Set the power of each device, and return the true energy of all up to now in J, with an arbitrary zero."""
        powers = [watts * self.vary(NOISE) for _ in range(max(1, self.place.gpus))]
        if self._tree:
            self._curve.set(powers[0])
            return self._curve.joules()
        for gpu, power in enumerate(powers):
            self._library.sim_set_power(gpu, power)
        return sum(self._library.sim_true_joules(gpu) for gpu in range(len(powers)))

    def vary(self, share: float) -> float:
        """Return a random factor of 1 plus or minus this fraction."""
        return 1 + share * (2 * self.random.random() - 1)

    def schedule_fault(self) -> None:
        """Schedule the fault after a third of the run."""
        after_s = self._spec.seconds / 3
        if self._spec.fault == "outage":
            for gpu in range(self.place.gpus):
                self.driver.set_error(GPU_IS_LOST, gpu, after_s=after_s, for_s=OUTAGE_S)
        if self._spec.fault == "reload":
            timer = threading.Timer(after_s, self.driver.reload)
            timer.daemon = True
            timer.start()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Keep the simulated files up to date."""
        if self._tree is None:
            yield
            return
        with self._tree.files.live():
            yield
