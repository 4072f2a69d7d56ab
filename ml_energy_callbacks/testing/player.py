"""Plays the lines of a recording through a session: the code of a live run, under a manual clock and without its threads."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ml_energy_callbacks.attribution.steps import at_once
from ml_energy_callbacks.attribution.timeline import LONGEST_QUEUE, Event
from ml_energy_callbacks.backends.discovery import Discovery
from ml_energy_callbacks.clock import NS_PER_S, Timing
from ml_energy_callbacks.exceptions import ReadError
from ml_energy_callbacks.meter.loop import LoopDescription
from ml_energy_callbacks.meter.options import MeterOptions
from ml_energy_callbacks.meter.sampler import Sampler
from ml_energy_callbacks.meter.session import Session
from ml_energy_callbacks.metrics import OUTSIDE, Part, Phase
from ml_energy_callbacks.readings import Device, Reading, Source
from ml_energy_callbacks.record.recording import Accept, Close, Epoch, Fit, Idle, Line, Mark, Readings, Start, Uncertainty
from ml_energy_callbacks.record.schema import RunRecord, Status
from ml_energy_callbacks.testing.clocks import ManualClock

if TYPE_CHECKING:
    from ml_energy_callbacks.attribution.device_fit import FitTask
    from ml_energy_callbacks.attribution.ledger import Ledger

CUT_SHORT = "The recording ends before the run does."


class _RecordedDevice:
    """A device of a recording; its readings are there already."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def read(self) -> float:
        msg = f"{self.device.id} is a device of a recording"
        raise ReadError(msg)

    def close(self) -> None:
        pass


class _FedSampler(Sampler):
    """A sampler that is given the readings, instead of threads that read devices."""

    def start(self) -> Sequence[Source]:
        self._closed: set[str] = set()
        return ()

    def play_line(self, line: Readings | Uncertainty | Fit | Close) -> None:
        """Do what a live run's threads did then."""
        if isinstance(line, Readings):
            self._feed_readings(line)
        elif isinstance(line, Uncertainty):
            self._change_uncertainty(line)
        elif isinstance(line, Fit):
            self._review()
        else:
            self._close_devices(line.devices)

    def _feed_readings(self, readings: Readings) -> None:
        for poller in self._pollers.values():
            names = {source.device.id for source in poller.sources} & readings.devices.keys()
            for name in names:
                for each in readings.devices[name]:
                    power = None if each.watts is None else (each.power_ns, each.watts)
                    poller.hold(name, Reading(each.started_ns, each.ended_ns, each.value), power)
            if names:
                poller.feed_ledgers()

    def _change_uncertainty(self, uncertainty: Uncertainty) -> None:
        """Change a device's uncertainty, from the next readings on."""
        for poller in self._pollers.values():
            for source in poller.sources:
                if isinstance(source, _RecordedDevice) and source.device.id == uncertainty.device:
                    source.device = dataclasses.replace(source.device, relative_uncertainty=uncertainty.relative_uncertainty)

    def _close_devices(self, names: Collection[str]) -> None:
        """End the reading of devices, by their ids; those that share a poller end together, with the last of them."""
        self._closed.update(names)
        for poller in self._pollers.values():
            if self._closed.issuperset(source.device.id for source in poller.sources):
                poller.close()

    def stop(self, end: int) -> Sequence[Source]:
        self._end = end
        for poller in self._pollers.values():
            poller.close()
        return ()


