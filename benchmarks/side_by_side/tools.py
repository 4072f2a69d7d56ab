"""One adapter for each tool, so that all measure the same work.

Each tool is used as its own documentation says, with two changes: it reads the processor's counters in the simulated tree, and
it has no network access to look up its location. A tool is used once: started, stopped, and queried.
"""

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from side_by_side import driver_gaps

JOULES_PER_KWH = 3.6e6
LONGEST_REFRESH_S = 0.5
"""A window of ours is known when the counters have refreshed after its end; the longest time to wait for that."""

Question = Literal["total", "epoch", "batch", "split"]
"""What a tool measures: energy of the run, of windows as long as an epoch, of single batches, or of compute and data wait."""


@dataclass(frozen=True, slots=True)
class Place:
    """The simulated hardware that is measured.

    Attributes:
        gpus: Number of GPUs of the simulated driver that this process has loaded, or finds by its environment.
        powercap: Root of a simulated powercap tree; None if no processor is measured.
    """

    gpus: int = 1
    powercap: Path | None = None


class Tool(Protocol):
    """Something that measures energy.

    Attributes:
        name: Name of the tool.
        package: Name on the package index, for its version; None if there is no tool.
        cannot: Reasons why it cannot answer a question, in a sentence each.
    """

    name: ClassVar[str]
    package: ClassVar[str | None]
    cannot: ClassVar[Mapping[str, str]]

    def __init__(self, place: Place, question: Question, *, cheap: bool) -> None:
        """Import it and configure it for a question.

        Args:
            place: What is measured.
            question: What it is to measure.
            cheap: Whether to use the settings of lowest cost, instead of those of lowest error.
        """

    def start(self) -> None:
        """Begin to measure."""

    def stop(self) -> None:
        """End."""

    def begin(self, key: str) -> None:
        """Begin a window of this name: an epoch or a batch, depending on the question."""

    def end(self, key: str) -> None:
        """End it."""

    def total_joules(self) -> float | None:
        """Return the energy of the run in J, after the stop; None if it is unknown."""

    def windows(self) -> dict[str, float | None]:
        """Return the energy of each window in J, after the stop."""


def version_of(name: str) -> str:
    """Return the version of a tool; empty if there is no tool."""
    package = TOOLS[name].package
    return "" if package is None else version(package)


def make(name: str, place: Place, question: Question = "total", *, cheap: bool = False) -> Tool:
    """Return a tool of this name, configured for a question."""
    return TOOLS[name](place, question, cheap=cheap)


class Nothing:
    """No tool."""

    name = "none"
    package = None
    cannot: ClassVar = dict.fromkeys(("total", "epoch", "batch", "split"), "Nothing is measured.")

    def __init__(self, place: Place, question: Question, *, cheap: bool) -> None:
        pass

    def start(self) -> None:
        """Do nothing."""

    stop = start

    def begin(self, key: str) -> None:
        """Do nothing."""

    end = begin

    def total_joules(self) -> None:
        """Return nothing."""

    def windows(self) -> dict[str, float | None]:
        """Return nothing."""
        return {}


class Ours:
    """ml_energy_callbacks: a meter whose batches are marked.

    Attributes:
        meter: The meter.
        record_event: Records a GPU event at the start and end of each batch; None to use the host's time.
    """

    name = "ours"
    package = "ml-energy-callbacks"
    cannot: ClassVar = {}

    def __init__(self, place: Place, question: Question, *, cheap: bool) -> None:
        from ml_energy_callbacks import EnergyMeter
        from ml_energy_callbacks.backends.nvml import NvmlBackend
        from ml_energy_callbacks.backends.rapl import RaplBackend

        backends = [NvmlBackend()] if place.gpus else []
        if place.powercap:
            backends.append(RaplBackend(place.powercap))
        self.meter = EnergyMeter(backends=backends, carbon_intensity=400, verbose=False)
        self.record_event: Callable[[], Any] | None = None
        self._question = question
        self._open: dict[str, Any] = {}
        self._windows: dict[str, Any] = {}

    def start(self) -> None:
        """Start the meter in the stage of training."""
        from ml_energy_callbacks import LoopDescription

        self.meter.start(LoopDescription(record_event=self.record_event))
        self.meter.begin_stage("train")

    def stop(self) -> None:
        """Wait until the last window is known, as its documentation says, and stop the meter."""
        last = next(reversed(self._windows.values()), None)
        limit = time.monotonic() + LONGEST_REFRESH_S
        while last is not None and last.joules is None and time.monotonic() < limit:
            time.sleep(0.01)
        self.meter.end_stage()
        self.meter.stop()

    def begin(self, key: str) -> None:
        """Open a window, and mark the start if it is a batch."""
        self._open[key] = context = self.meter.window()
        self._windows[key] = context.__enter__()
        if self._question != "epoch":
            self.meter.batch_start()

    def end(self, key: str) -> None:
        """Mark the end and close the window."""
        if self._question != "epoch":
            self.meter.batch_end()
        self._open.pop(key).__exit__(None, None, None)

    def total_joules(self) -> float | None:
        """Return the total of the record."""
        return self.meter.record.total.joules

    def windows(self) -> dict[str, float | None]:
        """Return the windows."""
        return {key: window.joules for key, window in self._windows.items()}


