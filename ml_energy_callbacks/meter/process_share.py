"""This job's share of the machine's energy: always estimated, and reported in addition to the machine's energy."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import psutil

from ml_energy_callbacks.attribution.ledger import Ledger
from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import ReadError
from ml_energy_callbacks.readings import CpuTimeSource, Device, SharedSource, Source

BACKEND: Final = "process"

_UNCERTAINTY = 0.5
"""Our assumption: power is not simply proportional to use, and idle power is divided in proportion to use as well."""

_INTERVAL_S = 1.0
_FRESH_NS = NS_PER_S // 2
"""For this long, the shares of several devices use the same figures of the processes."""


def is_share(name: str) -> bool:
    """Return whether the device of this id is the job's share of another one."""
    return name.startswith(f"{BACKEND}:")


class ProcessTree:
    """The processes of the job on this host and all their descendants, including those that have ended.

    The kernel adds an ended child's time to its parent's when the parent waits for it, so that the sum stays complete.
    """

    def __init__(
        self, pids: Collection[int], clock: Clock = monotonic_clock, busy_seconds: Callable[[], float] | None = None
    ) -> None:
        """Read the processes' CPU times for the first time.

        Args:
            pids: The job's own processes; one that has already ended is ignored.
            clock: Monotonic clock in ns.
            busy_seconds: Returns the CPU time in s of which theirs is a share; None for that of the whole machine.
        """
        self._clock = clock
        self._busy_seconds = _busy_seconds if busy_seconds is None else busy_seconds
        self._roots = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        self._cpu_seconds = self._sum = 0.0
        self._fell = False
        self.pids: Collection[int] = ()
        self._read_times()
        self._taken_ns = clock()
        self._before = (self._cpu_seconds, self._busy_seconds())
        self._share = 0.0

    def _read_times(self) -> None:
        seconds, pids = 0.0, []
        for process in self._found():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue  # it has just ended; its parent is about to get its time
            pids.append(process.pid)
            seconds += times.user + times.system
            seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        self.pids = pids
        # The sum falls for an instant while a child's time moves to its parent, and permanently if a child is orphaned.
        fell = seconds < self._sum
        if not fell:
            self._cpu_seconds += seconds - self._sum
        if not fell or self._fell:
            self._sum = seconds
        self._fell = fell

    def _found(self) -> Iterator[psutil.Process]:
        seen: set[int] = set()  # one of the job's processes may have started another
        for root in self._roots:
            with contextlib.suppress(psutil.Error):
                for process in [root, *root.children(recursive=True)]:
                    if process.pid not in seen:
                        seen.add(process.pid)
                        yield process

    def cpu_share(self) -> float:
        """Return these processes' share of all CPU time since the times were last read, between 0 and 1."""
        now = self._clock()
        if now - self._taken_ns >= _FRESH_NS:
            self._taken_ns = now
            self._read_times()
            own, busy = self._cpu_seconds - self._before[0], self._busy_seconds() - self._before[1]
            self._before = (self._cpu_seconds, self._before[1] + busy)
            self._share = min(1.0, own / busy) if busy > 0 else 0.0
        return self._share


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    # The users' times already include the guests' time.
    return sum(times) - times.idle - sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice", "steal"))


class _Share:
    """A device's joules, multiplied by the job's share of its use."""

    def __init__(self, ledger: Ledger, share: Callable[[], float | None]) -> None:
        whole = ledger.device
        self.device: Device = replace(
            whole,
            id=f"{BACKEND}:{whole.id}",
            backend=BACKEND,
            method="model",
            provenance="estimated",
            relative_uncertainty=min(1.0, math.hypot(whole.relative_uncertainty, _UNCERTAINTY)),
            wrap_joules=None,
            update_period_s=0.0,
            note=f"This job's share of the use of {whole.id}.",
            min_interval_s=_INTERVAL_S,
        )
        self._ledger = ledger
        self._share = share
        self._seen = ledger.finder.joules
        self._joules = 0.0

    def read(self) -> float:
        """Return the joules of the job since this source was opened."""
        joules = self._ledger.finder.joules
        passed, self._seen = joules - self._seen, joules
        share = self._share()
        if share is None:
            msg = f"{self._ledger.device.id} does not report which processes use it."
            raise ReadError(msg)
        self._joules += share * passed
        return self._joules

    def close(self) -> None:
        """Do nothing: the device belongs to another source."""


def open_shares(
    sources: Sequence[Source], ledgers: Mapping[str, Ledger], pids: Collection[int], clock: Clock = monotonic_clock
) -> tuple[Sequence[Source], Mapping[str, str]]:
    """Return the sources of the job's shares of devices, and why other devices have none, by their ids.

    Args:
        sources: The devices.
        ledgers: The devices' ledgers, by their ids.
        pids: The job's own processes on this host.
        clock: Monotonic clock in ns.
    """
    tree = ProcessTree(pids, clock)
    shares: list[Source] = []
    unknown: dict[str, str] = {}
    for source in sources:
        device = source.device
        if isinstance(source, CpuTimeSource):
            shares.append(_Share(ledgers[device.id], ProcessTree(pids, clock, source.busy_seconds).cpu_share))
        elif device.kind == "cpu":
            shares.append(_Share(ledgers[device.id], tree.cpu_share))
        elif isinstance(source, SharedSource):
            shares.append(_Share(ledgers[device.id], _use(source, tree)))
        else:
            unknown[device.id] = f"{device.id} does not report which processes use it."
    return shares, unknown


def _use(source: SharedSource, tree: ProcessTree) -> Callable[[], float | None]:
    def share() -> float | None:
        tree.cpu_share()  # looks for new processes
        return source.process_share(tree.pids)

    return share
