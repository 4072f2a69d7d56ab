"""Simulated hardware whose true energy is known, and whose power is set by a training loop.

The true energy is the integral of the power that the loop set, at the instants at which it set it: a sleep that lasts longer
than requested is not an error of a tool.
"""

import ctypes
import math
import random
import threading
from bisect import bisect_right
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
        ramp_s: Time constant in s with which the power of the GPUs changes; 0: at once.
        lag_s: The GPUs are so many s behind the loop.
    """

    gpus: int = 1
    refresh_s: float = 0.1
    batch_s: float = 0.06
    seconds: float = 10.0
    epochs: int = 4
    seed: int = 0
    fault: Fault = ""
    ramp_s: float = 0.0
    lag_s: float = 0.0

    @property
    def shaped(self) -> bool:
        """Whether power varies within a phase."""
        return self.ramp_s > 0 or self.lag_s > 0

    @property
    def wait_s(self) -> float:
        """Mean wait for data in s."""
        return self.batch_s / 2


class Relaxing:
    """Power that follows what is set, some time later and with a time constant, with its exact integral.

    Args:
        watts: Power before anything is set.
        ramp_s: The time constant in s; 0: at once.
        lag_s: The time in s after which it begins to follow.
    """

    def __init__(self, watts: float, ramp_s: float, lag_s: float) -> None:
        """Draw this power from now on."""
        self._ramp_s, self._lag_ns = ramp_s, round(lag_s * NS_PER_S)
        self._times = [monotonic_clock()]
        self._stretches = [(watts, watts, 0.0)]  # power at the begin, power to which it relaxes, energy up to the begin

    def set(self, watts: float) -> None:
        """Follow another power from now on."""
        begins = monotonic_clock() + self._lag_ns
        self._stretches.append((self.watts(begins), watts, self.joules(begins)))
        self._times.append(begins)  # last, because another thread searches it

    def watts(self, time_ns: int) -> float:
        """Return the power in W at an instant."""
        (begin, target, _), passed = self._stretch(time_ns)
        return target + (begin - target) * self._decay(passed)

    def joules(self, time_ns: int) -> float:
        """Return the energy in J up to an instant."""
        (begin, target, before), passed = self._stretch(time_ns)
        return before + target * passed + (begin - target) * self._ramp_s * (1 - self._decay(passed))

    def _stretch(self, time_ns: int) -> tuple[tuple[float, float, float], float]:
        place = max(0, bisect_right(self._times, time_ns) - 1)
        return self._stretches[place], (time_ns - self._times[place]) / NS_PER_S

    def _decay(self, passed: float) -> float:
        return math.exp(-passed / self._ramp_s) if self._ramp_s and passed > 0 else float(passed <= 0)


class World:
    """GPUs, or a processor, that draw the power that is set."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        """Start the simulation in this process."""
        self.random = random.Random(spec.seed)  # noqa: S311 - no secret
        self._spec = spec
        self._tree: SimulatedPowercap | None = None
        self._relaxing = [Relaxing(ASLEEP_WATTS, spec.ramp_s, spec.lag_s) for _ in range(spec.gpus)] if spec.shaped else []
        if spec.fault == "wrap":
            self._curve = PowerCurve(monotonic_clock, ASLEEP_WATTS)
            self._tree = SimulatedPowercap(folder / "powercap", monotonic_clock, wrap_joules=WRAP_JOULES)
            self._tree.package(self._curve)
            self.place = Place(gpus=0, powercap=self._tree.files.root)
        else:
            self.driver = SimulatedDriver(folder)
            self.driver.start(spec.gpus, watts=ASLEEP_WATTS, curves=self._relaxing)
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
        if self._relaxing:
            for curve, power in zip(self._relaxing, powers, strict=True):
                curve.set(power)
            return sum(curve.joules(monotonic_clock()) for curve in self._relaxing)
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