class Zeus:
    """ZeusMonitor with begin_window and end_window.

    `sync_execution=False`: the loops do not use CUDA. A short window is approximated from the power if errors are measured.

    Attributes:
        monitor: The monitor.
    """

    name = "zeus"
    package = "zeus"
    cannot: ClassVar = {}

    def __init__(self, place: Place, question: Question, *, cheap: bool) -> None:
        from zeus.device.cpu import rapl
        from zeus.monitor import ZeusMonitor

        driver_gaps.fill()
        logging.getLogger("zeus").setLevel(logging.ERROR)
        if place.powercap:
            rapl.RAPL_DIR = str(class_view(place.powercap) / "intel-rapl")
        self._make = lambda: ZeusMonitor(
            gpu_indices=list(range(place.gpus)),
            cpu_indices=None if place.powercap else [],
            approx_instant_energy=question in {"batch", "split"} and not cheap,
        )
        self._found: dict[str, float | None] = {}
        self._total: float | None = None

    def start(self) -> None:
        """Open a window for the whole run."""
        self.monitor = self._make()
        self.monitor.begin_window("the run", sync_execution=False)

    def stop(self) -> None:
        """Close it."""
        self._total = _zeus_joules(self.monitor.end_window("the run", sync_execution=False))

    def begin(self, key: str) -> None:
        """Begin a window."""
        self.monitor.begin_window(key, sync_execution=False)

    def end(self, key: str) -> None:
        """End it."""
        self._found[key] = _zeus_joules(self.monitor.end_window(key, sync_execution=False))

    def total_joules(self) -> float | None:
        """Return the energy of the window around the run."""
        return self._total

    def windows(self) -> dict[str, float | None]:
        """Return the windows."""
        return self._found


def _zeus_joules(found: Any) -> float:
    parts = (found.gpu_energy, found.cpu_energy or {}, found.dram_energy or {})
    return sum(sum(part.values()) for part in parts)


class CodeCarbon:
    """OfflineEmissionsTracker: start and stop for the run, start_task and stop_task for windows; nothing is saved.

    Its estimates are left out: memory always, and the processor if it has no simulated counter.

    Attributes:
        tracker: The tracker.
    """

    name = "codecarbon"
    package = "codecarbon"
    cannot: ClassVar = {}

    def __init__(self, place: Place, question: Question, *, cheap: bool) -> None:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.core import cpu, gpu
        from codecarbon.external import hardware

        driver_gaps.fill()
        gpu.is_nvidia_system = lambda: place.gpus > 0  # it checks whether `nvidia-smi` can be run
        self._with_cpu = place.powercap is not None
        if place.powercap:
            folder = str(class_view(place.powercap) / "intel-rapl")
            available = cpu.is_rapl_available
            cpu.is_rapl_available = lambda: available(folder)
            hardware.CPU.__init__.__defaults__ = (folder, *hardware.CPU.__init__.__defaults__[1:])
        self._options = {
            "country_iso_code": "FRA",
            "output_methods": [],
            "log_level": "critical",
            "rapl_include_dram": True,
            "gpu_ids": list(range(place.gpus)) or None,
            **({} if cheap else {"measure_power_secs": 1}),
        }
        self._make = OfflineEmissionsTracker
        self._tasks = question != "total"
        self._found: dict[str, float | None] = {}

    def start(self) -> None:
        """Start the tracker; if tasks are measured, they start it."""
        self.tracker = self._make(**self._options)
        if self._tasks:
            self.tracker.get_detected_hardware()  # otherwise the first task does this, and takes a second longer
        else:
            self.tracker.start()

    def stop(self) -> None:
        """Stop it."""
        self.tracker.stop()

    def begin(self, key: str) -> None:
        """Start a task."""
        self.tracker.start_task(key)

    def end(self, key: str) -> None:
        """Stop it."""
        self._found[key] = self._joules(self.tracker.stop_task(key))

    def total_joules(self) -> float | None:
        """Return the energy of the run, which is that of its tasks if there are any."""
        data = getattr(self.tracker, "final_emissions_data", None)
        return None if data is None else self._joules(data)

    def _joules(self, data: Any) -> float:
        return (data.gpu_energy + (data.cpu_energy if self._with_cpu else 0)) * JOULES_PER_KWH

    def windows(self) -> dict[str, float | None]:
        """Return the tasks."""
        return self._found


