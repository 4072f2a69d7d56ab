"""The devices of a run: those that were found, the ledger of each, and the warnings about them."""

import _thread
import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from ml_energy_callbacks.attribution.cross_check import LIMIT
from ml_energy_callbacks.attribution.ledger import Ledger, Mark, is_long_gap
from ml_energy_callbacks.attribution.power_trace import MOST_SLICES
from ml_energy_callbacks.attribution.timeline import Look, Timeline
from ml_energy_callbacks.backends.discovery import Discovery, check_devices, discover, unread_gpus
from ml_energy_callbacks.clock import NS_PER_S, Timing
from ml_energy_callbacks.deadline.calls import ThreadError, close
from ml_energy_callbacks.meter.process_share import is_share, open_shares
from ml_energy_callbacks.meter.recorder import Recorder
from ml_energy_callbacks.meter.sampler import Poller
from ml_energy_callbacks.readings import Backend, Device, Kind, Source
from ml_energy_callbacks.record.power import MOST_IN_ALL

_RETURN_NS = 5 * NS_PER_S
"""A counter that has jumped may return: for so long it is not said that energy is missing."""


_LOWER_BOUND = "The total is a lower bound."


class Devices:
    """The devices that are measured; a ledger is continued when its device is found again.

    Attributes:
        found: The devices found last, and why others were not.
        sources: The devices that are open, or were last.
        counted: Ledgers of the devices whose energy is that of the run, by their ids.
        beside: Ledgers of what is reported beside it: meters of the whole machine, and the job's shares of devices.
        unshared: Why the job's share of a device is not known, by its id.
        incomplete: Whether, at some start, the energy of a device that belongs to the run could not be read.

    Args:
        choice: ``"auto"``, or ids and globs.
        interval_s: Mean time between two reads of a device, in s.
        backends: Hardware to look for; None for all that is known.
        timing: Clock, and how long hardware is waited for.
        find: Finds the devices, as :func:`ml_energy_callbacks.backends.discovery.discover` does.

    Raises:
        ConfigurationError: The choice cannot be one.
    """

    def __init__(
        self,
        choice: Literal["auto"] | Sequence[str],
        interval_s: float,
        backends: Sequence[Backend] | None,
        timing: Timing,
        find: Callable[..., Discovery] = discover,
    ) -> None:
        """Touch no hardware yet."""
        check_devices(choice)
        self._choice = choice
        self._interval_s = interval_s
        self._backends = backends
        self._timing = timing
        self._find = find
        self.found = Discovery((), {}, {}, {})
        self.sources: Sequence[Source] = ()
        self.counted: dict[str, Ledger] = {}
        self.beside: dict[str, Ledger] = {}
        self.unshared: Mapping[str, str] = {}
        self._pairs: list[tuple[Source, Ledger]] = []
        self._threads = True  # whether any could be started to open the devices
        self._lacking: str | None = None
        self.incomplete = False
        self._opened_for: object = None
        self._resting: weakref.finalize[..., Any] | None = None

    # ---------------------------------------------------------------------------------------------------- open and close

    def open(self, gpus: Collection[str] | None, accelerator: Kind | None) -> None:
        """Open the devices of this machine, unless they are still open from the last start.

        Args:
            gpus: The GPUs that the job runs on, as in :func:`ml_energy_callbacks.backends.discover`.
            accelerator: Kind of device that it computes on beside the processor, or None.

        Raises:
            ConfigurationError: A device id is unknown.
        """
        wanted = (os.getpid(), None if gpus is None else frozenset(gpus), accelerator)
        before, self._opened_for = self._opened_for, wanted
        if self._resting is not None:
            self._resting.detach()
            self._resting = None
            if before == wanted:
                return
            self.close()
        self.found, self.sources = Discovery((), {}, {}, {}), ()
        self._threads = True
        try:
            self.found = self._find(self._choice, backends=self._backends, gpus=gpus, timing=self._timing)
        except ThreadError:
            self._threads = False
        self.sources = self.found.sources
        self._lacking = self._find_lacking(gpus or (), accelerator) if self._choice == "auto" else None
        self.incomplete = self.incomplete or self._lacking is not None or any(d.missing is not None for d in self.opened)

    def _find_lacking(self, gpus: Collection[str], accelerator: Kind | None) -> str | None:
        """Return the warning that devices which the job computes on cannot be read; None where all can be."""
        if accelerator is None:
            return None
        name = accelerator.upper()
        devices = [device for device in self.opened if not device.whole_machine]
        own = [device for device in devices if accelerator == device.kind or accelerator in device.covers]
        if not own:
            return (
                f"The loop runs on a {name}, but no {name} can be read on this machine: its energy is missing. {_LOWER_BOUND}"
            )
        unread = unread_gpus(own, gpus)
        if not unread:
            return None
        names = ", ".join(unread)
        return f"The loop runs on {len(gpus)} {name}s, of which {names} cannot be read: their energy is missing. {_LOWER_BOUND}"

    def close_others(self, names: Collection[str]) -> None:
        """Close all devices except those with these ids."""
        close(source for source in self.sources if source.device.id not in names)
        self.sources = [source for source in self.sources if source.device.id in names]

    def open_ledgers(self, pids: Collection[int] | None) -> None:
        """Give each device its ledger.

        Args:
            pids: The job's processes on this host, whose share of each device gets one, too; None where that is not asked for.
        """
        self._pairs = [
            (source, self._open_ledger(self.beside if source.device.whole_machine else self.counted, source))
            for source in self.sources
        ]
        if pids is not None:
            parts = [source for source in self.sources if not source.device.whole_machine]
            shares, self.unshared = open_shares(parts, self.counted, pids, self._timing.clock)
            self._pairs += [(share, self._open_ledger(self.beside, share)) for share in shares]
        for ledger in self.counted.values():
            ledger.power.most = min(MOST_SLICES, MOST_IN_ALL // len(self.counted))

    def _open_ledger(self, ledgers: dict[str, Ledger], source: Source) -> Ledger:
        name = source.device.id
        if name in ledgers:
            ledgers[name].reopen(source.device, self._interval_s)
        else:
            ledgers[name] = Ledger(source.device, self._interval_s)
        return ledgers[name]

    def pollers(
        self, timeline: Timeline, lock: AbstractContextManager[Any], recorder: Recorder | None = None
    ) -> Mapping[str, Poller]:
        """Return a poller for the quick devices, which share its wake-ups, and one for those of each backend that are not.

        Args:
            timeline: What ran when.
            lock: Held while ledgers change.
            recorder: Gets the readings, too; None for nobody.
        """
        groups: dict[str, list[tuple[Source, Ledger]]] = {}
        for source, ledger in self._pairs:
            name = f"{source.device.backend}-slow" if source.device.min_interval_s else "quick"
            groups.setdefault(name, []).append((source, ledger))
        return {name: Poller(group, timeline, self._interval_s, lock, recorder) for name, group in groups.items()}

    def close(self, hanging: Sequence[Source] = ()) -> None:
        """Close the devices, except those whose driver does not return."""
        close(source for source in self.sources if not any(source is other for other in hanging))

    def rest(self) -> None:
        """Keep the devices open for the next start, which then takes no time for them, or until this object ends."""
        self._resting = weakref.finalize(self, _close_unheard, self.sources)
        self._resting.atexit = False  # the system closes what a process had open

    # ---------------------------------------------------------------------------------------------------- energy

    @property
    def all(self) -> Sequence[tuple[str, Ledger]]:
        """Each ledger with its device's id."""
        return [*self.counted.items(), *self.beside.items()]

    def backend_of(self, name: str) -> str:
        """Return the backend of a device that is counted, by its id."""
        return self.counted[name].device.backend

    @property
    def whole_machine(self) -> Sequence[Ledger]:
        """Ledgers of the meters of the whole machine."""
        return [ledger for ledger in self.beside.values() if ledger.device.whole_machine]

    @property
    def shares(self) -> Sequence[Ledger]:
        """Ledgers of the job's shares of devices."""
        return [ledger for ledger in self.beside.values() if not ledger.device.whole_machine]

    @property
    def opened(self) -> Sequence[Device]:
        """Descriptions of the open devices."""
        return [source.device for source in self.sources]

    def mark(self, look: Look) -> Mark:
        """Request the energy at the instant of a look; the caller holds the lock of the pollers."""
        read = {device.id for device in self.opened}
        ledgers = [ledger for name, ledger in self.counted.items() if name in read]
        mark = Mark(look.now, look.totals, frozenset(ledger.device.id for ledger in ledgers))
        for ledger in ledgers:
            ledger.add_mark(mark)
        return mark

    def silent(self, now: int) -> frozenset[str]:
        """Return the ids of the devices that cannot be read at this clock (ns)."""
        return frozenset(ledger.device.id for _, ledger in self.all if ledger.finder.silent_since(now) is not None)

    # ---------------------------------------------------------------------------------------------------- warnings

    def missing_warnings(self) -> Iterator[str]:
        """Yield warnings of devices that were not found, or cannot be trusted."""
        if not self._threads:
            yield no_threads("the devices")
        if self._lacking is not None:
            yield self._lacking
        yield from self.found.refused.values()
        yield from (device.missing for device in self.opened if device.missing is not None)
        if self._choice == "auto":
            yield from (device.unread for device in self.opened if device.unread is not None)
            yield from (f"Not measured: {error}" for error in self.found.unavailable.values() if error.present)
        known = {device.id for device in self.opened} | self.found.left_out.keys()
        for name in (self.counted.keys() | self.beside.keys()) - known:
            if not is_share(name):
                yield f"{name} can no longer be read; its energy from now on is not included."

    def counter_warnings(self, *, ended: bool = False) -> Iterator[str]:
        """Yield warnings of readings that cannot be trusted, as far as that is known by now.

        Args:
            ended: Whether the run has ended, so that no counter can return from a jump any more.
        """
        now = self._timing.clock()
        for name, ledger in self.all:
            finder = ledger.finder
            if finder.frozen:
                yield f"The energy counter of {name} did not update for 5 s or longer; its energy in that time is not included."
            if ledger.doubtful:
                energy = "its power is integrated instead" if finder.bridged else "its energy in that time is not included"
                yield f"{name} showed more than {finder.most_watts:,.0f} W, which it cannot draw; {energy}."
            elif finder.resets and (ended or now - finder.reset_ns > _RETURN_NS):
                yield f"The energy counter of {name} was reset or jumped; its energy just before that is not included."
            elif finder.bridged:
                yield f"The energy counter of {name} jumped; its power was integrated in that moment instead."
            if finder.returned:
                yield f"The energy counter of {name} jumped and returned; what it showed in between was not counted."
            if ledger.contradictory:
                yield (
                    f"The energy counter of {name} and its readings of power contradict each other on the energy of phases; "
                    "the intervals that are reported contain both."
                )
            if ledger.check.suspicious:
                yield (
                    f"The energy counter of {name} differs from the device's integrated power by more than {LIMIT:.0%} "
                    "(cross_check in the record); its uncertainty was increased."
                )

    def gap_warnings(self, run_ns: float) -> Iterator[str]:
        """Yield warnings of devices whose energy is missing for much of the run, which has ended and took so many ns."""
        for name, ledger in self.all:
            # Of a share, that is normal.
            if is_long_gap(ledger.unknown_ns, run_ns) and not is_share(name):
                unknown, seconds = ledger.unknown_ns / NS_PER_S, run_ns / NS_PER_S
                yield f"{name} could not be read for {unknown:,.1f} of {seconds:,.1f} s; its energy then is not included."


def no_threads(devices: str) -> str:
    """Return the warning that no thread could be started to read these devices."""
    return (
        f"No thread can be started to read {devices}: their energy is not included. Raise the limit of this user's processes "
        "and threads (`ulimit -u`, or the container's --pids-limit)."
    )


def _close_unheard(sources: Sequence[Source]) -> None:
    """Close devices without waiting for their drivers.

    The garbage collector calls this at any instant, such as while ``threading`` holds a lock of its own, and while the
    interpreter ends: no thread of that module may be started then.
    """
    if not sys.is_finalizing():
        with contextlib.suppress(RuntimeError):  # no thread is left: the system closes what a process had open
            _thread.start_new_thread(_close_all, (sources,))


def _close_all(sources: Sequence[Source]) -> None:
    for source in sources:
        with contextlib.suppress(Exception):  # of a driver, or of somebody's backend
            source.close()