class Player:
    """Plays lines, and returns the record of their run.

    Events of the loop go into the queue of the timeline, as from hooks, and readings through the pollers to the ledgers.
    """

    def __init__(self, first: Start, carbon_intensity: float | None = None, pue: float = 1.0) -> None:
        """Prepare a session that began as its first line says.

        Args:
            first: That line.
            carbon_intensity: In g CO2e per kWh; None for the world average.
            pue: Power usage effectiveness of the data centre.
        """
        since = first.ns if first.outside_ns is None else min(first.ns, first.outside_ns)
        began, clock = datetime.fromisoformat(first.started_at), ManualClock(since)
        timing = Timing(clock, clock.advance, lambda: began + timedelta(seconds=(clock() - first.ns) / NS_PER_S))
        options = MeterOptions(sample_interval=first.sample_interval, carbon_intensity=carbon_intensity, pue=pue, verbose=False)
        self._clock = clock
        self._devices = first.devices
        self._sampler: _FedSampler | None = None
        self._ending: Status | None = None
        self._begun: dict[Event, Event] = {}
        self._run_id = first.id
        self._fits: dict[tuple[int, str], tuple[Ledger, list[FitTask]]] = {}  # that are not used yet, by number and device
        self._session = Session(options, timing, self._make_sampler, self._find)

    def _find(self, *_: object, **__: object) -> Discovery:
        return Discovery([_RecordedDevice(device) for device in self._devices], {}, {}, {}, place="from this recording")

    def _make_sampler(self, *arguments: Any) -> Sampler:  # noqa: ANN401 - those of a sampler
        self._sampler = _FedSampler(*arguments)
        return self._sampler

    def play_lines(self, lines: Iterable[Line]) -> RunRecord:
        """Play lines that are in the order of their times.

        Raises:
            RecordError: They come from a file that is damaged further on.
        """
        try:
            for line in lines:
                self._play_line(line)
        finally:
            self._stop()
        record = self._session.build()
        run = replace(record.run, hostnames=[], launcher=None, job_id=None)  # this machine is not that of the run
        record.run = run if self._run_id is None else replace(run, id=self._run_id)
        return record

    def _play_line(self, line: Line) -> None:
        if isinstance(line, Start):
            self._stop()  # as of the line before
        self._clock.now_ns = max(self._clock.now_ns, line.ns)
        if isinstance(line, Mark):
            self._add_mark(line)
        elif isinstance(line, Fit) and line.number is not None:
            number = line.number
            self._fits.update({(number, name): (ledger, tasks) for name, ledger, tasks in self._session.begin_fit()[1]})
        elif isinstance(line, Accept):
            self._accept(line)
        elif isinstance(line, Epoch):
            self._session.add_epoch(line.epoch)
        elif isinstance(line, Readings | Uncertainty | Fit | Close):
            if self._sampler is not None:
                self._sampler.play_line(line)
        elif isinstance(line, Start):
            self._devices = line.devices
            self._session.devices.incomplete |= line.incomplete
            self._session.start(LoopDescription(framework=line.framework), self)
        elif isinstance(line, Idle):
            self._session.idle_watts = line.watts
        else:
            self._ending = line.status  # the readings that follow belong to it, too

    def _accept(self, line: Accept) -> None:
        """Use the fits of a device from now on."""
        ledger, tasks = self._fits.pop((line.number, line.device), (None, ()))
        if ledger is not None:
            for task in tasks:
                at_once(task.steps())
            ledger.accept(tasks)

    def _stop(self) -> None:
        status, self._ending = self._ending, None
        if self._session.running:
            self._session.stop(status or "stopped", None if status else CUT_SHORT)
            self._sampler = None

    def _add_mark(self, mark: Mark) -> None:
        timeline, bucket = self._session.timeline, self._bucket(mark.stage, mark.phase)
        if mark.kind == "samples":
            timeline.add_samples(timeline.groups[bucket], mark.samples or 0, mark.batches)
            return
        begin: Event | None = None
        if mark.begun is not None:
            ns, stage, phase = mark.begun
            like: Event = ("begin", ns, self._bucket(stage, phase), 0, None, None)
            begin = self._begun.pop(like, like)  # the timeline tells events apart
        size = mark.samples if mark.tokens is None else (mark.samples, mark.tokens)
        event: Event = (mark.kind, mark.ns, bucket, mark.batches, size, begin)
        if mark.kind == "begin":
            self._begun[event] = event
        timeline.queue.append(event)
        if len(timeline.queue) > LONGEST_QUEUE:
            timeline.drain_queue()

    def _bucket(self, stage: str | None, phase: Phase | Part) -> int:
        return OUTSIDE if stage is None else self._session.stages.bucket(stage, phase)