class CarbonTracker:
    """CarbonTracker with epoch_start and epoch_end; the run is one epoch unless epochs are measured.

    The power usage effectiveness by which it multiplies the energy is divided out again.

    Attributes:
        tracker: The tracker.
    """

    name = "carbontracker"
    package = "carbontracker"
    _WHY = "It samples power in a thread and averages it over an epoch; it has no call for anything shorter."
    cannot: ClassVar = {"batch": _WHY, "split": _WHY}

    def __init__(self, place: Place, question: Question, *, cheap: bool) -> None:
        import geocoder
        from carbontracker import constants
        from carbontracker.components.cpu import intel
        from carbontracker.tracker import CarbonTracker as Tracker

        geocoder.ip = _no_network
        if place.powercap:
            intel.RAPL_DIR = str(class_view(place.powercap))
        self._pue = constants.PUE_2023
        self._epochs = question == "epoch"
        parts = ["gpu"] * bool(place.gpus) + ["cpu"] * bool(place.powercap)
        self._make = lambda: Tracker(
            epochs=1_000_000,  # it stops by itself after the last one, and cannot be queried any more
            epochs_before_pred=0,
            update_interval=1 if cheap else 0.01,
            interpretable=False,
            ignore_errors=True,
            components=",".join(parts),
            verbose=0,
        )
        self._keys: list[str] = []
        self._joules: list[float] = []

    def start(self) -> None:
        """Start the tracker and, if the run is one epoch, the epoch."""
        with _to_stderr():
            self.tracker = self._make()
        if not self._epochs:
            self.tracker.epoch_start()

    def stop(self) -> None:
        """End the epoch, read the energy and stop the tracker."""
        with _to_stderr():
            if not self._epochs:
                self.tracker.epoch_end()
            thread = self.tracker.tracker
            self._joules = [kwh * JOULES_PER_KWH / self._pue for kwh in thread.total_energy_per_epoch()]
            self.tracker.stop()

    def begin(self, key: str) -> None:
        """Start an epoch."""
        self._keys.append(key)
        self.tracker.epoch_start()

    def end(self, key: str) -> None:
        """End it."""
        with _to_stderr():
            self.tracker.epoch_end()

    def total_joules(self) -> float | None:
        """Return the sum of the epochs."""
        return float(sum(self._joules))

    def windows(self) -> dict[str, float | None]:
        """Return the epochs."""
        return {key: float(joules) for key, joules in zip(self._keys, self._joules, strict=False)}


def _no_network(*_: object, **__: object) -> None:
    """Replace the look-up of the location by network.

    Raises:
        ConnectionError: Always.
    """
    msg = "The benchmark has no network."
    raise ConnectionError(msg)


@contextlib.contextmanager
def _to_stderr():
    """Redirect the output of the block to stderr, without warnings: stdout is for the results."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def class_view(powercap: Path) -> Path:
    """Return a folder that shows a tree like `/sys/class/powercap`: a flat link for each counter, and one to their root."""
    view = powercap.with_name(f"{powercap.name}-class")
    control = view / "intel-rapl"
    if not control.exists():
        control.mkdir(parents=True)
        for zone in sorted(powercap.glob("intel-rapl:*")):
            (control / zone.name).symlink_to(zone)
            (view / zone.name).symlink_to(zone)
            for part in sorted(zone.glob("intel-rapl:*")):
                (view / part.name).symlink_to(part)
    return view


TOOLS: Mapping[str, type[Tool]] = {tool.name: tool for tool in (Nothing, Ours, Zeus, CodeCarbon, CarbonTracker)}
